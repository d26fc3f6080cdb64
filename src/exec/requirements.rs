//! What a program needs of a device, before there is one.

use super::explain::bytes;
use super::{Plan, lower};
use crate::error::Result;
use crate::kernels::Capabilities;
use crate::plan::{Origin, Program};
use std::fmt;

/// What a program needs of a GPU device: ask for it when you make one that wgrad shares
/// ([`Device::from_wgpu`](crate::Device::from_wgpu)).
#[derive(Clone, Debug)]
pub struct Requirements {
    /// WebGPU's default limits, raised where the program needs more.
    pub limits: wgpu::Limits,
    /// None: the kernels are plain WebGPU. `TIMESTAMP_QUERY` is only for [`Plan::profile`] and [`Plan::run_timed`].
    pub features: wgpu::Features,
    /// Bytes of the largest buffer.
    pub largest_buffer: u64,
    /// Bytes of the largest binding.
    pub largest_binding: u64,
    /// Storage buffers of the dispatch that binds most.
    pub storage_buffers: u32,
    /// Bytes that a plan holds: values, inputs, constants. The states of the stores come on top.
    pub plan_bytes: u64,
    /// Bytes of the states.
    pub state_bytes: u64,
}

impl Requirements {
    /// What a device's limits fall short of: name, needed, available.
    pub fn missing(&self, available: &wgpu::Limits) -> Vec<(&'static str, u64, u64)> {
        let mut missing = Vec::new();
        self.limits
            .check_limits_with_fail_fn(available, false, |name, needed, there| missing.push((name, needed, there)));
        missing
    }
}

impl fmt::Display for Requirements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} held by the plan, {} of states", bytes(self.plan_bytes), bytes(self.state_bytes))?;
        let (buffer, binding) = (bytes(self.largest_buffer), bytes(self.largest_binding));
        writeln!(f, "largest buffer {buffer}, largest binding {binding}, {} storage buffers", self.storage_buffers)?;
        let missing = self.missing(&wgpu::Limits::default());
        if missing.is_empty() {
            return writeln!(f, "within the default limits of WebGPU; no features");
        }
        for (name, needed, default) in missing {
            writeln!(f, "{name}: {needed}, more than the default {default}")?;
        }
        Ok(())
    }
}

impl Program {
    /// What the program needs of a GPU device, whichever kernels are chosen there.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if a kernel needs more than a device can have whatever its memory: too
    /// many workgroups.
    pub fn requirements(&self) -> Result<Requirements> {
        let mut limits = wgpu::Limits::default();
        let (mut largest, mut binding, mut storage, mut held) = (0, 0, 0, 0);
        let (mut others, mut states) = (0, 0);
        for info in &self.buffers {
            let size = info.ty.numel() as u64 * 4;
            match info.origin {
                Origin::Computed => continue,
                Origin::State(_) => states += size,
                Origin::Input(_) | Origin::Constant(_) => others += size,
            }
            largest = largest.max(size);
        }
        for software in [false, true] {
            let caps = Capabilities { binding_bytes: u64::MAX, ..Capabilities::portable(software) };
            let (dispatches, temps) = lower(self, &caps)?;
            for d in &dispatches {
                let sizes = d.bindings.iter().map(|b| (b.end - b.start) as u64 * 4);
                binding = binding.max(sizes.max().unwrap_or(0));
                storage = storage.max(d.bindings.len() as u32);
            }
            let slots = super::gpu::slots(self, &dispatches, &temps);
            largest = largest.max(slots.bytes.iter().copied().max().unwrap_or(0));
            held = held.max(slots.peak + others);
        }
        limits.max_buffer_size = limits.max_buffer_size.max(largest);
        limits.max_storage_buffer_binding_size =
            limits.max_storage_buffer_binding_size.max(binding.next_multiple_of(4));
        limits.max_storage_buffers_per_shader_stage = limits.max_storage_buffers_per_shader_stage.max(storage);
        Ok(Requirements {
            limits,
            features: wgpu::Features::empty(),
            largest_buffer: largest,
            largest_binding: binding,
            storage_buffers: storage,
            plan_bytes: held,
            state_bytes: states,
        })
    }
}

impl Plan {
    /// What the plan's program needs of a GPU device. Before there is a device, ask the program itself:
    ///
    /// ```
    /// # use wgrad::{Graph, Options, TensorType, plan::Program};
    /// # fn main() -> wgrad::Result<()> {
    /// let graph = Graph::new();
    /// let x = graph.input("x", TensorType::f32([1024, 1024]));
    /// let needed = Program::build(&graph, &[("y", x.matmul(x))], Options::default())?.requirements()?;
    /// assert!(needed.missing(&wgrad::wgpu::Limits::default()).is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if a kernel needs more than a device can have whatever its memory: too
    /// many workgroups.
    pub fn requirements(&self) -> Result<Requirements> {
        self.program.requirements()
    }
}
