//! State between runs: parameters, moments, memories, caches.

use super::cpu::zeros;
use crate::device::memory::Held;
use crate::device::readback::Readback;
use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::trace::{span, within};
use crate::types::{DType, Data, Tensor, TensorType};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

/// Bytes from which a state is on the device when it is set.
const LARGE: usize = 16 << 20;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Elements of a state on the CPU executor.
#[derive(Clone, Debug)]
pub enum Memory {
    /// On a GPU.
    Gpu(wgpu::Buffer),
    /// On the CPU executor in single precision.
    F32(Arc<Mutex<Vec<f32>>>),
    /// On the CPU executor in double precision.
    #[cfg(feature = "oracle")]
    F64(Arc<Mutex<Vec<f64>>>),
    /// Integers on the CPU executor.
    U32(Arc<Mutex<Vec<u32>>>),
}

/// One named state.
#[derive(Debug)]
pub struct State {
    pub(crate) id: u64,
    /// Element type and shape.
    pub ty: TensorType,
    pub(crate) memory: Memory,
    /// Its share of the device's memory.
    _held: Option<Held>,
}

/// Named states on one device. Plans read them and update them with `assign`; several plans may share a store, and one
/// plan may be run with different stores.
pub struct Store {
    device: Device,
    states: RwLock<BTreeMap<String, Arc<State>>>,
    readback: Readback,
}

/// Whether a buffer can be bound as a tensor of a type.
pub(super) fn holds(buffer: &wgpu::Buffer, ty: &TensorType) -> bool {
    buffer.size() >= (ty.numel() as u64 * 4).max(4) && buffer.usage().contains(wgpu::BufferUsages::STORAGE)
}

impl State {
    /// Its buffer, on a GPU: for others on the same device to read or write between runs, without a copy.
    pub fn buffer(&self) -> Option<&wgpu::Buffer> {
        match &self.memory {
            Memory::Gpu(buffer) => Some(buffer),
            _ => None,
        }
    }
}

impl Store {
    /// An empty store.
    pub fn new(device: &Device) -> Self {
        Store { device: device.clone(), states: RwLock::default(), readback: Readback::default() }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Adds or overwrites a state. A state of the same type keeps its buffer.
    ///
    /// # Errors
    /// [`Error::Limit`] if the device, [`GpuOptions::memory_limit`](crate::GpuOptions::memory_limit) or a tensor's
    /// number of elements does not allow it; [`Error::OutOfMemory`] if there is no room; what a
    /// [device](crate::error#what-a-device-reports) reports.
    pub fn set(&self, name: &str, tensor: &Tensor) -> Result<()> {
        if let Some(state) = self.get(name).filter(|s| s.ty == tensor.ty()) {
            return self.write(&state, tensor);
        }
        let state = self.make(name, &tensor.ty())?;
        self.write(&state, tensor)?;
        self.insert(name, state);
        Ok(())
    }

    /// Adds a state of zeros, or zeroes one of the same type.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn set_zeros(&self, name: &str, ty: &TensorType) -> Result<()> {
        match self.get(name).filter(|s| s.ty == *ty) {
            Some(_) => self.set(name, &Tensor::zeros(ty)),
            None => {
                let state = self.make(name, ty)?;
                self.insert(name, state);
                Ok(())
            }
        }
    }

