//! Named parameters, in order.

use super::Init;
use super::init::Draw;
use super::layout::cut;
use super::param::Param;
use crate::error::{Error, Result};
use crate::types::{Data, MAX_ELEMENTS, Shape, Tensor, TensorType};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Bytes that every WebGPU device can bind at once: 128 MiB.
const PORTABLE_BINDING: u64 = 128 << 20;

/// Ordered parameters with PyTorch names. Values are drawn when they are asked for.
///
/// The first mistake (a name used twice, values of a wrong length) is kept, so that models are built without `?`;
/// [`store`](Self::store) and [`vars`](Self::vars) report it.
#[derive(Clone, Debug)]
pub struct Params {
    seed: u64,
    params: Vec<Param>,
    index: FxHashMap<String, usize>,
    error: Option<Error>,
    /// Groups whose parameters have a flat buffer each.
    separate: Vec<String>,
    /// Bytes of a flat buffer.
    limit: u64,
}

pub(super) fn refuse(name: &str, message: impl Into<String>) -> Error {
    Error::Name { kind: "parameter", name: name.to_owned(), message: message.into() }
}

impl Params {
    /// No parameters yet; `seed` keys the initial values.
    pub fn new(seed: u64) -> Self {
        Params {
            seed,
            params: Vec::new(),
            index: FxHashMap::default(),
            error: None,
            separate: Vec::new(),
            limit: PORTABLE_BINDING,
        }
    }

    /// Adds a parameter; the result may be given a group or made a buffer.
    pub fn add(&mut self, name: impl Into<String>, shape: impl Into<Shape>, init: Init) -> &mut Param {
        self.insert(name.into(), shape.into(), init)
    }

    fn insert(&mut self, name: String, mut shape: Shape, init: Init) -> &mut Param {
        let size = match shape[..] {
            // Tables are cut: no tensor has all of one.
            [rows, width] => cut(&name, rows, width, 4 * MAX_ELEMENTS).map(drop),
            _ => TensorType::f32(shape.clone()).check_size(&|| format!("parameter {name}")),
        };
        if let Err(error) = size {
            self.error.get_or_insert(error);
            shape = [0].into();
        }
        let mistake = if self.index.contains_key(&name) {
            Some("added twice; every parameter has one name".to_owned())
        } else if name.is_empty() || name.starts_with("optim.") || name == "__metadata__" {
            Some("reserved in checkpoints; choose another name".to_owned())
        } else {
            match &init {
                Init::Values(v) if self.error.is_none() && v.len() != shape.numel() => {
                    Some(format!("{} values for shape {shape}, which has {}", v.len(), shape.numel()))
                }
                _ => None,
            }
        };
        if let Some(message) = mistake {
            self.error.get_or_insert(refuse(&name, message));
        }
        let at = self.params.len();
        self.index.entry(name.clone()).or_insert(at);
        self.params.push(Param::new(name, shape, init));
        &mut self.params[at]
    }

    /// The first mistake, if any.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// The same parameters with initial values of another seed; values that were set stay.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Seed of the initial values.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Number of parameters, buffers included.
    pub fn len(&self) -> usize {
        self.params.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    /// Number of elements of all parameters, buffers included.
    pub fn numel(&self) -> usize {
        self.params.iter().fold(0, |n, p| n.saturating_add(p.shape.numel()))
    }

    /// The parameters in the order they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Param> {
        self.params.iter()
    }

