//! The mathematics in plain code and double precision, entry by entry: nothing here knows of the crate's operations.

use wgrad::ops::route::soft_top_k::{SoftTopK, Start};

/// Rows of numbers.
pub type Rows = Vec<Vec<f64>>;

/// What a masked logit counts as.
pub const LOWEST: f64 = -3.4028234663852886e38;

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `x W^T`, `w` the rows of W one after the other, each of `d`.
pub fn linear(x: &Rows, w: &[f64], d: usize) -> Rows {
    x.iter().map(|x| w.chunks(d).map(|w| dot(x, w)).collect()).collect()
}

/// `v / |v|`.
pub fn unit(v: &[f64]) -> Vec<f64> {
    let length = dot(v, v).sqrt().max(1e-12);
    v.iter().map(|v| v / length).collect()
}

pub fn rms_norm(x: &Rows, gamma: &[f64]) -> Rows {
    let root = (gamma.len() as f64).sqrt();
    x.iter().map(|x| unit(x).iter().zip(gamma).map(|(x, g)| x * root * g).collect()).collect()
}

pub fn layer_norm(x: &Rows, weight: &[f64], bias: &[f64]) -> Rows {
    let row = |x: &Vec<f64>| {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (variance + 1e-5).sqrt();
        x.iter().zip(weight.iter().zip(bias)).map(|(x, (w, b))| (x - mean) * scale * w + b).collect()
    };
    x.iter().map(row).collect()
}

pub fn softmax(x: &[f64]) -> Vec<f64> {
    let most = x.iter().copied().fold(f64::MIN, f64::max);
    let exps: Vec<f64> = x.iter().map(|x| (x - most).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

/// Softmax attention of one query; entry by entry (key, value, visible).
pub fn attend(q: &[f64], entries: &[(Vec<f64>, Vec<f64>, bool)]) -> Vec<f64> {
    let scale = (q.len() as f64).sqrt();
    let logits: Vec<f64> = entries.iter().map(|(k, _, seen)| if *seen { dot(q, k) / scale } else { LOWEST }).collect();
    let mut out = vec![0.0; q.len()];
    for (weight, (_, v, _)) in softmax(&logits).iter().zip(entries) {
        out.iter_mut().zip(v).for_each(|(o, v)| *o += weight * v);
    }
    out
}

/// Rotary embedding in the half layout at position `p`.
pub fn rotate(t: &[f64], p: usize) -> Vec<f64> {
    let d = t.len();
    let at = |i: usize| {
        let angle = p as f64 * 10_000f64.powf(-2.0 * (i % (d / 2)) as f64 / d as f64);
        let other = if i < d / 2 { -t[i + d / 2] } else { t[i - d / 2] };
        t[i] * angle.cos() + other * angle.sin()
    };
    (0..d).map(at).collect()
}

/// GELU; the error function as its Taylor series, or 1 where no digit is left.
pub fn gelu(x: f64) -> f64 {
    let z = x / 2f64.sqrt();
    let erf = if z.abs() > 5.5 {
        z.signum()
    } else {
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    };
    0.5 * x * (1.0 + erf)
}

/// The soft top-k `exp(min(s + a, 0) / eps)` of the entries that exist.
pub fn soft_top_k(s: &[f64], k: f64, how: &SoftTopK, mask: &[bool]) -> Vec<f64> {
    let valid = mask.iter().filter(|m| **m).count();
    if k <= 0.0 || valid == 0 {
        return vec![0.0; s.len()];
    }
    let (a, eps) = match how {
        SoftTopK::Exact { .. } if k >= valid as f64 => (1e9, 1.0),
        SoftTopK::Exact { eps } => (bisect(s, k, *eps, mask), *eps),
        SoftTopK::Iterations { .. } => iterate(s, k, how, mask),
    };
    let soft = |(s, m): (&f64, &bool)| if *m { ((s + a).min(0.0) / eps).exp() } else { 0.0 };
    s.iter().zip(mask).map(soft).collect()
}

/// The `a` at which the sum is k.
fn bisect(s: &[f64], k: f64, eps: f64, mask: &[bool]) -> f64 {
    let sum =
        |a: f64| -> f64 { s.iter().zip(mask).filter(|e| *e.1).map(|(s, _)| ((s + a).min(0.0) / eps).exp()).sum() };
    let (mut low, mut high) = (-1e4, 1e4);
    for _ in 0..120 {
        let middle = 0.5 * (low + high);
        *(if sum(middle) < k { &mut low } else { &mut high }) = middle;
    }
    low
}

/// The iterations as the package writes them, with a vector `b`: `a` and the last epsilon.
fn iterate(s: &[f64], k: f64, how: &SoftTopK, mask: &[bool]) -> (f64, f64) {
    let SoftTopK::Iterations { n, eps, eps_init, eps_decay, start } = how else { unreachable!() };
    let mut e = eps_init.unwrap_or(*eps).max(*eps);
    let first = |s: &f64| match start {
        Start::Scores => -s,
        Start::Relu => -s.max(0.0),
    };
    let (mut a, mut b) = (0.0, s.iter().map(first).collect::<Vec<_>>());
    for _ in 0..*n {
        let valid = s.iter().zip(&b).zip(mask).filter(|e| *e.1);
        let z: Vec<f64> = valid.map(|((s, b), _)| (s + b) / e).collect();
        let most = z.iter().copied().fold(f64::MIN, f64::max);
        a = e * (k.max(1e-20).ln() - most - z.iter().map(|z| (z - most).exp()).sum::<f64>().ln());
        b = s.iter().map(|s| -(s + a).max(0.0)).collect();
        e = (e * eps_decay).max(*eps);
    }
    (a, e)
}
