//! A WebGPU adapter and device, its limits, pipelines and errors.

#[cfg(target_arch = "wasm32")]
use super::browser::{self, pick};
use crate::error::{Error, Result};
use crate::kernels::{Access, Capabilities, Dispatch};
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

pub use wgpu::PowerPreference;

/// Which adapter, and how.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Part of the adapter's name, or its index in the list; any adapter if absent.
    pub adapter: Option<String>,
    /// Which of several adapters.
    pub power: PowerPreference,
    /// Also take software drivers (lavapipe, SwiftShader, WARP). An adapter asked for by name is always taken.
    pub software: bool,
    /// Ask only for the limits and features every WebGPU device has.
    pub portable_limits: bool,
}

/// Counts of what was made on a device; flat after the first step of a plan.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) buffers: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) bind_groups: AtomicU64,
    pub(crate) pipelines: AtomicU64,
    pub(crate) submits: AtomicU64,
}

impl Counters {
    /// Buffers, bytes of them, bind groups, pipelines and submits so far. Bytes are those of live buffers.
    pub fn snapshot(&self) -> [u64; 5] {
        [&self.buffers, &self.bytes, &self.bind_groups, &self.pipelines, &self.submits]
            .map(|c| c.load(Ordering::Relaxed))
    }
}

/// Key of a pipeline: text, constants, and the bindings.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PipelineKey {
    text: Arc<str>,
    constants: Vec<(&'static str, u64)>,
    layout: LayoutKey,
}

/// Accesses of the storage bindings, then whether a static uniform and the globals follow.
type LayoutKey = (Vec<Access>, bool, bool);

#[derive(Default)]
struct Caches {
    layouts: FxHashMap<LayoutKey, wgpu::BindGroupLayout>,
    pipelines: FxHashMap<PipelineKey, wgpu::ComputePipeline>,
}

/// A GPU device.
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    info: Option<wgpu::AdapterInfo>,
    limits: wgpu::Limits,
    caps: Capabilities,
    caches: Mutex<Caches>,
    failure: Arc<Mutex<Option<Error>>>,
    /// What was made so far.
    pub counters: Counters,
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(not(target_arch = "wasm32"))]
const HINT: &str = "install a Vulkan, Metal or DX12 driver (on Debian or Ubuntu: mesa-vulkan-drivers and libvulkan1), \
allow software drivers, or use the CPU executor";

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
        let limits = if options.portable_limits { wgpu::Limits::default() } else { adapter.limits() };
        let descriptor =
            wgpu::DeviceDescriptor { label: Some("wgrad"), required_limits: limits.clone(), ..Default::default() };
        let made = adapter.request_device(&descriptor).await;
        let (device, queue) = made.map_err(|e| Error::Device { message: e.to_string() })?;
        #[cfg(target_arch = "wasm32")]
        let info = browser::named(info, &device, &options)?;
        let failure = Arc::new(Mutex::new(None));
        let slot = failure.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            lock(&slot).get_or_insert(translate(e));
        }));
        let slot = failure.clone();
        device.set_device_lost_callback(move |reason, message| {
            let reason = format!("{reason:?}: {message}");
            *lock(&slot) = Some(Error::DeviceLost { reason });
        });
        Ok(Self::new(device, queue, Some(info), limits, failure))
    }

    pub(crate) fn adopt(device: wgpu::Device, queue: wgpu::Queue) -> Gpu {
        let (info, limits) = (device.adapter_info(), device.limits());
        Self::new(device, queue, Some(info), limits, Arc::new(Mutex::new(None)))
    }

    fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        info: Option<wgpu::AdapterInfo>,
        limits: wgpu::Limits,
        failure: Arc<Mutex<Option<Error>>>,
    ) -> Gpu {
        let caps = Capabilities::new(&limits, info.as_ref().is_some_and(is_software));
        Gpu { device, queue, info, limits, caps, caches: Mutex::default(), failure, counters: Counters::default() }
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

    /// The error that made the device unusable or that nobody has seen yet. A lost device stays lost.
    pub(crate) fn check(&self) -> Result<()> {
        let mut slot = lock(&self.failure);
        match slot.take() {
            None => Ok(()),
            Some(lost @ Error::DeviceLost { .. }) => {
                *slot = Some(lost.clone());
                Err(lost)
            }
            Some(other) => Err(other),
        }
    }

    /// A storage buffer, zeroed. `peak` is what the whole plan needs, for the error message.
    pub(crate) fn buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages, peak: u64) -> Result<wgpu::Buffer> {
        let bytes = bytes.max(4).next_multiple_of(4);
        if bytes > self.limits.max_buffer_size {
            return Err(Error::Limit {
                limit: "maxBufferSize".into(),
                needed: bytes,
                available: self.limits.max_buffer_size,
                hint: format!("{label} is one buffer of this size; use a smaller batch or shards (peak {peak} bytes)"),
            });
        }
        self.counters.buffers.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage,
            mapped_at_creation: false,
        }))
    }

    /// Runs `f` and returns the first error the device reported meanwhile.
    pub(crate) async fn guarded<T>(&self, peak: u64, f: impl FnOnce() -> Result<T>) -> Result<T> {
        self.check()?;
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let result = f();
        let invalid = validation.pop();
        let full = memory.pop();
        if let Some(error) = invalid.await {
            self.check()?;
            return Err(translate(error));
        }
        if full.await.is_some() {
            self.check()?;
            return Err(Error::OutOfMemory { requested: peak, peak });
        }
        result
    }

    /// Layout of the bindings of a dispatch.
    pub(crate) fn layout(&self, dispatch: &Dispatch) -> wgpu::BindGroupLayout {
        lock(&self.caches).layout(&self.device, layout_key(dispatch))
    }

    /// Pipeline of a dispatch, from the cache or new.
    pub(crate) fn pipeline(&self, dispatch: &Dispatch) -> Result<wgpu::ComputePipeline> {
        let text: Arc<str> = dispatch.source.text()?.into();
        let constants = dispatch.constants.iter().map(|(n, v)| (*n, v.to_bits())).collect();
        let key = PipelineKey { text: text.clone(), constants, layout: layout_key(dispatch) };
        let mut caches = lock(&self.caches);
        if let Some(pipeline) = caches.pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let name = dispatch.source.name();
        let layout = caches.layout(&self.device, key.layout.clone());
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(text.as_ref().into()),
        });
        let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &dispatch.constants,
                ..Default::default()
            },
            cache: None,
        });
        self.counters.pipelines.fetch_add(1, Ordering::Relaxed);
        caches.pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

