//! Clocks: the device's own, by timestamps at both ends of a pass, and the host's.

use super::gpu::Gpu;
use std::time::Duration;

/// Passes of one query set: WebGPU allows 4,096 queries.
const PASSES: usize = 2048;

/// Two timestamps of each of several passes of one run.
pub(crate) struct Clock {
    sets: Vec<wgpu::QuerySet>,
    passes: usize,
    /// Where the timestamps are read from.
    pub ticks: wgpu::Buffer,
    nanoseconds: f64,
}

impl Clock {
    /// For `passes` passes; `None` if the device has no timestamps.
    pub fn new(gpu: &Gpu, passes: usize) -> Option<Clock> {
        if !gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return None;
        }
        let set = |first: usize| {
            gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("clock"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * (passes - first).min(PASSES) as u32,
            })
        };
        let ticks = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("clock"),
            size: 16 * passes as u64,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let sets = (0..passes).step_by(PASSES).map(set).collect();
        Some(Clock { sets, passes, ticks, nanoseconds: f64::from(gpu.queue.get_timestamp_period()) })
    }

    /// Passes that it times.
    pub fn passes(&self) -> usize {
        self.passes
    }

    /// Bytes of all timestamps.
    pub fn bytes(&self) -> u64 {
        16 * self.passes as u64
    }

    /// Timestamps at the start and at the end of a pass.
    pub fn writes(&self, pass: usize) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let first = 2 * (pass % PASSES) as u32;
        Some(wgpu::ComputePassTimestampWrites {
            query_set: self.sets.get(pass / PASSES)?,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        })
    }

    /// Brings the timestamps to where they are read from, after the passes.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        for (set, queries) in self.sets.iter().enumerate() {
            let first = set * PASSES;
            let count = 2 * (self.passes - first).min(PASSES) as u32;
            encoder.resolve_query_set(queries, 0..count, &self.ticks, 16 * first as u64);
        }
    }

    /// Time of the only pass; `None` if the driver gave none, as some do when the device rests meanwhile.
    pub fn between(&self, ticks: &[u8]) -> Option<Duration> {
        let (_, time) = self.spans(ticks).into_iter().next()?;
        Some(time).filter(|time| !time.is_zero())
    }

    /// Start of each pass, counted from the first one's, and the time it took; 0 where the driver gave none.
    pub fn spans(&self, ticks: &[u8]) -> Vec<(Duration, Duration)> {
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(ticks);
        let passed =
            |from: u64, to: u64| Duration::from_nanos((to.saturating_sub(from) as f64 * self.nanoseconds) as u64);
        let first = ticks.first().copied().unwrap_or(0);
        ticks.chunks_exact(2).map(|t| (passed(first, t[0]), passed(t[0], t[1]))).collect()
    }
}

/// Time since some moment, by the host's clock.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn now() -> Duration {
    use std::sync::LazyLock;
    static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

/// Time since some moment, by the host's clock.
#[cfg(target_arch = "wasm32")]
pub(crate) fn now() -> Duration {
    use js_sys::{Function, Reflect, global};
    use wasm_bindgen::JsCast;
    let now = || {
        let performance = Reflect::get(&global(), &"performance".into()).ok()?;
        let now: Function = Reflect::get(&performance, &"now".into()).ok()?.dyn_into().ok()?;
        now.call0(&performance).ok()?.as_f64()
    };
    Duration::from_secs_f64(now().unwrap_or_else(js_sys::Date::now).max(0.0) / 1e3)
}
