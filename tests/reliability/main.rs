//! Nothing is lost: faults in the middle of work, killed processes, full disks, threads, long runs, restarts. Tests that
//! need a process of their own start this program again: see [`child`].

#[path = "../common/mod.rs"]
mod common;

mod faults;
mod files;
mod repeat;
mod threads;

use std::process::Command;
use wgrad::graph::Mode;
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
