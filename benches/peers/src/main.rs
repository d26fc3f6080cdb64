//! Another library on the shapes of the benchmarks: `peers NAME cpu|gpu` answers a line of JSON for each line it reads.

#[cfg(feature = "burn")]
mod burn;
#[cfg(feature = "candle")]
mod candle;

use anyhow::Result;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, Write};
use std::time::Instant;

/// One run, waited for.
pub type Run = Box<dyn FnMut() -> Result<()>>;

/// A library on one device.
pub trait Library {
    /// Version and device.
    fn about(&self) -> String;

    /// `None` if it does not have the operation.
    fn prepare(&self, op: &str, dims: &[usize]) -> Result<Option<Run>>;
}

/// Values of deviation 1, and indices, from one seed.
pub struct Draw(ChaCha8Rng);

impl Draw {
    pub fn new() -> Draw {
        Draw(ChaCha8Rng::seed_from_u64(1))
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.0.random_range(-1.732f32..1.732)).collect()
    }

    pub fn below(&mut self, n: usize, most: usize) -> Vec<u32> {
        (0..n).map(|_| self.0.random_range(0..most as u32)).collect()
    }
}

/// The library of a name, if it runs on the device and was built in.
fn library(name: &str, device: &str) -> Option<Box<dyn Library>> {
    match (name, device) {
        #[cfg(feature = "burn")]
        ("burn", "gpu") => Some(Box::new(burn::Burn::new())),
        #[cfg(feature = "candle")]
        ("candle", "cpu") => Some(Box::new(candle::Candle)),
        _ => None,
    }
}

fn mib(name: &str) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches(':').trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}

/// Milliseconds of all threads.
#[cfg(unix)]
fn cpu_ms() -> Option<f64> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(1e3 * now.tv_sec as f64 + 1e-6 * now.tv_nsec as f64)
}

#[cfg(not(unix))]
fn cpu_ms() -> Option<f64> {
    None
}

#[derive(Default)]
struct Peer {
    run: Option<Run>,
    start: Option<f64>,
}

impl Peer {
    fn prepare(&mut self, library: &dyn Library, op: &str, dims: &[usize]) -> Result<Value> {
        self.run = None;
        // The mark of the most memory begins anew.
        let _ = fs::write("/proc/self/clear_refs", "5");
        self.start = mib("VmRSS");
        let start = Instant::now();
        let Some(mut run) = library.prepare(op, dims)? else { return Ok(json!({ "first_ms": null })) };
        run()?;
        self.run = Some(run);
        Ok(json!({ "first_ms": 1e3 * start.elapsed().as_secs_f64() }))
    }

    fn times(&mut self, count: usize) -> Result<Value> {
        let Some(run) = &mut self.run else { anyhow::bail!("nothing is prepared") };
        let before = cpu_ms();
        let mut all = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            run()?;
            all.push(1e3 * start.elapsed().as_secs_f64());
        }
        let used = cpu_ms().zip(before).map(|(after, before)| after - before);
        Ok(json!({ "ms": all, "cpu_ms": used }))
    }

    fn forget(&mut self) -> Value {
        let peak = mib("VmHWM").zip(self.start).map(|(most, start)| (most - start).max(0.0));
        self.run = None;
        json!({ "peak_mib": peak })
    }
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [name, device] = [0, 1].map(|i| words.get(i).map(String::as_str).unwrap_or_default());
    let library = library(name, device);
    let about = library.as_ref().map(|l| l.about()).unwrap_or_default();
    let answer = |value: Value| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{value}").and_then(|()| out.flush())
    };
    answer(json!({ "about": about }))?;
    let Some(library) = library else { return Ok(()) };
    let mut peer = Peer::default();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let result = match &words[..] {
            ["prepare", op, dims @ ..] => {
                let dims: Vec<usize> = dims.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
                peer.prepare(&*library, op, &dims)
            }
            ["run", count] => peer.times(count.parse()?),
            ["drop"] => Ok(peer.forget()),
            _ => return Ok(()),
        };
        answer(result.unwrap_or_else(|error| json!({ "first_ms": null, "error": format!("{error:#}") })))?;
    }
    Ok(())
}
