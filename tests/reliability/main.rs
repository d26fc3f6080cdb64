//! Nothing is lost: faults in the middle of work, killed processes, full disks, threads, long runs, restarts. Tests that
//! need a process of their own start this program again: see [`child`].

#[path = "../common/mod.rs"]
mod common;

mod faults;
mod files;
#[cfg(target_os = "linux")]
mod memory;
mod repeat;
mod threads;

use std::process::Command;
use wgrad::graph::Mode;
use wgrad::models::mix::{MemoryConfig, MemoryStream, MemoryTransformer, Sampling};
use wgrad::nn::{Init, Linear, Params};
use wgrad::train::{AdamW, Trainer};
use wgrad::{Device, Result, Tensor, TensorType};

const BATCH: usize = 8;

fn batch(step: usize) -> Result<[Tensor; 2]> {
    let wave = |i: usize, k: f64| ((i as f64 + 1.0) * k + step as f64 * 0.61).sin() as f32;
    let x: Vec<f32> = (0..2 * BATCH).map(|i| wave(i, 1.9)).collect();
    let y = x.chunks(2).map(|p| p[0] * p[1]).collect();
    Ok([Tensor::f32([BATCH, 2], x)?, Tensor::f32([BATCH, 1], y)?])
}

/// A small network with dropout. `wide` makes its checkpoints take a while to write.
fn trainer(device: &Device, wide: usize) -> Result<Trainer> {
    let mut params = Params::new(9);
    let a = Linear::new(&mut params, "a", 2, wide, true);
    let b = Linear::new(&mut params, "b", wide, 1, true);
    params.add("scale", [1], Init::Constant(0.5));
    Trainer::builder(device, params, AdamW::default().lr(0.03)).clip(1.0).compile_blocking(move |g, p| {
        let x = g.input("x", TensorType::f32([BATCH, 2]));
        let y = g.input("y", TensorType::f32([BATCH, 1]));
        let h = a.forward(p, x).tanh().dropout(0.2, 1, Mode::Train);
        (b.forward(p, h) * p.get("scale") - y).square().mean_all()
    })
}

/// Losses of some steps, in bits.
fn run(trainer: &mut Trainer, steps: std::ops::Range<usize>) -> Result<Vec<u32>> {
    let mut losses = Vec::new();
    for step in steps {
        let [x, y] = batch(step)?;
        trainer.step(&[("x", &x), ("y", &y)])?;
        losses.push(trainer.loss_blocking()?.to_bits());
    }
    Ok(losses)
}

/// Tokens that a small model with memories draws after a text.
fn generate(device: &Device, count: usize) -> Result<Vec<Vec<u32>>> {
    let model = MemoryTransformer::new(MemoryConfig::from_json(
        r#"{"num_tokens": 11, "dim": 8, "segment": 5, "heads": 2, "layers": [
            {"attention": {"kind": "infini"}, "feed_forward": {"kind": "product_key", "num_keys": 4, "topk": 2}},
            {"attention": {"kind": "recurrent", "states": 3}, "long_memory": {"memories": 5, "selected": 3}}
        ]}"#,
    )?)?;
    let params = model.init(3);
    let plans = pollster::block_on(model.stream_plans(device, &params, 1))?;
    let store = params.store(device)?;
    let mut stream = MemoryStream::new(&plans)?;
    stream.feed(&store, &[&[1, 2, 3, 4, 5, 6, 7]])?;
    stream.generate_blocking(&store, count, Sampling { temperature: 0.9, top_k: Some(9), top_p: Some(0.95) }, 5)
}

const CHILD: &str = "WGRAD_TEST_CHILD";

/// This program again, to run one test with an argument; the test does nothing unless started like this.
fn child(test: &str, argument: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture"]).env(CHILD, argument);
    command
}

fn argument() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// A folder that is removed at the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("wgrad-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
