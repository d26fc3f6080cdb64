//! Named parameters and where they lie on a device.

use super::Init;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::Store;
use crate::types::{Shape, Tensor, TensorType};
use rustc_hash::FxHashMap;

/// Elements to which segments of a flat buffer are aligned: 256 bytes, the portable alignment of bindings.
pub(crate) const ALIGN: usize = 64;
/// Elements of a flat buffer: 128 MiB, the portable limit of one binding. A larger parameter has a buffer of its own.
const SHARD: usize = (128 << 20) / 4;

/// One parameter.
#[derive(Clone, Debug)]
pub struct Param {
    name: String,
    shape: Shape,
    init: Init,
    group: String,
    trainable: bool,
}

impl Param {
    /// Puts it into an optimizer group of its own learning rate and weight decay; the default is `"default"`.
    pub fn group(&mut self, group: impl Into<String>) -> &mut Self {
        self.group = group.into();
        self
    }

    /// Makes it a buffer: stored and loaded with the parameters, but not trained. Graphs can write it with
    /// [`ParamVars::assign`](super::ParamVars::assign).
    pub fn buffer(&mut self) -> &mut Self {
        self.trainable = false;
        self
    }

    /// Name, as in a PyTorch `state_dict`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Optimizer group.
    pub fn group_name(&self) -> &str {
        &self.group
    }

    /// Whether it is trained.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }
}

/// A parameter's place in a flat buffer.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// Number of the parameter.
    pub param: usize,
    /// First element; a multiple of [`ALIGN`].
    pub offset: usize,
    /// Elements.
    pub len: usize,
}

/// One flat buffer of parameters.
#[derive(Clone, Debug)]
pub(crate) struct Shard {
    /// Name of its state.
    pub state: String,
    /// Optimizer group; `None` for buffers that are not trained.
    pub group: Option<String>,
    /// Elements, a multiple of [`ALIGN`]; those between segments are 0.
    pub len: usize,
    pub segments: Vec<Segment>,
}

impl Shard {
    pub fn ty(&self) -> TensorType {
        TensorType::f32([self.len])
    }
}

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
}

fn refuse(name: &str, message: impl Into<String>) -> Error {
    Error::Name { kind: "parameter", name: name.to_owned(), message: message.into() }
}

impl Params {
    /// No parameters yet; `seed` keys the initial values.
    pub fn new(seed: u64) -> Self {
        Params { seed, params: Vec::new(), index: FxHashMap::default(), error: None, separate: Vec::new() }
    }

