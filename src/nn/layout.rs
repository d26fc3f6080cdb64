//! Where parameters lie on a device: flat buffers, and tables in pieces.

use super::params::{Params, refuse, room};
use super::{Param, QuantTableType, ShardedType};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::Store;
use crate::types::{DType, Tensor, TensorType};

/// Elements to which segments of a flat buffer are aligned: 256 bytes, the portable alignment of bindings.
pub(crate) const ALIGN: usize = 64;
/// Pieces of one table; every use of the table is a dispatch a piece.
const MOST_PIECES: u64 = 4096;

/// A parameter's place, or that of a piece of it, in a flat buffer.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// Number of the parameter.
    pub param: usize,
    /// Number of the piece; 0 if it is not cut.
    pub piece: usize,
    /// First element within the parameter: 0, or a multiple of a row.
    pub start: usize,
    /// First element within the buffer; a multiple of [`ALIGN`].
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

    /// Number of the parameter, if it is the only one: pieces of one have equal numbers.
    pub fn param(&self) -> Option<usize> {
        match &self.segments[..] {
            [only] => Some(only.param),
            _ => None,
        }
    }
}

/// Flat buffers of one group.
struct Group<'a> {
    name: Option<&'a str>,
    /// Most elements of a buffer.
    most: usize,
    shards: Vec<Shard>,
}

impl Group<'_> {
    /// A new buffer.
    fn open(&mut self) {
        let count = self.shards.len();
        let state = match self.name {
            Some(group) => format!("params/{group}/{count}"),
            None => format!("buffers/{count}"),
        };
        self.shards.push(Shard { state, group: self.name.map(str::to_owned), len: 0, segments: Vec::new() });
    }

    /// A segment behind the last one.
    fn push(&mut self, param: usize, piece: usize, start: usize, len: usize) {
        if let Some(shard) = self.shards.last_mut() {
            let offset = shard.len;
            shard.len += len.max(1).next_multiple_of(ALIGN);
            shard.segments.push(Segment { param, piece, start, offset, len });
        }
    }

    /// A whole parameter.
    fn whole(&mut self, param: usize, len: usize, alone: bool) {
        let room = len.max(1).next_multiple_of(ALIGN);
        if alone || self.shards.last().is_none_or(|s| s.len + room > self.most) {
            self.open();
        }
        self.push(param, 0, 0, len);
    }
}

/// How a table is cut for bindings of `limit` bytes.
pub(super) fn cut(name: &str, rows: usize, width: usize, limit: u64) -> Result<ShardedType> {
    ShardedType::with_limit(DType::F32, rows, width, limit).map_err(|e| match e {
        Error::Limit { limit, needed, available, hint } => {
            let limit = format!("{limit} (for parameter {name} [{rows}, {width}])");
            Error::Limit { limit, needed, available, hint }
        }
        other => other,
    })
}

/// Name of the states of a rounded parameter.
pub(super) fn rounded_state(p: &Param) -> String {
    format!("quantized/{}", p.name())
}

impl Params {
    /// How a parameter is rounded, if it is.
    pub(super) fn rounded(&self, p: &Param) -> Result<Option<QuantTableType>> {
        let Some(how) = p.quantization() else { return Ok(None) };
        let &[rows, width] = &p.shape()[..] else {
            return Err(refuse(p.name(), format!("expected a table [rows, width] where quantised, got {}", p.shape())));
        };
        let ty = QuantTableType::with_limit(how, rows, width, self.most_bytes())?;
        // A scale a row.
        let (needed, available) = (4 * rows as u64, self.most_bytes());
        if how.scaled() && needed > available {
            let hint = "the scales of all rows lie in one state; use F16, or allow more with Params::limit".into();
            return Err(Error::Limit {
                limit: format!("largest state (for {}.scales)", p.name()),
                needed,
                available,
                hint,
            });
        }
        Ok(Some(ty))
    }

