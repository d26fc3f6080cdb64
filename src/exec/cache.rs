//! Plans kept by what they compute.

use super::Plan;
use crate::device::{Device, lock};
use crate::error::{Error, Result};
use crate::graph::{Graph, Kind, Var};
use crate::plan::Options;
use crate::trace::event;
use crate::types::Tensor;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

/// The plans of one device that were used last, found by what they compute: operations with their attributes, shapes,
/// names, constants, outputs, state updates and options. The capabilities are those of the device.
///
/// For programs that meet the same few shapes again and again: building a graph is cheap, compiling it is not. When the
/// cache is full, the plan that was not asked for longest goes; whoever still holds it may go on using it.
///
/// A plan keeps the outputs of its last run. Parts of a program that share one from several threads keep their results
/// in states of their own stores, or take turns from `run` to `read`.
///
/// ```
/// use wgrad::{Device, Feed, Graph, PlanCache, Tensor, TensorType};
///
/// # fn main() -> wgrad::Result<()> {
/// let plans = PlanCache::new(&Device::cpu(), 8)?;
/// for length in [3, 5, 3, 5] {
///     let graph = Graph::new();
///     let x = graph.input("x", TensorType::f32([length]));
///     let plan = plans.compile_blocking(&graph, &[("sum", x.sum_all())])?;
///     plan.run(&Feed::new().input("x", &Tensor::f32([length], vec![1.0; length])?))?;
/// }
/// assert_eq!((plans.stats().misses, plans.stats().hits), (2, 2));
/// # Ok(())
/// # }
/// ```
pub struct PlanCache {
    device: Device,
    capacity: usize,
    kept: Mutex<Kept>,
}

/// What a cache did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Plans that were there.
    pub hits: u64,
    /// Plans that had to be compiled.
    pub misses: u64,
    /// Plans that made room for others.
    pub evictions: u64,
}

#[derive(Default)]
struct Kept {
    /// The one used last stands last.
    plans: Vec<(Key, Arc<Plan>)>,
    stats: CacheStats,
}

/// All of a graph that its plan depends on. Compared whole, not by a hash: two graphs never share a plan by accident.
#[derive(PartialEq)]
struct Key {
    text: String,
    constants: Vec<Bits>,
}

/// A constant, equal to another if their bits are: NaN equals itself and 0 is not -0.
struct Bits(Arc<Tensor>);

impl PartialEq for Bits {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.ty() == other.0.ty() && self.0.data().bytes() == other.0.data().bytes()
    }
}

impl Key {
    fn of(graph: &Graph, outputs: &[(&str, Var<'_>)], options: Options) -> Key {
        let inner = graph.borrow();
        let mut text = String::new();
        let mut constants = Vec::new();
        for node in &inner.nodes {
            // Writing into a string does not fail.
            let _ = match &node.kind {
                Kind::Input(name) => write!(text, "input {name:?}"),
                Kind::State(name) => write!(text, "state {name:?}"),
                Kind::Constant(data) => {
                    constants.push(Bits(data.clone()));
                    write!(text, "constant")
                }
                Kind::Op(op) => write!(text, "{} {op:?}", op.name()),
            };
            let _ = writeln!(text, " {:?} {:?} {:?} {}", node.inputs, node.types, node.segment, node.copy);
        }
        for (name, var) in outputs {
            let _ = writeln!(text, "output {name:?} {:?}", var.value);
        }
        let _ = write!(text, "{:?} {:?} {options:?}", inner.assigns, inner.gate);
        Key { text, constants }
    }
}

impl PlanCache {
    /// A cache of up to `capacity` plans (at least 1) for a device.
    ///
    /// # Errors
    /// [`Error::Argument`] for a capacity of 0.
    pub fn new(device: &Device, capacity: usize) -> Result<PlanCache> {
        if capacity == 0 {
            return Err(Error::argument("plan cache", "the capacity is 0; a cache keeps at least one plan"));
        }
        Ok(PlanCache { device: device.clone(), capacity, kept: Mutex::default() })
    }

    /// [`Device::compile`], or the plan that was compiled for an equal graph before.
    ///
    /// # Errors
    /// As [`Device::compile`]; nothing is kept then.
    pub async fn compile(&self, graph: &Graph, outputs: &[(&str, Var<'_>)]) -> Result<Arc<Plan>> {
        self.compile_with(graph, outputs, Options::default()).await
    }

    /// [`compile`](Self::compile) with options.
    ///
    /// # Errors
    /// As [`Device::compile`]; nothing is kept then.
    pub async fn compile_with(
        &self,
        graph: &Graph,
        outputs: &[(&str, Var<'_>)],
        options: Options,
    ) -> Result<Arc<Plan>> {
        // What an erroneous graph looks like says nothing; compiling returns its error.
        let sound = graph.error().is_none() && outputs.iter().all(|(_, v)| v.graph().same(graph));
        let key = Key::of(graph, outputs, options);
        if let (true, Some(plan)) = (sound, self.find(&key)) {
            event!(DEBUG, "plan found in the cache", kept = self.len());
            return Ok(plan);
        }
        // Not under the lock: others may use and compile meanwhile.
        let plan = Arc::new(self.device.compile_with(graph, outputs, options).await?);
        Ok(self.keep(key, plan))
    }

    /// [`compile`](Self::compile), waiting on this thread.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn compile_blocking(&self, graph: &Graph, outputs: &[(&str, Var<'_>)]) -> Result<Arc<Plan>> {
        pollster::block_on(self.compile(graph, outputs))
    }

    fn find(&self, key: &Key) -> Option<Arc<Plan>> {
        let mut kept = lock(&self.kept);
        let at = kept.plans.iter().position(|(k, _)| k == key)?;
        let found = kept.plans.remove(at);
        let plan = found.1.clone();
        kept.plans.push(found);
        kept.stats.hits += 1;
        Some(plan)
    }

    fn keep(&self, key: Key, plan: Arc<Plan>) -> Arc<Plan> {
        let mut kept = lock(&self.kept);
        kept.stats.misses += 1;
        // Another thread may have compiled the same meanwhile; all go on with one.
        if let Some((_, plan)) = kept.plans.iter().find(|(k, _)| *k == key) {
            return plan.clone();
        }
        if kept.plans.len() == self.capacity {
            kept.plans.remove(0);
            kept.stats.evictions += 1;
        }
        kept.plans.push((key, plan.clone()));
        plan
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Hits, misses and evictions so far.
    pub fn stats(&self) -> CacheStats {
        lock(&self.kept).stats
    }

    /// Number of plans kept.
    pub fn len(&self) -> usize {
        lock(&self.kept).plans.len()
    }

    /// Whether no plan is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the plans kept hold on the device.
    pub fn bytes(&self) -> u64 {
        lock(&self.kept).plans.iter().map(|(_, plan)| plan.bytes()).sum()
    }

    /// Lets all plans go.
    pub fn clear(&self) {
        lock(&self.kept).plans.clear();
    }
}
