//! What goes wrong on a device: errors that nobody waited for, a loss, and work that is guarded against both.

use super::gpu::{Gpu, lock};
use crate::error::{Error, Result};
use crate::trace::event;
use std::sync::{Arc, Mutex};

/// The error that nobody has seen yet, or the loss of the device.
pub(super) type Failure = Arc<Mutex<Option<Error>>>;

/// Keeps the first error that no scope catches in `slot`.
pub(super) fn hear_of_errors(device: &wgpu::Device, slot: Failure) {
    device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
        event!(ERROR, "the device refused a command", error = e.to_string());
        lock(&slot).get_or_insert(translate(e));
    }));
}

/// Keeps the loss of a device in `slot`.
pub(super) fn hear_of_loss(device: &wgpu::Device, slot: Failure) {
    device.set_device_lost_callback(move |reason, message| {
        let reason = format!("{reason:?}: {message}");
        event!(ERROR, "device lost", reason = reason.as_str());
        *lock(&slot) = Some(Error::DeviceLost { reason });
    });
}

fn translate(error: wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { requested: 0, peak: 0 },
        other => Error::Device { message: other.to_string() },
    }
}

impl Gpu {
    /// The error that made the device unusable or that nobody has seen yet. A lost device stays lost.
    pub(crate) fn check(&self) -> Result<()> {
        #[cfg(not(target_arch = "wasm32"))]
        {
            self.poll(wgpu::PollType::Poll)?;
            self.ask_for_loss();
        }
        let mut slot = lock(&self.failure);
        match slot.take() {
            None => Ok(()),
            Some(lost @ Error::DeviceLost { .. }) => {
                *slot = Some(lost.clone());
                Err(lost)
            }
            Some(other) => {
                drop(slot);
                Err(self.blame(other))
            }
        }
    }

    /// What the error of a command means: a device that is gone refuses commands, also before anybody was told of its loss.
    pub(crate) fn blame(&self, error: Error) -> Error {
        #[cfg(not(target_arch = "wasm32"))]
        self.probe();
        match &*lock(&self.failure) {
            Some(lost @ Error::DeviceLost { .. }) => lost.clone(),
            _ => error,
        }
    }

    /// Lets the driver report finished work, failed work and a lost device; waits as long as `until` says.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn poll(&self, until: wgpu::PollType) -> Result<()> {
        // wgpu panics when the driver loses the device while it is waited for.
        let poll = std::panic::AssertUnwindSafe(|| self.device.poll(until));
        let polled = std::panic::catch_unwind(poll);
        if matches!(polled, Ok(Ok(_))) {
            return Ok(());
        }
        self.ask_for_loss();
        let mut failure = lock(&self.failure);
        match (polled, &*failure) {
            (Ok(Ok(_)), _) => Ok(()),
            (_, Some(lost @ Error::DeviceLost { .. })) => Err(lost.clone()),
            (Ok(Err(e)), _) => Err(Error::Device { message: e.to_string() }),
            (Err(_), _) => {
                let reason = "the driver failed while it was waited for".to_owned();
                Err(failure.insert(Error::DeviceLost { reason }).clone())
            }
        }
    }

    /// Natively a device has one handler for its loss, and that of an adopted one is its owner's: so it is asked.
    #[cfg(not(target_arch = "wasm32"))]
    fn ask_for_loss(&self) {
        if self.adopted {
            self.probe();
        }
    }

    /// Asks for memory that only a device that is there can map.
    #[cfg(not(target_arch = "wasm32"))]
    fn probe(&self) {
        if matches!(*lock(&self.failure), Some(Error::DeviceLost { .. })) {
            return;
        }
        let full = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("is the device lost?"),
            size: 4,
            usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        let full = pollster::block_on(full.pop()).is_some();
        if !full && buffer.get_mapped_range_mut(..).is_err() {
            let told = if self.adopted {
                "the device was adopted; its owner's handler was told why"
            } else {
                "not told why yet"
            };
            event!(ERROR, "a device maps no memory any more: it is lost");
            // Meanwhile it may have been told.
            let mut slot = lock(&self.failure);
            if !matches!(*slot, Some(Error::DeviceLost { .. })) {
                *slot = Some(Error::DeviceLost { reason: told.to_owned() });
            }
        }
    }

    /// Runs `f` and returns the first error the device reported meanwhile.
    pub(crate) async fn guarded<T>(&self, peak: u64, f: impl FnOnce() -> Result<T>) -> Result<T> {
        self.check()?;
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let result = f();
        // Scopes belong to this thread: both end before anything is awaited.
        let invalid = validation.pop();
        let full = memory.pop();
        let result = result?;
        if let Some(error) = invalid.await {
            self.check()?;
            return Err(self.blame(translate(error)));
        }
        if full.await.is_some() {
            self.check()?;
            return Err(self.blame(Error::OutOfMemory { requested: peak, peak }));
        }
        Ok(result)
    }

    /// [`guarded`](Self::guarded), waiting on this thread; in the browser errors are reported later, by
    /// [`check`](Self::check).
    pub(crate) fn guarded_now<T>(&self, peak: u64, f: impl FnOnce() -> Result<T>) -> Result<T> {
        #[cfg(not(target_arch = "wasm32"))]
        return pollster::block_on(self.guarded(peak, f));
        #[cfg(target_arch = "wasm32")]
        {
            let _ = peak;
            self.check()?;
            f()
        }
    }
}
