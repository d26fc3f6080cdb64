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
        let (send, receive) = futures_channel::oneshot::channel();
        gpu.guarded_now(bytes, || {
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(source, offset, &staging, 0, bytes);
            gpu.queue.submit([encoder.finish()]);
            staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
                let _ = send.send(result);
            });
            Ok(())
        })?;
        #[cfg(not(target_arch = "wasm32"))]
        gpu.poll(wgpu::PollType::wait_indefinitely())?;
        // Firefox finishes a mapping on a slow timer unless more work arrives.
        #[cfg(target_arch = "wasm32")]
        gpu.queue.submit([]);
        match receive.await {
            Ok(Ok(())) => {}
            _ => {
                gpu.check()?;
                let message = "reading a buffer back failed; the device may be lost".into();
                return Err(gpu.blame(Error::Device { message }));
            }
        }
        let data = match staging.get_mapped_range(0..bytes) {
            Ok(view) => view.to_vec(),
            Err(e) => {
                gpu.check()?;
                return Err(gpu.blame(Error::Device { message: e.to_string() }));
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
        // Rounded up, so that a few buffers serve many sizes.
        let most = gpu.limits().max_buffer_size.max(bytes);
        let size = bytes.next_power_of_two().min(most);
        gpu.guarded_now(size, || gpu.buffer("readback", size, usage, size))
    }
}
