//! Reductions and what works on rows.

use crate::grow::{Grower, Value};
use wgrad::ops::select::Sampling;

type Made<'g> = Option<Value<'g>>;

pub fn sum<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?;
    if x.var.rank() == 0 || g.die(1, 5) == 0 {
        let n = x.var.shape().numel().max(1) as f64;
        return match g.die(2, 3) {
            0 => g.rounded(x.var.mean_all()),
            1 => g.rounded(x.var.square_sum() * (1.0 / n)),
            _ => g.bounded(x.var.sum_all(), Some(x.exact? * n)),
        };
    }
    let axis = g.axis(0, x.var);
    match g.die(1, 4) {
        0 if x.var.shape()[axis] > 0 => g.rounded(x.var.mean(axis)),
        1 => g.rounded(x.var.sum(axis).tanh()),
        2 => g.rounded((x.var.tanh().sum_of_squares(axis) * 0.3).tanh()),
        _ => g.bounded(x.var.sum(axis), x.exact.map(|b| b * x.var.shape()[axis].max(1) as f64)),
    }
}

pub fn sum_to<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?;
    let mut to = x.var.shape();
    let n = to.numel().max(1) as f64;
    let axis = g.axis(0, x.var);
    match g.die(1, 3) {
        0 => to.0[axis] = 1,
        1 => to.0.iter_mut().for_each(|d| *d = 1),
        _ => drop(to.0.drain(..axis)),
    }
    match x.exact {
        Some(b) => g.bounded(x.var.sum_to(to), Some(b * n)),
        None => g.rounded(x.var.sum_to(to).tanh()),
    }
}

pub fn extreme<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.exact_row(0)?;
    let axis = g.axis(0, x.var);
    if x.var.shape()[axis] == 0 {
        return None;
    }
    let y = if g.die(1, 2) == 0 { x.var.max(axis) } else { x.var.min(axis) };
    match g.bounded(y, x.exact)? {
        Value::Float(f) => Some(Value::Float(crate::grow::Float { smooth: false, ..f })),
        other => Some(other),
    }
}

pub fn argmax<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.exact_row(0)?.var;
    let axis = g.axis(0, x);
    let extent = x.shape()[axis];
    if extent == 0 {
        return None;
    }
    g.ints(x.argmax(axis), extent as u64)
}

pub fn softmax<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?.var;
    let axis = g.axis(0, x);
    let scale = [1.0, 1.0, 5.0][g.die(1, 3)];
    g.rounded((x * scale).softmax(axis))
}

pub fn logsumexp<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?.var;
    let axis = g.axis(0, x);
    if x.shape()[axis] == 0 {
        return None;
    }
    g.rounded(x.logsumexp(axis).tanh())
}

pub fn cumsum<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?;
    let axis = g.axis(0, x.var);
    let y = match g.die(1, 4) {
        0 => x.var.cumsum(axis),
        1 => x.var.cumsum_exclusive(axis),
        2 => x.var.cumsum_reverse(axis, true),
        _ => x.var.cumsum_reverse(axis, false),
    };
    match x.exact {
        Some(b) => g.bounded(y, Some(b * x.var.shape()[axis].max(1) as f64)),
        None => g.rounded(y.tanh()),
    }
}

pub fn norm<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?.var;
    let width = x.dim(-1);
    let gain = g.float_like(1, |f| *f.var.shape() == [width]).map(|f| f.var);
    // Short rows have no well-determined direction.
    let long = x.tanh() + 1.5;
    match g.die(0, 4) {
        0 => g.rounded(x.layer_norm(gain, None, 0.1)),
        1 => g.rounded(x.layer_norm(gain, gain.filter(|_| g.die(1, 2) == 0), 0.1)),
        2 => g.rounded(long.rms_norm(gain)),
        _ => g.rounded(long.l2_normalize(1e-12)),
    }
}

pub fn top_k<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.exact_row(0)?;
    let n = x.var.dim(-1);
    if n == 0 {
        return None;
    }
    let k = 1 + g.die(0, n);
    let masked = g.die(1, 2) == 0;
    let top = if masked { x.var.top_k_masked(k, g.mask(1, x.var.shape())) } else { x.var.top_k(k) };
    match g.die(2, 3) {
        0 => g.ints(top.indices, n as u64),
        // Masked values are the lowest float.
        _ if masked => g.rough(top.values.maximum(-100.0)),
        _ => match g.bounded(top.values, x.exact)? {
            Value::Float(f) => Some(Value::Float(crate::grow::Float { smooth: false, ..f })),
            other => Some(other),
        },
    }
}

pub fn product_top_k<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.exact_row(0)?;
    let mut like = x.var.shape();
    like.0.pop();
    let fits = |s: &[usize]| s.len() == like.len() + 1 && s.starts_with(&like);
    let y = g.float_like(1, |f| f.exact.is_some() && fits(&f.var.shape()))?;
    let pairs = x.var.dim(-1) * y.var.dim(-1);
    if pairs == 0 {
        return None;
    }
    let top = x.var.product_top_k(y.var, 1 + g.die(0, pairs.min(20)));
    match g.die(2, 3) {
        0 => g.ints(top.indices, pairs as u64),
        _ => match g.bounded(top.values, x.exact.zip(y.exact).map(|(a, b)| a + b))? {
            Value::Float(f) => Some(Value::Float(crate::grow::Float { smooth: false, ..f })),
            other => Some(other),
        },
    }
}

pub fn cross_entropy<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?.var;
    let mut rows = x.shape();
    let n = rows.0.pop()?;
    if n == 0 {
        return None;
    }
    let labels = g.indices(1, rows, n as u32 + 1);
    let ignore = [None, Some(-100), Some(1)][g.die(1, 3)];
    match g.die(0, 3) {
        0 => g.rounded(x.cross_entropy(labels, ignore).tanh()),
        1 => g.rounded(x.cross_entropy_mean(labels, ignore).tanh()),
        _ => g.bounded(x.cross_entropy_count(labels, ignore), Some(1500.0)),
    }
}

pub fn sample<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.exact_row(0)?.var;
    let n = x.dim(-1);
    if n == 0 {
        return None;
    }
    let sampling = Sampling {
        temperature: [0.0, 0.8, 1.0][g.die(0, 3)],
        top_k: [None, Some(1 + g.die(2, n))][g.die(1, 2)],
        top_p: [None, Some(0.713)][g.die(2, 2)],
    };
    g.ints(x.sample(&sampling, 3), n as u64)
}
