//! The device's own clock: timestamps at both ends of a run.

use super::gpu::Gpu;
use std::time::Duration;

/// Bytes of both timestamps.
pub(crate) const BYTES: u64 = 16;

/// Two timestamps of one run.
pub(crate) struct Clock {
    queries: wgpu::QuerySet,
    /// Where the timestamps are read from.
    pub ticks: wgpu::Buffer,
    nanoseconds: f64,
}

impl Clock {
    /// `None` if the device has no timestamps.
    pub fn new(gpu: &Gpu) -> Option<Clock> {
        if !gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return None;
        }
        let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("clock"),
            ty: wgpu::QueryType::Timestamp,
            count: 2,
        });
        let ticks = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("clock"),
            size: BYTES,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Some(Clock { queries, ticks, nanoseconds: f64::from(gpu.queue.get_timestamp_period()) })
    }

    /// Timestamps at the start and at the end of a pass.
    pub fn writes(&self) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        }
    }

    /// Brings the timestamps to where they are read from, after the pass.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.queries, 0..2, &self.ticks, 0);
    }

    /// Time between both; `None` if the driver gave none, as some do when the device rests meanwhile.
    pub fn between(&self, ticks: &[u8]) -> Option<Duration> {
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(ticks);
        let passed = ticks.get(1)?.checked_sub(*ticks.first()?).filter(|passed| *passed > 0)?;
        Some(Duration::from_nanos((passed as f64 * self.nanoseconds) as u64))
    }
}