    /// Makes a buffer of the caller a state, without a copy: plans read it, and write it with
    /// [`Graph::assign`](crate::Graph::assign). It holds the tensor from its start on, row by row, four bytes an element. It
    /// must be of the store's device and have the usage `STORAGE`, for [`set`](Self::set) also `COPY_DST`, for
    /// [`read`](Self::read) `COPY_SRC`. A state of that name is replaced.
    ///
    /// # Errors
    /// [`Error::Name`] on the CPU executor, and for a buffer that is too small or lacks the usage `STORAGE`;
    /// [`Error::Limit`] for a type with more elements than a tensor can have.
    pub fn adopt(&self, name: &str, ty: &TensorType, buffer: wgpu::Buffer) -> Result<()> {
        ty.check_size(&|| format!("state {name}"))?;
        let refuse = |message: String| Err(Error::Name { kind: "state", name: name.to_owned(), message });
        if !self.device.is_gpu() {
            return refuse(format!("a buffer of a GPU cannot be a state on {}; use set", self.device));
        }
        if !holds(&buffer, ty) {
            return refuse(format!(
                "{ty} needs a buffer of at least {} bytes with the usage STORAGE, this one has {} bytes for {:?}",
                (ty.numel() * 4).max(4),
                buffer.size(),
                buffer.usage()
            ));
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        // The caller's memory counts for the caller.
        self.insert(name, State { id, ty: ty.clone(), memory: Memory::Gpu(buffer), _held: None });
        Ok(())
    }

    /// Adds states of zeros, all of them or none: what the device's limits or its memory refuse is refused before any state
    /// is made, as far as that is known, and else none is kept. A state of the same type is left as it is.
    pub(crate) fn reserve(&self, states: &[(String, TensorType)]) -> Result<()> {
        let missing: Vec<_> = states.iter().filter(|(n, ty)| self.get(n).is_none_or(|s| s.ty != *ty)).collect();
        let double = matches!(&self.device, Device::Cpu(precision) if *precision != Precision::F32);
        let element = if double { 8 } else { 4 };
        let total = missing.iter().fold(0u64, |sum, (_, ty)| sum.saturating_add(ty.numel() as u64 * element));
        for (name, ty) in &missing {
            ty.check_size(&|| format!("state {name}"))?;
            if let Device::Gpu(gpu) = &self.device {
                gpu.fits(name, ty.numel() as u64 * 4, total)?;
            }
        }
        if let Device::Gpu(gpu) = &self.device {
            // All of it at once, before any of it.
            drop(gpu.hold("all states together", total, total)?);
        }
        let full = |requested| Error::OutOfMemory { requested, peak: total };
        let on_host = self.device.as_gpu().is_none_or(|gpu| gpu.capabilities().software);
        if on_host && crate::device::memory::free().is_some_and(|free| total > free) {
            return Err(full(total));
        }
        if !self.device.is_gpu() {
            // Address space for all of it, given back at once: tells what can never be had, and touches no page.
            let mut probe: Vec<u8> = Vec::new();
            let bytes = usize::try_from(total).map_err(|_| full(total))?;
            probe.try_reserve_exact(bytes).map_err(|_| full(total))?;
        }
        let make = |(name, ty): &(String, TensorType)| match self.make(name, ty) {
            Err(Error::OutOfMemory { requested, .. }) => Err(full(requested)),
            other => other,
        };
        let made: Vec<State> = missing.iter().map(|s| make(s)).collect::<Result<_>>()?;
        missing.iter().zip(made).for_each(|((name, _), state)| self.insert(name, state));
        Ok(())
    }

    fn insert(&self, name: &str, state: State) {
        let mut states = self.states.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        states.insert(name.to_owned(), Arc::new(state));
    }

    /// A state by name.
    pub fn get(&self, name: &str) -> Option<Arc<State>> {
        self.states.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(name).cloned()
    }

    /// All names in order.
    pub fn names(&self) -> Vec<String> {
        self.states.read().unwrap_or_else(std::sync::PoisonError::into_inner).keys().cloned().collect()
    }

    /// Bytes of all states.
    pub fn bytes(&self) -> u64 {
        let states = self.states.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        states.values().map(|s| s.ty.numel() as u64 * 4).sum()
    }

    fn make(&self, name: &str, ty: &TensorType) -> Result<State> {
        ty.check_size(&|| format!("state {name}"))?;
        let n = ty.numel();
        let held = match &self.device {
            Device::Gpu(gpu) => {
                let bytes = n as u64 * 4;
                gpu.fits(name, bytes, bytes)?;
                Some(gpu.hold(&format!("state {name}"), bytes, bytes)?)
            }
            Device::Cpu(_) => {
                crate::device::memory::room(n as u64 * 4, n as u64 * 4)?;
                None
            }
        };
        let memory = match (&self.device, ty.dtype) {
            (Device::Gpu(gpu), _) => {
                use wgpu::BufferUsages as U;
                let bytes = n as u64 * 4;
                let usage = U::STORAGE | U::COPY_DST | U::COPY_SRC;
                Memory::Gpu(gpu.guarded_now(bytes, || gpu.buffer(name, bytes, usage, bytes))?)
            }
            (Device::Cpu(_), DType::U32) => Memory::U32(Arc::new(Mutex::new(zeros(n, 0)?))),
            (Device::Cpu(Precision::F32), DType::F32) => Memory::F32(Arc::new(Mutex::new(zeros(n, 0.0)?))),
            #[cfg(feature = "oracle")]
            (Device::Cpu(Precision::F64), DType::F32) => Memory::F64(Arc::new(Mutex::new(zeros(n, 0.0)?))),
        };
        Ok(State { id: NEXT.fetch_add(1, Ordering::Relaxed), ty: ty.clone(), memory, _held: held })
    }

    fn write(&self, state: &State, tensor: &Tensor) -> Result<()> {
        use crate::device::lock;
        match (&state.memory, tensor.data()) {
            (Memory::Gpu(buffer), data) => {
                let Device::Gpu(gpu) = &self.device else {
                    return Ok(());
                };
                gpu.guarded_now(data.bytes().len() as u64, || {
                    if !data.is_empty() {
                        gpu.queue.write_buffer(buffer, 0, data.bytes());
                    }
                    if data.bytes().len() >= LARGE {
                        // Copies wait for a submit; many large ones would fill the host's memory.
                        gpu.queue.submit([]);
                        #[cfg(not(target_arch = "wasm32"))]
                        gpu.poll(wgpu::PollType::wait_indefinitely())?;
                    }
                    Ok(())
                })?;
            }
            (Memory::F32(m), Data::F32(d)) => lock(m).copy_from_slice(d),
            #[cfg(feature = "oracle")]
            (Memory::F64(m), Data::F32(d)) => {
                lock(m).iter_mut().zip(d).for_each(|(m, d)| *m = f64::from(*d));
            }
            (Memory::U32(m), Data::U32(d)) => lock(m).copy_from_slice(d),
            _ => return Err(Error::argument("state", "element types differ")),
        }
        Ok(())
    }

    /// Reads a state to the host.
    ///
    /// # Errors
    /// [`Error::Name`] for an unknown name, with those there are; what a [device](crate::error#what-a-device-reports)
    /// reports.
    pub async fn read(&self, name: &str) -> Result<Tensor> {
        let Some(state) = self.get(name) else {
            let message = format!("the store has no such state; it has {}", super::listed(self.names()));
            return Err(Error::Name { kind: "state", name: name.to_owned(), message });
        };
        within(span!(TRACE, "read", name = name, elements = state.ty.numel()), self.read_state(&state)).await
    }

    async fn read_state(&self, state: &State) -> Result<Tensor> {
        use crate::device::lock;
        let data = match &state.memory {
            Memory::Gpu(buffer) => {
                let Device::Gpu(gpu) = &self.device else {
                    return Err(Error::argument("state", "lives on another device"));
                };
                let bytes = self.readback.read(gpu, buffer, 0, state.ty.numel() as u64 * 4).await?;
                from_bytes(&bytes, state.ty.dtype)
            }
            Memory::F32(m) => Data::F32(lock(m).clone()),
            #[cfg(feature = "oracle")]
            Memory::F64(m) => Data::F32(lock(m).iter().map(|x| *x as f32).collect()),
            Memory::U32(m) => Data::U32(lock(m).clone()),
        };
        Tensor::new(state.ty.shape.clone(), data)
    }

    /// [`read`](Self::read), waiting on this thread.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_blocking(&self, name: &str) -> Result<Tensor> {
        pollster::block_on(self.read(name))
    }
}

/// Elements from raw bytes.
pub(crate) fn from_bytes(bytes: &[u8], dtype: DType) -> Data {
    match dtype {
        DType::F32 => Data::F32(bytemuck::pod_collect_to_vec(bytes)),
        DType::U32 => Data::U32(bytemuck::pod_collect_to_vec(bytes)),
    }
}
