//! What the seeds have in common, and by how much they differ.

/// Mean and standard deviation over the seeds.
fn mean(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (mean, (squares / values.len().saturating_sub(1).max(1) as f64).sqrt())
}

/// Mean and standard deviation as text, with so many digits after the point.
pub fn spread(values: &[f64], digits: usize) -> String {
    let (mean, deviation) = mean(values);
    format!("{mean:.digits$} ± {deviation:.digits$}")
}

/// The same of what `of` takes from the runs of all seeds.
pub fn over<T>(runs: &[T], digits: usize, of: impl Fn(&T) -> f64) -> String {
    spread(&runs.iter().map(of).collect::<Vec<_>>(), digits)
}
