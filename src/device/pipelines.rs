//! Pipelines and binding layouts, each made once.

use super::gpu::{Gpu, lock};
use crate::error::{Error, Result};
use crate::kernels::{Access, Dispatch};
use crate::trace::event;
use rustc_hash::{FxHashMap, FxHashSet};
#[cfg(not(target_arch = "wasm32"))]
use std::panic::resume_unwind;
use std::sync::Arc;
#[cfg(not(target_arch = "wasm32"))]
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// Key of a pipeline: text, constants, and the bindings.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PipelineKey {
    text: Arc<str>,
    constants: Vec<(&'static str, u64)>,
    layout: LayoutKey,
}

/// Pipelines made before the browser gets a turn.
#[cfg(target_arch = "wasm32")]
const SLICE: usize = 8;

/// Accesses of the storage bindings, then whether a static uniform and the globals follow.
type LayoutKey = (Vec<Access>, bool, bool);

/// What was made so far.
#[derive(Default)]
pub(super) struct Caches {
    layouts: FxHashMap<LayoutKey, wgpu::BindGroupLayout>,
    pipelines: FxHashMap<PipelineKey, wgpu::ComputePipeline>,
}

impl PipelineKey {
    fn new(dispatch: &Dispatch) -> Result<Self> {
        let constants = dispatch.constants.iter();
        Ok(PipelineKey {
            text: dispatch.source.text()?.into(),
            constants: constants.map(|(n, v)| (*n, v.to_bits())).collect(),
            layout: layout_key(dispatch),
        })
    }
}

impl Gpu {
    /// Makes the pipelines that `dispatches` need and that are not there yet. Fails with the first shader that does not
    /// compile; nothing of it stays in the cache.
    pub(crate) async fn compile(&self, dispatches: &[Dispatch]) -> Result<()> {
        self.check()?;
        let mut missing: Vec<(PipelineKey, &Dispatch)> = Vec::new();
        let mut seen = FxHashSet::default();
        for dispatch in dispatches {
            let key = PipelineKey::new(dispatch)?;
            if !lock(&self.caches).pipelines.contains_key(&key) && seen.insert(key.clone()) {
                missing.push((key, dispatch));
            }
        }
        self.counters.wanted.fetch_add(missing.len() as u64, Ordering::Relaxed);
        if !missing.is_empty() {
            event!(DEBUG, "making pipelines", missing = missing.len());
        }
        self.make_pipelines(&missing).await
    }

    /// Makes them a few at a time, so that the page gets a turn in between; the browser compiles them beside it.
    #[cfg(target_arch = "wasm32")]
    async fn make_pipelines(&self, missing: &[(PipelineKey, &Dispatch)]) -> Result<()> {
        let mut failed = None;
        for slice in missing.chunks(SLICE) {
            let pending: Vec<_> = slice.iter().map(|(key, dispatch)| self.make_checked(key, dispatch)).collect();
            for made in pending {
                if let Err(error) = made.await {
                    failed.get_or_insert(error);
                }
            }
            self.check()?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Makes them on as many threads as there are cores: translation and drivers take milliseconds for each.
    #[cfg(not(target_arch = "wasm32"))]
    async fn make_pipelines(&self, missing: &[(PipelineKey, &Dispatch)]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut first: Option<(usize, Error)> = None;
            while let Some((at, (key, dispatch))) = next_of(missing, &next) {
                if let Err(error) = self.check().and_then(|()| pollster::block_on(self.make_checked(key, dispatch))) {
                    first.get_or_insert((at, error));
                }
            }
            first
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let failed = std::thread::scope(|scope| {
            let others: Vec<_> = (1..cores.min(missing.len())).map(|_| scope.spawn(work)).collect();
            let mine = work();
            let theirs =
                others.into_iter().filter_map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            theirs.chain(mine).min_by_key(|(at, _)| *at)
        });
        self.check()?;
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Makes a pipeline and leaves it in the cache if its shader compiles. An error scope belongs to its thread: it ends
    /// before anything is awaited.
    fn make_checked(&self, key: &PipelineKey, dispatch: &Dispatch) -> impl Future<Output = Result<()>> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        self.make_pipeline(dispatch, key.clone());
        let error = scope.pop();
        async move {
            let Some(error) = error.await else { return Ok(()) };
            lock(&self.caches).pipelines.remove(key);
            let kernel = dispatch.source.name().to_owned();
            Err(Error::ShaderCompile { kernel, line: None, log: error.to_string() })
        }
    }

    /// Layout of the bindings of a dispatch.
    pub(crate) fn layout(&self, dispatch: &Dispatch) -> wgpu::BindGroupLayout {
        lock(&self.caches).layout(&self.device, layout_key(dispatch))
    }

    /// Pipeline of a dispatch, from the cache or new.
    pub(crate) fn pipeline(&self, dispatch: &Dispatch) -> Result<wgpu::ComputePipeline> {
        let key = PipelineKey::new(dispatch)?;
        if let Some(pipeline) = lock(&self.caches).pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        Ok(self.make_pipeline(dispatch, key))
    }

    fn make_pipeline(&self, dispatch: &Dispatch, key: PipelineKey) -> wgpu::ComputePipeline {
        let name = Some(dispatch.source.name());
        let layout = self.layout(dispatch);
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: name,
            source: wgpu::ShaderSource::Wgsl(key.text.as_ref().into()),
        });
        let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: name,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: name,
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
        lock(&self.caches).pipelines.insert(key, pipeline.clone());
        pipeline
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

#[cfg(not(target_arch = "wasm32"))]
fn next_of<'a, T>(all: &'a [T], next: &AtomicUsize) -> Option<(usize, &'a T)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    Some((at, all.get(at)?))
}

fn layout_key(dispatch: &Dispatch) -> LayoutKey {
    (dispatch.bindings.iter().map(|b| b.access).collect(), dispatch.uniform.is_some(), dispatch.globals)
}
