//! Time and memory of a plan.

use std::time::Instant;
use wgrad::{Feed, Plan, Result, Store, Tensor};

/// In units that read well.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{bytes} bytes"),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// Runs twice, prints the second time and the memory.
pub fn measure(plan: &Plan, store: &Store, queries: &Tensor, read: &str) -> Result<()> {
    let mut seconds = 0.0;
    let mut size_of = 0.0;
    for _ in 0..2 {
        let start = Instant::now();
        plan.run(&Feed::new().store(store).input("queries", queries))?;
        // Reading waits for the device.
        let result = plan.read_blocking(read)?;
        seconds = start.elapsed().as_secs_f64();
        size_of = result.floats().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    }
    let program = plan.program();
    let largest = program.buffers.iter().map(|b| b.ty.numel() as u64 * 4).max().unwrap_or(0);
    println!("  {seconds:.2} s; |{read}| = {size_of:.3e}");
    println!("  peak beside memories and parameters: {}", size(plan.bytes()));
    println!("  largest buffer: {}", size(largest));
    Ok(())
}