    /// All rounded parameters.
    pub(crate) fn all_rounded(&self) -> Result<Vec<(&Param, QuantTableType)>> {
        self.iter().filter_map(|p| Some(self.rounded(p).transpose()?.map(|ty| (p, ty)))).collect()
    }

    /// Names and types of all states of the parameters.
    pub(crate) fn states(&self) -> Result<Vec<(String, TensorType)>> {
        let mut states: Vec<_> = self.shards()?.iter().map(|s| (s.state.clone(), s.ty())).collect();
        states.extend(self.all_rounded()?.iter().flat_map(|(p, ty)| ty.named(&rounded_state(p))));
        Ok(states)
    }

    /// How a parameter is cut, if it is a table: larger than [`limit`](Params::limit) or marked as one. Refuses what is
    /// too large and cannot be cut.
    pub(super) fn cut(&self, p: &Param) -> Result<Option<ShardedType>> {
        let (limit, shape) = (self.most_bytes(), p.shape());
        let bytes = (shape.numel() as u64).saturating_mul(4);
        if bytes <= limit && !p.is_sharded() {
            return Ok(None);
        }
        let refused = |limit: String, needed, available, hint| Err(Error::Limit { limit, needed, available, hint });
        let &[rows, width] = &shape[..] else {
            if bytes <= limit {
                return Err(refuse(p.name(), format!("expected a table [rows, width] where sharded, got {shape}")));
            }
            let hint = "only tables [rows, width] are cut into pieces; reshape it, or allow more with Params::limit";
            return refused(format!("largest state (for parameter {} {shape})", p.name()), bytes, limit, hint.into());
        };
        let ty = cut(p.name(), rows, width, limit)?;
        let pieces = ty.shards().len() as u64;
        if pieces > MOST_PIECES {
            let hint = format!("it has {bytes} bytes; use fewer rows, or larger pieces with Params::limit");
            return refused(
                format!("largest number of pieces (for parameter {} {shape})", p.name()),
                pieces,
                MOST_PIECES,
                hint,
            );
        }
        Ok(Some(ty))
    }

