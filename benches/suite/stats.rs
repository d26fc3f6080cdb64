//! Medians and what is around them.

/// The middle one; the mean of both where there are two.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => f64::NAN,
        _ if n % 2 == 1 => values[n / 2],
        _ => 0.5 * (values[n / 2 - 1] + values[n / 2]),
    }
}

/// Median distance from the median, as a share of it.
pub fn spread(values: &[f64]) -> f64 {
    let middle = median(&mut values.to_vec());
    let mut off: Vec<f64> = values.iter().map(|v| (v - middle).abs()).collect();
    median(&mut off) / middle
}

/// Exponent `e` of `y ~ x^e` by least squares of the logarithms.
pub fn exponent(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let (mx, my) = (logs.iter().map(|p| p.0).sum::<f64>() / n, logs.iter().map(|p| p.1).sum::<f64>() / n);
    let (mut above, mut below) = (0.0, 0.0);
    for (x, y) in &logs {
        above += (x - mx) * (y - my);
        below += (x - mx) * (x - mx);
    }
    above / below
}
