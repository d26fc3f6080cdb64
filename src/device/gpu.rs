//! A WebGPU adapter and device, its limits, pipelines and errors.

#[cfg(target_arch = "wasm32")]
use super::browser::{self, pick};
#[cfg(not(target_arch = "wasm32"))]
use super::choice::pick;
use super::failure::{Failure, hear_of_errors, hear_of_loss};
use super::memory::{self, Held, Ledger};
use super::pipelines::Caches;
use crate::error::{Error, Result};
use crate::kernels::Capabilities;
use crate::trace::event;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

pub use wgpu::PowerPreference;

/// Which adapter, and how.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Part of the adapter's name, or its index in the list (a number past its end is part of a name); any adapter if
    /// absent.
    pub adapter: Option<String>,
    /// Which of several adapters.
    pub power: PowerPreference,
    /// For ranks that share a machine: which of several equal adapters, this number modulo how many there are. Equal are those
    /// of the same model under the same driver as the first of the best kind; others would compute other bits. To choose among
    /// different ones, name each by its index.
    pub turn: usize,
    /// Also take software drivers (lavapipe, SwiftShader, WARP). An adapter asked for by name is always taken.
    pub software: bool,
    /// Ask only for the limits and features every WebGPU device has.
    pub portable_limits: bool,
    /// Choose kernels as for hardware also on a software driver, so that tests reach them.
    pub hardware_kernels: bool,
    /// Ask for timestamps where the adapter has them, for [`Plan::run_timed`](crate::Plan::run_timed).
    pub timestamps: bool,
    /// Bytes that states and plans may take together on this device; without it as many as there are. What goes beyond is
    /// refused with [`Error::Limit`], which gives the numbers, before anything of it is made: leave room for others on the
    /// same GPU, or see whether a job fits a smaller one. Buffers through which results are read back do not count: what is
    /// there can always be read. Nor does what the driver itself needs.
    pub memory_limit: Option<u64>,
}

/// Counts of what was made on a device; flat after the first step of a plan.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) buffers: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) bind_groups: AtomicU64,
    pub(crate) pipelines: AtomicU64,
    pub(crate) submits: AtomicU64,
    /// Pipelines that plans asked for and that were not there yet.
    pub(crate) wanted: AtomicU64,
}

impl Counters {
    /// Buffers, bytes of them, bind groups, pipelines and submits made so far; none of them falls again.
    pub fn snapshot(&self) -> [u64; 5] {
        [&self.buffers, &self.bytes, &self.bind_groups, &self.pipelines, &self.submits]
            .map(|c| c.load(Ordering::Relaxed))
    }

    /// Pipelines that were asked for so far: as many as were made, or more while a plan is being compiled.
    pub fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed)
    }
}

/// A GPU device.
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    info: Option<wgpu::AdapterInfo>,
    limits: wgpu::Limits,
    caps: Capabilities,
    pub(super) caches: Mutex<Caches>,
    pub(super) failure: Failure,
    /// The device is somebody else's, whose handlers stay; a browser says by itself when one is lost.
    #[cfg_attr(target_arch = "wasm32", expect(dead_code))]
    pub(super) adopted: bool,
    memory: Arc<Ledger>,
    memory_limit: Option<u64>,
    /// What was made so far.
    pub counters: Counters,
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Gpu {
    pub(crate) async fn request(options: GpuOptions) -> Result<Gpu> {
        let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
        desc.backends = wgpu::Backends::PRIMARY;
        desc.flags = wgpu::InstanceFlags::empty();
        if options.portable_limits {
            desc.flags |= wgpu::InstanceFlags::STRICT_WEBGPU_COMPLIANCE;
        }
        let instance = wgpu::Instance::new(desc);
        let adapter = pick(&instance, &options).await?;
        let info = adapter.get_info();
        let offered = adapter.limits();
        sufficient(&offered)?;
        let limits = if options.portable_limits { wgpu::Limits::default() } else { offered };
        let mut wanted = if options.timestamps { wgpu::Features::TIMESTAMP_QUERY } else { wgpu::Features::empty() };
        if is_software(&info) && !options.portable_limits {
            wanted |= wgpu::Features::SUBGROUP;
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("wgrad"),
            required_features: wanted & adapter.features(),
            required_limits: limits.clone(),
            ..Default::default()
        };
        let made = adapter.request_device(&descriptor).await;
        let (device, queue) = made.map_err(|e| Error::Device { message: e.to_string() })?;
        #[cfg(target_arch = "wasm32")]
        let info = browser::named(info, &device, &options)?;
        let failure = Arc::new(Mutex::new(None));
        hear_of_errors(&device, failure.clone());
        hear_of_loss(&device, failure.clone());
        let mut gpu = Self::new(device, queue, Some(info), limits, failure);
        if gpu.caps.software {
            event!(WARN, "a software driver, which is slow", adapter = gpu.to_string());
        } else {
            event!(INFO, "device made", adapter = gpu.to_string());
        }
        gpu.caps.software &= !options.hardware_kernels;
        gpu.memory_limit = options.memory_limit;
        Ok(gpu)
    }

    pub(crate) fn adopt(device: wgpu::Device, queue: wgpu::Queue) -> Gpu {
        let (info, limits) = (device.adapter_info(), device.limits());
        let failure = Arc::new(Mutex::new(None));
        // In a browser one more listener replaces none.
        #[cfg(target_arch = "wasm32")]
        hear_of_loss(&device, failure.clone());
        Gpu { adopted: true, ..Self::new(device, queue, Some(info), limits, failure) }
    }

    fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        info: Option<wgpu::AdapterInfo>,
        limits: wgpu::Limits,
        failure: Failure,
    ) -> Gpu {
        let mut caps = Capabilities::new(&limits, info.as_ref().is_some_and(is_software));
        if let Some(info) = info.as_ref().filter(|_| device.features().contains(wgpu::Features::SUBGROUP)) {
            let [least, most] = [info.subgroup_min_size, info.subgroup_max_size];
            caps.subgroup = if least == most { most } else { 0 };
        }
        Gpu {
            device,
            queue,
            info,
            limits,
            caps,
            caches: Mutex::default(),
            failure,
            adopted: false,
            memory: Arc::default(),
            memory_limit: None,
            counters: Counters::default(),
        }
    }

    /// Bytes of the states and plans that are alive: what [`GpuOptions::memory_limit`] limits.
    pub fn held(&self) -> u64 {
        self.memory.held()
    }

    /// Takes memory for what is about to be made, as long as the result lives; refuses what cannot be had. `peak` is what
    /// the whole work needs, for the message.
    pub(crate) fn hold(&self, what: &str, bytes: u64, peak: u64) -> Result<Held> {
        if self.caps.software {
            memory::room(bytes, peak)?;
        }
        let limit = self.memory_limit.unwrap_or(u64::MAX);
        self.memory.hold(bytes, limit).map_err(|held| Error::Limit {
            limit: "GpuOptions::memory_limit".into(),
            needed: held.saturating_add(bytes),
            available: limit,
            hint: format!(
                "{what} takes {bytes} bytes beside {held} that are held; drop stores and plans, use a smaller batch or \
                 recomputation, or allow more"
            ),
        })
    }

    /// What kernels are chosen by.
    pub fn capabilities(&self) -> &Capabilities {
        &self.caps
    }

    /// The adapter behind the device.
    pub fn adapter(&self) -> Option<&wgpu::AdapterInfo> {
        self.info.as_ref()
    }

    /// Limits the device was made with.
    pub fn limits(&self) -> &wgpu::Limits {
        &self.limits
    }

    /// The device and queue, to share them with other users of wgpu.
    pub fn wgpu(&self) -> (&wgpu::Device, &wgpu::Queue) {
        (&self.device, &self.queue)
    }

    /// Refuses a buffer that the device cannot have. `peak` is what the whole plan needs, for the message.
    pub(crate) fn fits(&self, label: &str, bytes: u64, peak: u64) -> Result<()> {
        if bytes <= self.limits.max_buffer_size {
            return Ok(());
        }
        Err(Error::Limit {
            limit: "maxBufferSize".into(),
            needed: bytes,
            available: self.limits.max_buffer_size,
            hint: format!("{label} is one buffer of this size; use a smaller batch or shards (peak {peak} bytes)"),
        })
    }

    /// A storage buffer, zeroed. `peak` is what the whole plan needs, for the error message.
    pub(crate) fn buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages, peak: u64) -> Result<wgpu::Buffer> {
        let bytes = bytes.max(4).next_multiple_of(4);
        self.fits(label, bytes, peak)?;
        self.counters.buffers.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage,
            mapped_at_creation: false,
        }))
    }
}