    /// Names in the order they were added.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.params.iter().map(Param::name)
    }

    /// One parameter.
    ///
    /// # Errors
    /// [`Error::Name`] for an unknown name, with some that there are.
    pub fn get(&self, name: &str) -> Result<&Param> {
        match self.index.get(name) {
            Some(i) => Ok(&self.params[*i]),
            None => Err(refuse(name, self.unknown())),
        }
    }

    /// One parameter, to give it a group or make it a buffer.
    ///
    /// # Errors
    /// [`Error::Name`] for an unknown name, with some that there are.
    pub fn get_mut(&mut self, name: &str) -> Result<&mut Param> {
        match self.index.get(name) {
            Some(i) => Ok(&mut self.params[*i]),
            None => Err(refuse(name, self.unknown())),
        }
    }

    /// Gives each parameter of an optimizer group a state of its own instead of a part of a common one. Trainers do so
    /// with groups that are [updated by rows](crate::train::RowUpdates); for a plan that shares their store, take
    /// [`Trainer::params`](crate::train::Trainer::params), or do the same here. Names in checkpoints stay as they are.
    pub fn separate(&mut self, group: &str) {
        if !self.separate.iter().any(|s| s == group) {
            self.separate.push(group.to_owned());
        }
    }

    /// Whether parameters of this group have a state each.
    pub(super) fn is_separate(&self, group: &str) -> bool {
        self.separate.iter().any(|s| s == group)
    }

    /// Sets the most bytes that a state of parameters may have; 128 MiB by default, which every WebGPU device can bind.
    /// A larger matrix `[rows, width]` is cut by whole rows into several states of at most so many bytes: models read it
    /// with [`ParamVars::sharded`](super::ParamVars::sharded). In checkpoints it stays one tensor, so that a file fits any
    /// limit. A larger parameter of another rank is refused. For a plan that shares the store, set the same limit.
    pub fn limit(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    /// Most bytes of a state.
    pub(super) fn most_bytes(&self) -> u64 {
        self.limit
    }

    /// The parameter that was added as number `index`.
    pub(crate) fn nth(&self, index: usize) -> Option<&Param> {
        self.params.get(index)
    }

    fn unknown(&self) -> String {
        let known: Vec<&str> = self.names().take(20).collect();
        let more = if self.len() > 20 { ", …" } else { "" };
        format!("there is none; known are {}{more}", known.join(", "))
    }

    /// Value of one parameter on the host.
    ///
    /// # Errors
    /// [`Error::Name`] for an unknown name; [`Error::OutOfMemory`] if the host has no room for it.
    pub fn value(&self, name: &str) -> Result<Tensor> {
        let p = self.get(name)?;
        let mut values = room(p.shape.numel())?;
        values.resize(p.shape.numel(), 0.0);
        self.draw(p).fill(&mut values);
        Tensor::f32(p.shape.clone(), values)
    }

    /// Values of one parameter, piece by piece.
    pub(crate) fn draw<'a>(&self, param: &'a Param) -> Draw<'a> {
        param.init.draw(self.seed, &param.name)
    }

    /// Names and host values in order; each is drawn when the iterator comes to it.
    pub fn values(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.params.iter().filter_map(|p| Some((p.name(), self.value(&p.name).ok()?)))
    }

    /// Sets a value.
    ///
    /// # Errors
    /// [`Error::Name`] for an unknown name, and for a value of another shape or element type.
    pub fn set(&mut self, name: &str, value: Tensor) -> Result<()> {
        let want = TensorType::f32(self.get(name)?.shape.clone());
        if value.ty() != want {
            return Err(refuse(name, format!("expected {want}, got {}; load values of the same shape", value.ty())));
        }
        if let (Some(i), Data::F32(values)) = (self.index.get(name), value.into_data()) {
            self.put(*i, values);
        }
        Ok(())
    }

    /// Sets the values of parameter number `index`, as many as it has.
    pub(super) fn put(&mut self, index: usize, values: Vec<f32>) {
        if let Some(p) = self.params.get_mut(index) {
            p.init = Arc::new(Init::Values(values));
        }
    }
}

