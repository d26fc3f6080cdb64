//! From an operation to dispatches.

use super::Kernel;
use crate::error::{Error, Result};
use crate::types::Operand;
use encase::{ShaderType, UniformBuffer, internal::WriteInto};
use std::borrow::Cow;
use std::sync::Arc;

/// What kernel selection may depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// A software driver: loads are dear, barriers dearer, there is nothing to hide latency.
    pub software: bool,
    /// Invocations of a subgroup, where kernels may use subgroups and all are as large; else 0.
    pub subgroup: u32,
    /// Storage buffers a dispatch may bind.
    pub storage_buffers: u32,
    /// Bytes of the largest binding.
    pub binding_bytes: u64,
    /// Workgroups along one dimension.
    pub workgroups: u32,
    /// Invocations of one workgroup.
    pub invocations: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Alignment of a binding's offset, in bytes.
    pub alignment: u32,
}

impl Capabilities {
    /// What every WebGPU device has, by the default limits of the specification.
    pub fn portable(software: bool) -> Self {
        let limits = wgpu::Limits::default();
        Self::new(&limits, software)
    }

    pub(crate) fn new(limits: &wgpu::Limits, software: bool) -> Self {
        Capabilities {
            software,
            subgroup: 0,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            binding_bytes: limits.max_storage_buffer_binding_size,
            workgroups: limits.max_compute_workgroups_per_dimension,
            invocations: limits.max_compute_invocations_per_workgroup,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            // Fixed, so that a plan does not depend on the adapter: the portable alignment.
            alignment: 256,
        }
    }
}

/// A buffer in a lowered program: of the program itself, or a temporary of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Buffer {
    /// Buffer of the program.
    Program(usize),
    /// Temporary, numbered over the whole lowered program.
    Temp(usize),
}

/// A buffer as the operation being lowered sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Input of the step.
    Input(usize),
    /// Output of the step.
    Output(usize),
    /// Temporary.
    Temp(Buffer),
}

/// How a dispatch uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    Write,
}

/// One storage binding: elements `start..end` of a buffer.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The buffer.
    pub buffer: Buffer,
    /// First element; a multiple of the device's alignment.
    pub start: usize,
    /// One past the last element.
    pub end: usize,
    /// Read or read and write.
    pub access: Access,
}

/// Text of a kernel.
#[derive(Clone, Debug)]
pub enum Source {
    /// Hand-written.
    Kernel(&'static Kernel),
    /// Generated: name and text.
    Generated(Arc<str>, Arc<str>),
}

impl Source {
    /// Name of the kernel.
    pub fn name(&self) -> &str {
        match self {
            Source::Kernel(k) => k.name,
            Source::Generated(name, _) => name,
        }
    }

    /// Text with includes resolved.
    ///
    /// # Errors
    /// [`Error::ShaderCompile`] for an include that is not there.
    pub fn text(&self) -> Result<Cow<'_, str>> {
        match self {
            Source::Kernel(k) => Ok(Cow::Owned(k.text()?)),
            Source::Generated(_, text) => Ok(Cow::Borrowed(text)),
        }
    }
}

/// One dispatch of a lowered program.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The kernel.
    pub source: Source,
    /// Override constants.
    pub constants: Vec<(&'static str, f64)>,
    /// Storage bindings, from binding 0 on.
    pub bindings: Vec<Binding>,
    /// Static uniform, bound after the storage buffers.
    pub uniform: Option<Vec<u8>>,
    /// Whether the per-step uniform (step, seed, rank) is bound last.
    pub globals: bool,
    /// Workgroups along x and y.
    pub grid: [u32; 2],
    /// Name of the step it belongs to.
    pub label: String,
    /// Number of that step in the program.
    pub step: usize,
}

/// Collects the dispatches of one step.
pub struct Lower<'a> {
    /// What the device can do.
    pub caps: &'a Capabilities,
    /// Inputs of the step.
    pub inputs: &'a [Operand],
    /// Outputs of the step.
    pub outputs: &'a [Operand],
    pub(crate) label: String,
    pub(crate) step: usize,
    pub(crate) dispatches: Vec<Dispatch>,
    pub(crate) temps: &'a mut Vec<usize>,
}

impl<'a> Lower<'a> {
    /// A temporary of `len` 32-bit elements that lives within this step.
    pub fn temp(&mut self, len: usize) -> Buffer {
        self.temps.push(len);
        Buffer::Temp(self.temps.len() - 1)
    }

    /// Starts a dispatch of a hand-written kernel.
    pub fn dispatch(&mut self, kernel: &'static Kernel) -> DispatchBuilder<'_, 'a> {
        self.source(Source::Kernel(kernel))
    }

    /// Starts a dispatch of a generated kernel.
    pub fn generated(&mut self, name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> DispatchBuilder<'_, 'a> {
        self.source(Source::Generated(name.into(), text.into()))
    }

    fn source(&mut self, source: Source) -> DispatchBuilder<'_, 'a> {
        let dispatch = Dispatch {
            source,
            constants: Vec::new(),
            bindings: Vec::new(),
            uniform: None,
            globals: false,
            grid: [0, 0],
            label: self.label.clone(),
            step: self.step,
        };
        DispatchBuilder { lower: self, dispatch, error: None }
    }

    /// Elements between an operand's first element and the aligned start of its binding.
    pub fn lead(&self, operand: &Operand) -> usize {
        operand.layout.offset % (self.caps.alignment as usize / 4).max(1)
    }
}

/// Builds one dispatch; bindings are numbered in the order of the calls.
pub struct DispatchBuilder<'l, 'a> {
    lower: &'l mut Lower<'a>,
    dispatch: Dispatch,
    error: Option<Error>,
}

impl DispatchBuilder<'_, '_> {
    /// Binds an input of the step for reading.
    pub fn input(self, index: usize) -> Self {
        self.place(Place::Input(index), Access::Read)
    }

