//! What a device can do at most, measured.

use super::Feed;
use super::explain::count;
use crate::device::{Device, clock};
use crate::error::Result;
use crate::graph::Graph;
use crate::types::{Tensor, TensorType};
use std::time::Duration;

/// What a device can do at most: no kernel is faster than its bytes at this bandwidth or its operations at this rate
/// (Williams, Waterman and Patterson 2009).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofline {
    /// Bytes read and written in a second.
    pub bytes_per_s: f64,
    /// Additions and multiplications in a second.
    pub operations_per_s: f64,
}

/// Runs of which the fastest counts.
const RUNS: usize = 5;

impl Roofline {
    /// The shortest time for so many bytes and operations.
    pub fn time(&self, bytes: u64, operations: u64) -> Duration {
        let time = (bytes as f64 / self.bytes_per_s).max(operations as f64 / self.operations_per_s);
        Duration::try_from_secs_f64(time).unwrap_or(Duration::MAX)
    }

    /// Measures this library's own copy and matrix product: half a second or so, up to 256 MiB. By the device's clock where
    /// it has one ([`GpuOptions::timestamps`](crate::GpuOptions::timestamps)), else by the host's.
    ///
    /// # Errors
    /// As [`Device::compile`] and [`Plan::run`](crate::Plan::run).
    pub async fn measure(device: &Device) -> Result<Roofline> {
        let small = device.as_gpu().is_none_or(|gpu| gpu.capabilities().software);
        let (rows, side) = if small { (1 << 13, 512) } else { (1 << 16, 2048) };
        let graph = Graph::new();
        let x = graph.state("x", TensorType::f32([rows, 512]));
        graph.assign(x, x + 1.0);
        let copy = best(device, &graph, "x", &TensorType::f32([rows, 512])).await?;
        let graph = Graph::new();
        let x = graph.state("x", TensorType::f32([side, side]));
        graph.assign(x, x.matmul(x));
        let product = best(device, &graph, "x", &TensorType::f32([side, side])).await?;
        Ok(Roofline {
            bytes_per_s: (rows * 512 * 8) as f64 / copy,
            operations_per_s: 2.0 * (side * side * side) as f64 / product,
        })
    }

    /// [`measure`](Self::measure), waiting on this thread.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn measure_blocking(device: &Device) -> Result<Roofline> {
        pollster::block_on(Self::measure(device))
    }
}

/// Seconds of the fastest run of a graph with one state.
async fn best(device: &Device, graph: &Graph, name: &str, ty: &TensorType) -> Result<f64> {
    let store = super::Store::new(device);
    store.set(name, &Tensor::zeros(ty))?;
    // Something small to read: whoever has it knows that the run is over.
    let done = Graph::new();
    let fence = device.compile(&done, &[("done", done.full([1], 0.0))]).await?;
    let plan = device.compile(graph, &[]).await?;
    plan.run(&Feed::new().store(&store))?;
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        fence.run(&Feed::new())?;
        fence.read("done").await?;
        let start = clock::now();
        let by_device = plan.run_timed(&Feed::new().store(&store)).await?;
        fence.run(&Feed::new())?;
        fence.read("done").await?;
        let time = by_device.unwrap_or_else(|| clock::now().saturating_sub(start));
        best = best.min(time.as_secs_f64().max(1e-9));
    }
    Ok(best)
}

impl std::fmt::Display for Roofline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}B/s and {} operations/s", count(self.bytes_per_s), count(self.operations_per_s))
    }
}
