//! Reading buffers back: a pool of staging buffers, always asynchronous, never inside a step.

use super::gpu::{Gpu, lock};
use crate::error::{Error, Result};
use std::sync::Mutex;

/// Staging buffers that are free to use.
#[derive(Default)]
pub(crate) struct Readback {
    free: Mutex<Vec<wgpu::Buffer>>,
}

impl Readback {
    /// Copies bytes `offset..offset + bytes` of `source` to the host.
    pub async fn read(&self, gpu: &Gpu, source: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        gpu.check()?;
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let staging = self.take(gpu, bytes)?;
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(source, offset, &staging, 0, bytes);
        gpu.queue.submit([encoder.finish()]);
        let (send, receive) = futures_channel::oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
            let _ = send.send(result);
        });
        #[cfg(not(target_arch = "wasm32"))]
        if let Err(e) = gpu.device.poll(wgpu::PollType::wait_indefinitely()) {
            gpu.check()?;
            return Err(Error::Device { message: e.to_string() });
        }
        // Firefox finishes a mapping on a slow timer unless more work arrives.
        #[cfg(target_arch = "wasm32")]
        gpu.queue.submit([]);
        match receive.await {
            Ok(Ok(())) => {}
            _ => {
                gpu.check()?;
                return Err(Error::Device { message: "reading a buffer back failed".into() });
            }
        }
        let data = match staging.get_mapped_range(0..bytes) {
            Ok(view) => view.to_vec(),
            Err(e) => {
                return Err(Error::Device { message: e.to_string() });
            }
        };
        staging.unmap();
        lock(&self.free).push(staging);
        gpu.check()?;
        Ok(data)
    }

    fn take(&self, gpu: &Gpu, bytes: u64) -> Result<wgpu::Buffer> {
        let mut free = lock(&self.free);
        let fitting = (0..free.len()).filter(|i| free[*i].size() >= bytes).min_by_key(|i| free[*i].size());
        if let Some(i) = fitting {
            return Ok(free.swap_remove(i));
        }
        drop(free);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        gpu.buffer("readback", bytes.next_power_of_two(), usage, bytes)
    }
}