/// Refuses an adapter below what every WebGPU device must offer: the kernels rely on it.
fn sufficient(offered: &wgpu::Limits) -> Result<()> {
    let needed = wgpu::Limits::default();
    let what = |l: &wgpu::Limits| {
        [
            ("maxStorageBuffersPerShaderStage", u64::from(l.max_storage_buffers_per_shader_stage)),
            ("maxStorageBufferBindingSize", l.max_storage_buffer_binding_size),
            ("maxBufferSize", l.max_buffer_size),
            ("maxComputeInvocationsPerWorkgroup", u64::from(l.max_compute_invocations_per_workgroup)),
            ("maxComputeWorkgroupStorageSize", u64::from(l.max_compute_workgroup_storage_size)),
            ("maxComputeWorkgroupsPerDimension", u64::from(l.max_compute_workgroups_per_dimension)),
        ]
    };
    for ((limit, needed), (_, available)) in what(&needed).into_iter().zip(what(offered)) {
        if available < needed {
            let hint = "this adapter is below the WebGPU defaults; choose another one, or the CPU executor".into();
            return Err(Error::Limit { limit: limit.into(), needed, available, hint });
        }
    }
    Ok(())
}

pub(super) fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let name = info.name.to_ascii_lowercase();
    // Browsers hide the device type; their software adapter is told by its name.
    info.device_type == wgpu::DeviceType::Cpu || name.contains("swiftshader") || name.contains("llvmpipe")
}

pub(super) fn describe(info: &wgpu::AdapterInfo) -> String {
    let (backend, kind) = (format!("{:?}", info.backend), format!("{:?}", info.device_type));
    let words = [&backend, &kind, &info.driver, &info.driver_info];
    let words: Vec<&str> = words.iter().map(|w| w.as_str()).filter(|w| !w.is_empty()).collect();
    format!("{} ({})", info.name, words.join(", "))
}

impl std::fmt::Display for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.info {
            Some(info) => write!(f, "{}", describe(info))?,
            None => write!(f, "shared device")?,
        }
        let (l, c) = (&self.limits, &self.caps);
        write!(
            f,
            "; bindings {} MiB, buffers {} MiB, {} storage buffers, {} invocations, {} B workgroup memory, {} workgroups{}",
            c.binding_bytes >> 20,
            l.max_buffer_size >> 20,
            c.storage_buffers,
            c.invocations,
            c.workgroup_bytes,
            c.workgroups,
            if c.software { ", software" } else { "" }
        )
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_below_the_defaults_is_refused_with_numbers() {
        assert!(sufficient(&wgpu::Limits::default()).is_ok());
        let small = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..Default::default() };
        let message = sufficient(&small).map_err(|e| e.to_string());
        assert!(message.is_err_and(|m| m.contains("8 needed, 4 allowed")));
    }
}
