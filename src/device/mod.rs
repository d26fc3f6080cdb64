//! Devices: a GPU through WebGPU, or the CPU executor.
//!
//! ```
//! use wgrad::{Device, GpuOptions};
//! # fn main() -> wgrad::Result<()> {
//! let device = Device::auto_blocking()?; // a hardware GPU, else the CPU executor
//! println!("{device}");
//! match Device::gpu_blocking(GpuOptions::default()) {
//!     Ok(gpu) => println!("{gpu}"),
//!     Err(error) => println!("{error}"), // what was looked for, and what there is
//! }
//! # Ok(())
//! # }
//! ```

#[cfg(target_arch = "wasm32")]
mod browser;
#[cfg(not(target_arch = "wasm32"))]
mod choice;
pub(crate) mod clock;
mod failure;
mod gpu;
pub(crate) mod memory;
mod pipelines;
pub(crate) mod readback;

pub(crate) use gpu::lock;
pub use gpu::{Counters, Gpu, GpuOptions, PowerPreference};

use crate::error::{Error, Result};
use crate::trace::event;
use std::sync::Arc;

/// Precision of the CPU executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Single: the executor for use.
    F32,
    /// Double: the oracle of tests.
    #[cfg(feature = "oracle")]
    F64,
}

/// Where plans run. Cloning gives another handle to the same device.
#[derive(Clone, Debug)]
pub enum Device {
    /// A GPU adapter through WebGPU.
    Gpu(Arc<Gpu>),
    /// The CPU executor.
    Cpu(Precision),
}

impl Device {
    /// A hardware GPU if there is one, else the CPU executor. Print the device to say which. Software Vulkan drivers
    /// are used only on request, with [`Device::gpu`].
    ///
    /// # Errors
    /// None for want of a GPU: then it is the CPU executor.
    pub async fn auto() -> Result<Device> {
        Device::named("auto", GpuOptions::default()).await
    }

    /// As a person names it on a command line: `cpu`, `auto` (as [`Device::auto`]), or part of a GPU adapter's name, those of
    /// software drivers included. The options are for a GPU; its adapter is the name's.
    ///
    /// # Errors
    /// As [`Device::gpu`], if part of a name was given; none with `cpu`, and with `auto` none for want of a GPU.
    pub async fn named(name: &str, options: GpuOptions) -> Result<Device> {
        match name {
            "cpu" => Ok(Device::cpu()),
            "auto" => match Device::gpu(options).await {
                Err(_error @ (Error::NoAdapter { .. } | Error::Limit { .. } | Error::Device { .. })) => {
                    event!(WARN, "no GPU, taking the CPU executor", reason = _error.to_string());
                    Ok(Device::cpu())
                }
                other => other,
            },
            part => Device::gpu(GpuOptions { adapter: Some(part.to_owned()), ..options }).await,
        }
    }

    /// A GPU adapter.
    ///
    /// # Errors
    /// [`Error::NoAdapter`], which lists what was found; [`Error::Limit`] for an adapter below WebGPU's defaults;
    /// [`Error::Device`] if the driver makes no device.
    pub async fn gpu(options: GpuOptions) -> Result<Device> {
        Ok(Device::Gpu(Arc::new(Gpu::request(options).await?)))
    }

    /// A device that someone else made: buffers and queue are shared with it, its error handlers stay as they are.
    /// Adopt it once and clone the result; stores and plans of two adoptions do not fit together. Its owner's
    /// handler learns why it is lost; here the next call says [`Error::DeviceLost`].
    pub fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue) -> Device {
        Device::Gpu(Arc::new(Gpu::adopt(device, queue)))
    }

    /// The CPU executor in single precision.
    pub fn cpu() -> Device {
        Device::Cpu(Precision::F32)
    }

    /// The CPU executor in double precision: the oracle that tests compare with.
    #[cfg(feature = "oracle")]
    pub fn cpu_f64() -> Device {
        Device::Cpu(Precision::F64)
    }

    /// [`Device::auto`], waiting on this thread.
    ///
    /// # Errors
    /// As [`Device::auto`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn auto_blocking() -> Result<Device> {
        pollster::block_on(Self::auto())
    }

    /// [`Device::named`], waiting on this thread.
    ///
    /// # Errors
    /// As [`Device::named`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn named_blocking(name: &str, options: GpuOptions) -> Result<Device> {
        pollster::block_on(Self::named(name, options))
    }

    /// [`Device::gpu`], waiting on this thread.
    ///
    /// # Errors
    /// As [`Device::gpu`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn gpu_blocking(options: GpuOptions) -> Result<Device> {
        pollster::block_on(Self::gpu(options))
    }

    /// Whether both are handles of one device. (Those of wgpu do not tell: they compare equal across instances.)
    pub(crate) fn same(&self, other: &Device) -> bool {
        match (self, other) {
            (Device::Gpu(a), Device::Gpu(b)) => Arc::ptr_eq(a, b),
            (Device::Cpu(a), Device::Cpu(b)) => a == b,
            _ => false,
        }
    }

    /// Whether plans run on a GPU adapter.
    pub fn is_gpu(&self) -> bool {
        matches!(self, Device::Gpu(_))
    }

    /// The GPU, if it is one.
    pub fn as_gpu(&self) -> Option<&Gpu> {
        match self {
            Device::Gpu(gpu) => Some(gpu),
            Device::Cpu(_) => None,
        }
    }
}

impl Device {
    /// What decides how a device rounds: devices of one kind compute the same bits.
    pub(crate) fn kind(&self) -> String {
        match self {
            Device::Gpu(gpu) => gpu.to_string(),
            Device::Cpu(precision) => {
                let bits = if *precision == Precision::F32 { "f32" } else { "f64" };
                format!("the CPU executor ({bits}, {})", std::env::consts::ARCH)
            }
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Gpu(gpu) => gpu.fmt(f),
            Device::Cpu(precision) => {
                let bits = if *precision == Precision::F32 { "f32" } else { "f64" };
                #[cfg(not(target_arch = "wasm32"))]
                let threads = rayon::current_num_threads();
                #[cfg(target_arch = "wasm32")]
                let threads = 1;
                write!(f, "CPU executor ({bits}, {threads} threads, {})", std::env::consts::ARCH)
            }
        }
    }
}
