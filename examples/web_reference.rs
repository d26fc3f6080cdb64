//! Prints the losses of the web page's training run on this machine, as the page's tests compare them:
//! `cargo run --example web_reference -- STEPS SEED`.

use wgrad::{Device, Result, demo::Demo};

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse().unwrap_or(1));
    let (steps, seed) = (numbers.next().unwrap_or(20), numbers.next().unwrap_or(1));
    let losses = pollster::block_on(run(steps, seed))?;
    let device = Device::cpu().to_string();
    println!("{}", serde_json::json!({ "device": device, "seed": seed, "losses": losses }));
    Ok(())
}

async fn run(steps: u64, seed: u64) -> Result<Vec<f32>> {
    let mut demo = Demo::new(&Device::cpu(), seed, None).await?;
    let mut losses = Vec::new();
    for _ in 0..steps {
        demo.step()?;
        losses.push(demo.loss().await?);
    }
    Ok(losses)
}