/// An empty vector with room for `n` values.
pub(super) fn room(n: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    match values.try_reserve_exact(n) {
        Ok(()) => Ok(values),
        Err(_) => {
            let requested = (n as u64).saturating_mul(4);
            Err(Error::OutOfMemory { requested, peak: requested })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::graph::Graph;
    use crate::nn::layout::ALIGN;

    fn params() -> Params {
        let mut p = Params::new(3);
        p.add("a.weight", [5, 7], Init::Normal { std: 0.5 });
        p.add("a.bias", [7], Init::Zeros).group("no_decay");
        p.add("freqs", [4], Init::Values(vec![1.0, 2.0, 3.0, 4.0])).buffer();
        p.add("scale", [], Init::Ones);
        p.add("empty", [0, 3], Init::Uniform { bound: 1.0 });
        p
    }

    #[test]
    fn values_depend_on_seed_and_name_only() -> Result<()> {
        let mut other = Params::new(3);
        other.add("first", [9], Init::Normal { std: 1.0 });
        other.add("a.weight", [5, 7], Init::Normal { std: 0.5 });
        assert_eq!(params().value("a.weight")?, other.value("a.weight")?);
        let mut seeded = Params::new(4);
        seeded.add("a.weight", [5, 7], Init::Normal { std: 0.5 });
        assert_ne!(params().value("a.weight")?, seeded.value("a.weight")?);
        let mut wide = Params::new(1);
        wide.add("n", [10_001], Init::Normal { std: 2.0 });
        wide.add("u", [10_001], Init::Uniform { bound: 3.0 });
        let moments = |t: Tensor| {
            let n = t.floats().len() as f64;
            let mean = t.floats().iter().map(|x| f64::from(*x)).sum::<f64>() / n;
            let square = t.floats().iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n;
            (mean, square)
        };
        let (mean, square) = moments(wide.value("n")?);
        assert!(mean.abs() < 0.06 && (square - 4.0).abs() < 0.2);
        let (mean, square) = moments(wide.value("u")?);
        assert!(mean.abs() < 0.06 && (square - 3.0).abs() < 0.1);
        Ok(())
    }

    #[test]
    fn flat_buffers_round_trip() -> Result<()> {
        let p = params();
        let shards = p.shards()?;
        let names: Vec<&str> = shards.iter().map(|s| s.state.as_str()).collect();
        assert_eq!(names, ["params/default/0", "params/no_decay/0", "buffers/0"]);
        assert!(shards.iter().all(|s| s.len % ALIGN == 0 && s.segments.iter().all(|x| x.offset % ALIGN == 0)));
        let store = p.store(&Device::cpu())?;
        let mut q = params();
        q.set("scale", Tensor::scalar(9.0))?;
        pollster::block_on(q.read_from(&store))?;
        assert!(p.values().eq(q.values()));
        Ok(())
    }

    #[test]
    fn large_groups_are_cut_into_shards() -> Result<()> {
        let half = PORTABLE_BINDING as usize / 8;
        let mut p = Params::new(0);
        for i in 0..3 {
            p.add(format!("w{i}"), [half - 10], Init::Zeros);
        }
        p.add("table", [5, half], Init::Zeros);
        p.add("after", [1], Init::Zeros);
        let shards = p.shards()?;
        let lens: Vec<usize> = shards.iter().map(|s| s.segments.len()).collect();
        assert_eq!(lens, [2, 1, 1, 1, 1, 1]);
        let starts: Vec<usize> = shards[2..5].iter().map(|s| s.segments[0].start).collect();
        assert_eq!(starts, [0, 2 * half, 4 * half]);
        p.add("huge", [2 * half + 1], Init::Zeros);
        assert!(matches!(p.shards(), Err(Error::Limit { .. })));
        p.limit(PORTABLE_BINDING + 256);
        assert_eq!(p.shards()?.len(), 7);
        Ok(())
    }

    #[test]
    fn pieces_of_values_are_those_of_the_whole() -> Result<()> {
        for init in
            [Init::Normal { std: 0.5 }, Init::Uniform { bound: 2.0 }, Init::Values((0..35).map(|i| i as f32).collect())]
        {
            let mut p = Params::new(3);
            p.add("t", [7, 5], init);
            let whole = p.value("t")?;
            let param = p.get("t")?;
            let mut draw = p.draw(param);
            let mut pieces = vec![0.0; 35];
            pieces.chunks_mut(3).for_each(|piece| draw.fill(piece));
            assert_eq!(whole.floats(), pieces);
        }
        Ok(())
    }

    #[test]
    fn separate_groups_have_a_buffer_a_parameter() -> Result<()> {
        let mut p = params();
        p.separate("default");
        let names: Vec<String> = p.shards()?.into_iter().map(|s| s.state).collect();
        let numbered = ["params/default/0", "params/default/1", "params/default/2", "params/no_decay/0", "buffers/0"];
        assert_eq!(names, numbered);
        Ok(())
    }

    #[test]
    fn mistakes_are_reported() {
        let mut p = params();
        assert!(matches!(p.set("nope", Tensor::scalar(0.0)), Err(Error::Name { .. })));
        assert!(matches!(p.set("a.bias", Tensor::scalar(0.0)), Err(Error::Name { .. })));
        p.add("scale", [1], Init::Zeros);
        assert!(matches!(p.store(&Device::cpu()), Err(Error::Name { .. })));
        let graph = Graph::new();
        p.vars(&graph);
        assert!(graph.error().is_some());
        let graph = Graph::new();
        params().vars(&graph).scope("a").get("nope");
        assert!(matches!(graph.error(), Some(Error::Name { .. })));
    }
}
