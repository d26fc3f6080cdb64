//! State between runs: parameters, moments, memories, caches.

use crate::device::readback::Readback;
use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::types::{DType, Data, Tensor, TensorType};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

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
}

/// Named states on one device. Plans read them and update them with `assign`; several plans may share a store, and one
/// plan may be run with different stores.
pub struct Store {
    device: Device,
    states: RwLock<BTreeMap<String, Arc<State>>>,
    readback: Readback,
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
        ty.check_size(|| format!("state {name}"))?;
        let n = ty.numel();
        let memory = match (&self.device, ty.dtype) {
            (Device::Gpu(gpu), _) => {
                use wgpu::BufferUsages as U;
                let bytes = n as u64 * 4;
                let usage = U::STORAGE | U::COPY_DST | U::COPY_SRC;
                Memory::Gpu(gpu.guarded_now(bytes, || gpu.buffer(name, bytes, usage, bytes))?)
            }
            (Device::Cpu(_), DType::U32) => Memory::U32(Arc::new(Mutex::new(vec![0; n]))),
            (Device::Cpu(Precision::F32), DType::F32) => Memory::F32(Arc::new(Mutex::new(vec![0.0; n]))),
            #[cfg(feature = "oracle")]
            (Device::Cpu(Precision::F64), DType::F32) => Memory::F64(Arc::new(Mutex::new(vec![0.0; n]))),
        };
        Ok(State { id: NEXT.fetch_add(1, Ordering::Relaxed), ty: ty.clone(), memory })
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
    pub async fn read(&self, name: &str) -> Result<Tensor> {
        use crate::device::lock;
        let Some(state) = self.get(name) else {
            let message = format!("the store has no such state; it has {}", super::listed(self.names()));
            return Err(Error::Name { kind: "state", name: name.to_owned(), message });
        };
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