    /// Adds a parameter; the result may be given a group or made a buffer.
    pub fn add(&mut self, name: impl Into<String>, shape: impl Into<Shape>, init: Init) -> &mut Param {
        let (name, shape) = (name.into(), shape.into());
        let mistake = if self.index.contains_key(&name) {
            Some("added twice; every parameter has one name".to_owned())
        } else if name.is_empty() || name.starts_with("optim.") || name == "__metadata__" {
            Some("reserved in checkpoints; choose another name".to_owned())
        } else {
            match &init {
                Init::Values(v) if v.len() != shape.numel() => {
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
        self.params.push(Param { name, shape, init, group: "default".into(), trainable: true });
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
        self.params.iter().map(|p| p.shape.numel()).sum()
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
    pub fn get(&self, name: &str) -> Result<&Param> {
        match self.index.get(name) {
            Some(i) => Ok(&self.params[*i]),
            None => Err(refuse(name, self.unknown())),
        }
    }

    /// One parameter, to give it a group or make it a buffer.
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
    pub fn value(&self, name: &str) -> Result<Tensor> {
        let p = self.get(name)?;
        Tensor::f32(p.shape.clone(), p.init.draw(self.seed, &p.name, p.shape.numel()))
    }

    /// Names and host values in order; each is drawn when the iterator comes to it.
    pub fn values(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.params.iter().filter_map(|p| Some((p.name(), self.value(&p.name).ok()?)))
    }

    /// Sets a value. Fails when there is no such parameter or its shape differs.
    pub fn set(&mut self, name: &str, value: Tensor) -> Result<()> {
        let want = TensorType::f32(self.get(name)?.shape.clone());
        if value.ty() != want {
            return Err(refuse(name, format!("expected {want}, got {}; load values of the same shape", value.ty())));
        }
        if let Some(i) = self.index.get(name) {
            self.params[*i].init = Init::Values(value.floats().to_vec());
        }
        Ok(())
    }

    /// Flat buffers: every group's parameters in order, then what is not trained.
    pub(crate) fn shards(&self) -> Vec<Shard> {
        let mut groups: Vec<Option<&str>> = Vec::new();
        for p in &self.params {
            let group = p.trainable.then_some(p.group.as_str());
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        let mut shards: Vec<Shard> = Vec::new();
        for group in groups {
            let mut count = 0;
            let first = shards.len();
            // Buffers are written one by one, see ParamVars::assign.
            let alone = group.is_none_or(|group| self.separate.iter().any(|s| s == group));
            for (param, p) in self.params.iter().enumerate() {
                if p.trainable.then_some(p.group.as_str()) != group {
                    continue;
                }
                let len = p.shape.numel();
                let room = len.max(1).next_multiple_of(ALIGN);
                let full = alone || shards[first..].last().is_none_or(|s| s.len + room > SHARD);
                if full {
                    let state = match group {
                        Some(group) => format!("params/{group}/{count}"),
                        None => format!("buffers/{count}"),
                    };
                    count += 1;
                    shards.push(Shard { state, group: group.map(str::to_owned), len: 0, segments: Vec::new() });
                }
                if let Some(shard) = shards.last_mut() {
                    let offset = shard.len;
                    shard.len += room;
                    shard.segments.push(Segment { param, offset, len });
                }
            }
        }
        shards
    }

    /// Makes a store with all parameters on a device.
    pub fn store(&self, device: &Device) -> Result<Store> {
        let store = Store::new(device);
        self.load_into(&store)?;
        Ok(store)
    }

    /// Writes all values into a store.
    pub fn load_into(&self, store: &Store) -> Result<()> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        for shard in self.shards() {
            let mut flat = vec![0.0; shard.len];
            for s in &shard.segments {
                let p = &self.params[s.param];
                let values = p.init.draw(self.seed, &p.name, s.len);
                flat[s.offset..s.offset + s.len].copy_from_slice(&values);
            }
            store.set(&shard.state, &Tensor::f32([shard.len], flat)?)?;
        }
        Ok(())
    }

    /// Takes over all values from a store; changes nothing if one of them cannot be read.
    pub async fn read_from(&mut self, store: &Store) -> Result<()> {
        for (param, values) in self.read_flat(store, |s| s.state.clone(), |_| true).await? {
            self.params[param].init = Init::Values(values);
        }
        Ok(())
    }

    /// Values per parameter from flat states that lie like the parameters, under other names.
    pub(crate) async fn read_flat(
        &self,
        store: &Store,
        state: impl Fn(&Shard) -> String,
        wanted: impl Fn(&Shard) -> bool,
    ) -> Result<Vec<(usize, Vec<f32>)>> {
        let mut values = Vec::new();
        for shard in self.shards().iter().filter(|s| wanted(s)) {
            let name = state(shard);
            let flat = store.read(&name).await?;
            if flat.ty() != shard.ty() {
                let message = format!("the parameters need {}, it is {}", shard.ty(), flat.ty());
                return Err(Error::Name { kind: "state", name, message });
            }
            for s in &shard.segments {
                let part = &flat.floats()[s.offset..s.offset + s.len];
                values.push((s.param, part.to_vec()));
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;

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
        let shards = p.shards();
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
    fn large_groups_are_cut_into_shards() {
        let mut p = Params::new(0);
        for i in 0..3 {
            p.add(format!("w{i}"), [SHARD / 2 - 10], Init::Zeros);
        }
        p.add("huge", [SHARD + 1], Init::Zeros);
        let lens: Vec<usize> = p.shards().iter().map(|s| s.segments.len()).collect();
        assert_eq!(lens, [2, 1, 1]);
    }

    #[test]
    fn separate_groups_have_a_buffer_a_parameter() {
        let mut p = params();
        p.separate("default");
        let names: Vec<String> = p.shards().into_iter().map(|s| s.state).collect();
        let numbered = ["params/default/0", "params/default/1", "params/default/2", "params/no_decay/0", "buffers/0"];
        assert_eq!(names, numbered);
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