    /// Binds an output of the step for writing.
    pub fn output(self, index: usize) -> Self {
        self.place(Place::Output(index), Access::Write)
    }

    /// Binds a whole temporary for reading.
    pub fn read(self, buffer: Buffer) -> Self {
        self.place(Place::Temp(buffer), Access::Read)
    }

    /// Binds a whole temporary for reading and writing.
    pub fn write(self, buffer: Buffer) -> Self {
        self.place(Place::Temp(buffer), Access::Write)
    }

    /// Binds an input, output or temporary for reading.
    pub fn read_from(self, place: Place) -> Self {
        self.place(place, Access::Read)
    }

    /// Binds an output or temporary for reading and writing.
    pub fn write_to(self, place: Place) -> Self {
        self.place(place, Access::Write)
    }

    fn place(self, place: Place, access: Access) -> Self {
        match place {
            Place::Input(i) => {
                let operand = &self.lower.inputs[i];
                self.operand(operand, access)
            }
            Place::Output(i) => {
                let operand = &self.lower.outputs[i];
                self.operand(operand, access)
            }
            Place::Temp(buffer) => {
                let len = self.len(buffer);
                self.bind(buffer, 0, len, access)
            }
        }
    }

    fn operand(self, operand: &Operand, access: Access) -> Self {
        if operand.numel() == 0 {
            // Its place may lie behind the end of the buffer; nothing is read there.
            return self.bind(Buffer::Program(operand.buffer), 0, 1, access);
        }
        let start = operand.layout.offset - self.lower.lead(operand);
        let end = operand.layout.end(operand.shape());
        self.bind(Buffer::Program(operand.buffer), start, end, access)
    }

    fn len(&self, buffer: Buffer) -> usize {
        match buffer {
            Buffer::Temp(i) => self.lower.temps[i],
            Buffer::Program(_) => 0,
        }
    }

    fn bind(mut self, buffer: Buffer, start: usize, end: usize, access: Access) -> Self {
        self.dispatch.bindings.push(Binding { buffer, start, end: end.max(start + 1), access });
        self
    }

    /// Sets the static uniform.
    pub fn uniform<U: ShaderType + WriteInto>(mut self, value: &U) -> Self {
        let mut buffer = UniformBuffer::new(Vec::new());
        match buffer.write(value) {
            Ok(()) => self.dispatch.uniform = Some(buffer.into_inner()),
            Err(e) => self.error = Some(Error::Device { message: format!("uniform of {}: {e}", self.dispatch.label) }),
        }
        self
    }

    /// Sets the static uniform to words, filled up to what uniforms are aligned to.
    pub fn words(mut self, words: &[u32]) -> Self {
        let mut bytes: Vec<u8> = bytemuck::cast_slice(words).to_vec();
        bytes.resize(bytes.len().next_multiple_of(16).max(16), 0);
        self.dispatch.uniform = Some(bytes);
        self
    }

    /// Binds the per-step uniform (step, seed, rank) after the static one.
    pub fn globals(mut self) -> Self {
        self.dispatch.globals = true;
        self
    }

    /// Sets an override constant.
    pub fn constant(mut self, name: &'static str, value: f64) -> Self {
        self.dispatch.constants.push((name, value));
        self
    }

    /// Finishes with a number of workgroups, folded into two dimensions; none is dispatched for 0.
    /// The kernel finds its linear number with `workgroup_index` of `shared/grid.wgsl`.
    ///
    /// # Errors
    /// [`Error::Limit`] for more workgroups or bindings than the device allows, or a binding larger than it can bind;
    /// [`Error::Device`] if a uniform could not be laid out.
    pub fn workgroups(mut self, count: usize) -> Result<()> {
        if let Some(e) = self.error {
            return Err(e);
        }
        if count == 0 {
            return Ok(());
        }
        let caps = self.lower.caps;
        let max = caps.workgroups as usize;
        let x = if count <= max { count } else { count.div_ceil(count.div_ceil(max)) };
        let y = count.div_ceil(x);
        let refuse = |limit: &str, needed: u64, available: u64, hint: &str| {
            Err(Error::Limit { limit: limit.to_owned(), needed, available, hint: hint.to_owned() })
        };
        if y > max {
            return refuse(
                "maxComputeWorkgroupsPerDimension",
                y as u64,
                max as u64,
                "split the tensor into smaller batches",
            );
        }
        let n = self.dispatch.bindings.len() as u64;
        if n > u64::from(caps.storage_buffers) {
            let available = u64::from(caps.storage_buffers);
            return refuse("maxStorageBuffersPerShaderStage", n, available, "this is a defect of the kernel");
        }
        for b in &self.dispatch.bindings {
            let bytes = (b.end - b.start) as u64 * 4;
            if bytes > caps.binding_bytes {
                let hint =
                    format!("{} binds one tensor of this size; use a smaller batch or shards", self.dispatch.label);
                return refuse("maxStorageBufferBindingSize", bytes, caps.binding_bytes, &hint);
            }
        }
        self.dispatch.grid = [x as u32, y as u32];
        self.lower.dispatches.push(self.dispatch);
        Ok(())
    }
}
