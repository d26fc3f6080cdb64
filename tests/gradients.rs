//! Gradients of every operation's samples against central differences, in f64.

use wgrad::check::sample as check;
use wgrad::ops::samples;

#[test]
fn tape_agrees_with_differences() {
    let mut failures = Vec::new();
    let filter = std::env::var("WGRAD_SAMPLE").unwrap_or_default();
    for sample in samples::all().into_iter().filter(|s| s.differentiable && s.name.contains(&filter)) {
        match pollster::block_on(check::gradient(&sample)) {
            Ok(worst) => println!("{:<40} {worst:.1e}", sample.name),
            Err(e) => failures.push(e.to_string()),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