    /// Flat buffers: every group's parameters in order, then what is not trained. Tables have a buffer for each piece.
    /// Fails with the first mistake, or when a parameter exceeds the limits.
    pub(crate) fn shards(&self) -> Result<Vec<Shard>> {
        if let Some(error) = self.error() {
            return Err(error.clone());
        }
        self.all_rounded()?;
        let group_of = |p: &Param| p.is_trainable().then(|| p.group_name().to_owned());
        let mut groups: Vec<Option<String>> = Vec::new();
        for p in self.iter() {
            let group = group_of(p);
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        let most = usize::try_from(self.most_bytes() / 4).unwrap_or(usize::MAX);
        let mut shards: Vec<Shard> = Vec::new();
        for name in groups {
            // Buffers are written one by one, see ParamVars::assign.
            let alone = name.as_ref().is_none_or(|name| self.is_separate(name));
            let mut group = Group { name: name.as_deref(), most, shards: Vec::new() };
            // What follows a table begins a new buffer: buffers hold parameters in the order they were added.
            let mut after_table = false;
            for (param, p) in self.iter().enumerate().filter(|(_, p)| p.quantization().is_none() && group_of(p) == name)
            {
                let cut = self.cut(p)?;
                match &cut {
                    None => group.whole(param, p.shape().numel(), alone || after_table),
                    Some(ty) => {
                        for (piece, rows) in ty.ranges().enumerate() {
                            group.open();
                            group.push(param, piece, rows.start * ty.width(), rows.len() * ty.width());
                        }
                    }
                }
                after_table = cut.is_some();
            }
            shards.extend(group.shards);
        }
        Ok(shards)
    }

    /// Refuses a device whose bindings are too small for the states.
    pub(crate) fn check_device(&self, device: &Device) -> Result<()> {
        let states = self.states()?;
        let Some(available) = device.as_gpu().map(|gpu| gpu.capabilities().binding_bytes) else {
            return Ok(());
        };
        match states.iter().find(|(_, ty)| ty.numel() as u64 * 4 > available) {
            None => Ok(()),
            Some((state, ty)) => Err(Error::Limit {
                limit: "maxStorageBufferBindingSize".into(),
                needed: ty.numel() as u64 * 4,
                available,
                hint: format!("{state} is a state of this size; lower Params::limit"),
            }),
        }
    }

    /// Makes a store with all parameters on a device. Everything that the device's limits refuse is refused before
    /// anything is made.
    ///
    /// # Errors
    /// [`Error::Name`] if two parameters have one name; [`Error::Limit`] if the device or [`limit`](Self::limit) does
    /// not allow a parameter; [`Error::OutOfMemory`]; what a [device](crate::error#what-a-device-reports) reports.
    pub fn store(&self, device: &Device) -> Result<Store> {
        let store = Store::new(device);
        self.check_device(device)?;
        store.reserve(&self.states()?)?;
        self.load_into(&store)?;
        Ok(store)
    }

    /// Writes all values into a store; one state at a time is in host memory.
    ///
    /// # Errors
    /// As [`store`](Self::store); [`Error::Argument`] if a quantised parameter has values that
    /// [`QuantTableType::quantize`](super::QuantTableType::quantize) refuses.
    pub fn load_into(&self, store: &Store) -> Result<()> {
        // Pieces of one table follow each other: its values are drawn on from piece to piece.
        let mut drawn: Option<(usize, super::init::Draw<'_>)> = None;
        for shard in self.shards()? {
            let mut flat = room(shard.len)?;
            flat.resize(shard.len, 0.0);
            for s in &shard.segments {
                if s.piece == 0 || drawn.as_ref().is_none_or(|(param, _)| *param != s.param) {
                    drawn = self.nth(s.param).map(|p| (s.param, self.draw(p)));
                }
                if let (Some((_, draw)), Some(out)) = (&mut drawn, flat.get_mut(s.offset..s.offset + s.len)) {
                    draw.fill(out);
                }
            }
            store.set(&shard.state, &Tensor::f32([shard.len], flat)?)?;
        }
        for (p, ty) in self.all_rounded()? {
            let mut draw = self.draw(p);
            ty.set(store, &rounded_state(p), |rows| {
                let n = rows.len() * ty.width();
                let mut values = room(n)?;
                values.resize(n, 0.0);
                draw.fill(&mut values);
                Tensor::f32([rows.len(), ty.width()], values)
            })?;
        }
        Ok(())
    }

    /// Takes over all values from a store but those of quantised tables, which no run changes; changes nothing if one of
    /// them cannot be read.
    ///
    /// # Errors
    /// [`Error::Name`] if the store lacks a state of them or has it with another type; [`Error::OutOfMemory`] if the
    /// host has no room; what a [device](crate::error#what-a-device-reports) reports.
    pub async fn read_from(&mut self, store: &Store) -> Result<()> {
        let mut values: Vec<(usize, Vec<f32>)> = Vec::new();
        for shard in self.shards()? {
            let flat = read(store, &shard.state, &shard.ty()).await?;
            for s in &shard.segments {
                if s.piece == 0 {
                    values.push((s.param, room(self.nth(s.param).map_or(0, |p| p.shape().numel()))?));
                }
                if let (Some((_, values)), Some(part)) =
                    (values.last_mut(), flat.floats().get(s.offset..s.offset + s.len))
                {
                    values.extend_from_slice(part);
                }
            }
        }
        for (param, values) in values {
            self.put(param, values);
        }
        Ok(())
    }
}

/// A state that must have a type.
pub(crate) async fn read(store: &Store, name: &str, ty: &TensorType) -> Result<Tensor> {
    let tensor = store.read(name).await?;
    if tensor.ty() == *ty {
        return Ok(tensor);
    }
    let message = format!("the parameters need {ty}, it is {}", tensor.ty());
    Err(Error::Name { kind: "state", name: name.to_owned(), message })
}