impl Caches {
    fn layout(&mut self, device: &wgpu::Device, key: LayoutKey) -> wgpu::BindGroupLayout {
        if let Some(layout) = self.layouts.get(&key) {
            return layout.clone();
        }
        let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let (storage, uniform, globals) = &key;
        let storage = storage.iter().map(|a| wgpu::BufferBindingType::Storage { read_only: *a == Access::Read });
        let uniforms = [*uniform, *globals].into_iter().filter(|u| *u).map(|_| wgpu::BufferBindingType::Uniform);
        let entries: Vec<_> = storage.chain(uniforms).enumerate().map(|(i, ty)| entry(i as u32, ty)).collect();
        let layout =
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        self.layouts.insert(key, layout.clone());
        layout
    }
}

fn layout_key(dispatch: &Dispatch) -> LayoutKey {
    (dispatch.bindings.iter().map(|b| b.access).collect(), dispatch.uniform.is_some(), dispatch.globals)
}

pub(super) fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let name = info.name.to_lowercase();
    // Browsers hide the device type; their software adapter is told by its name.
    info.device_type == wgpu::DeviceType::Cpu || name.contains("swiftshader") || name.contains("llvmpipe")
}

fn translate(error: wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { requested: 0, peak: 0 },
        other => Error::Device { message: other.to_string() },
    }
}

#[cfg(not(target_arch = "wasm32"))]
async fn pick(instance: &wgpu::Instance, options: &GpuOptions) -> Result<wgpu::Adapter> {
    let mut all = instance.enumerate_adapters(wgpu::Backends::PRIMARY).await;
    let found = all.iter().map(|a| describe(&a.get_info())).collect();
    let wanted = |i: usize, info: &wgpu::AdapterInfo| match &options.adapter {
        Some(name) => match name.parse::<usize>() {
            Ok(index) => i == index,
            Err(_) => info.name.to_lowercase().contains(&name.to_lowercase()),
        },
        None => options.software || !is_software(info),
    };
    let rank = |info: &wgpu::AdapterInfo| match (info.device_type, options.power) {
        (wgpu::DeviceType::DiscreteGpu, PowerPreference::LowPower) => 1,
        (wgpu::DeviceType::IntegratedGpu, PowerPreference::LowPower) => 0,
        (wgpu::DeviceType::DiscreteGpu, _) => 0,
        (wgpu::DeviceType::IntegratedGpu, _) => 1,
        (wgpu::DeviceType::VirtualGpu, _) => 2,
        (wgpu::DeviceType::Other, _) => 3,
        (wgpu::DeviceType::Cpu, _) => 4,
    };
    let best = (0..all.len()).filter(|i| wanted(*i, &all[*i].get_info())).min_by_key(|i| rank(&all[*i].get_info()));
    match best {
        Some(i) => Ok(all.swap_remove(i)),
        None => {
            let request = match &options.adapter {
                Some(name) => format!("adapter \"{name}\""),
                None if options.software => "any adapter".into(),
                None => "a hardware adapter".into(),
            };
            Err(Error::NoAdapter { request, found, hint: HINT.into() })
        }
    }
}

pub(super) fn describe(info: &wgpu::AdapterInfo) -> String {
    format!("{} ({:?}, {:?}, {} {})", info.name, info.backend, info.device_type, info.driver, info.driver_info)
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
