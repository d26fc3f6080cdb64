//! Tables of rows that a computation writes, scores and reads back: histories of any length on the device.

use super::sharded::ShardedType;
use crate::error::Result;
use crate::exec::Store;
use crate::graph::{Graph, Var};
use crate::ops::bank::put::PutRows;
use crate::ops::bank::scores::RowScores;
use crate::ops::bank::unpack::UnpackRows;
use crate::ops::bank::words;
use crate::ops::gather::Gather;
use crate::types::{DType, TensorType};

/// How a [`Bank`] stores its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Storage {
    /// Single precision.
    #[default]
    F32,
    /// Half precision, two to a word, on every device: half the bytes. Values are rounded to the nearest half; beyond 65,504
    /// they are cut, below 6.1e-5 they are 0.
    F16,
}

impl Storage {
    fn dtype(self) -> DType {
        match self {
            Storage::F32 => DType::F32,
            Storage::F16 => DType::U32,
        }
    }
}

/// Size of a [`Bank`], and how it is cut into pieces that one binding holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BankType {
    storage: Storage,
    width: usize,
    table: ShardedType,
}

impl BankType {
    /// `rows` of `width` floats in pieces of at most `bytes`.
    ///
    /// # Errors
    /// As [`ShardedType::with_limit`].
    pub fn new(storage: Storage, rows: usize, width: usize, bytes: u64) -> Result<BankType> {
        let dtype = storage.dtype();
        Ok(BankType { storage, width, table: ShardedType::with_limit(dtype, rows, words(dtype, width), bytes)? })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.table.rows()
    }

    /// Floats of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes of the whole table.
    pub fn bytes(&self) -> u64 {
        self.table.shards().map(|ty| ty.numel() as u64 * 4).sum()
    }

    /// Names and types of its pieces as states.
    pub fn named(&self, name: &str) -> impl ExactSizeIterator<Item = (String, TensorType)> + use<> {
        self.table.named(name)
    }

    /// Adds the pieces to a store, zeroed, unless they are there.
    ///
    /// # Errors
    /// As [`Store::set_zeros`].
    pub fn add_to(&self, store: &Store, name: &str) -> Result<()> {
        for (name, ty) in self.named(name) {
            if store.get(&name).is_none_or(|state| state.ty != ty) {
                store.set_zeros(&name, &ty)?;
            }
        }
        Ok(())
    }

    /// The pieces as states of a graph.
    #[track_caller]
    pub fn state<'g>(&self, graph: &'g Graph, name: &str) -> Bank<'g> {
        Bank { pieces: self.named(name).map(|(name, ty)| graph.state(&name, ty)).collect(), ty: self.clone() }
    }
}

/// A table `[rows, width]` that is written in place; what is in it is detached from what was written.
#[derive(Clone, Debug)]
pub struct Bank<'g> {
    pieces: Vec<Var<'g>>,
    ty: BankType,
}

impl<'g> Bank<'g> {
    /// Size and cut.
    pub fn ty(&self) -> &BankType {
        &self.ty
    }

    /// The pieces, in order.
    pub fn pieces(&self) -> &[Var<'g>] {
        &self.pieces
    }

    /// Keeps `rows` f32 `[R, width]` at `places` (u32 `[R]`, none twice; a place past the table drops the row) for the next
    /// run. The states are written in place, at the end of the run and behind its gate; the cost is that of the rows.
    #[track_caller]
    pub fn assign(&self, rows: Var<'g>, places: Var<'g>) {
        let graph = places.graph();
        let mut first = 0;
        for piece in &self.pieces {
            let new = graph.apply(PutRows { first, gated: false }, &[*piece, rows, places])[0];
            graph.assign(*piece, new);
            first += piece.dim(0) as u32;
        }
    }

    /// Rows at `indices` (u32, any shape `[..]`): `[.., width]`; zeros for an index that names no row.
    #[track_caller]
    pub fn take(&self, indices: Var<'g>) -> Var<'g> {
        let found = indices.graph().apply(Gather, &[&self.pieces[..], &[indices]].concat())[0];
        match self.ty.storage {
            Storage::F32 => found.stop_gradient(),
            Storage::F16 => indices.graph().apply(UnpackRows { width: self.ty.width }, &[found])[0],
        }
    }

    /// Products of the rows, `n` of each sample, with the queries f32 `[samples or 1, R, width]` of their sample: `[rows, R]`.
    /// One pass over the table; the gradient of the queries takes another.
    #[track_caller]
    pub fn scores(&self, queries: Var<'g>, n: usize) -> Var<'g> {
        queries.graph().apply(RowScores { n }, &[&self.pieces[..], &[queries]].concat())[0]
    }
}

/// `rows` f32 `[R, width]` as they come back from a bank.
#[track_caller]
pub fn stored<'g>(rows: Var<'g>, storage: Storage) -> Var<'g> {
    if storage == Storage::F32 || rows.rank() != 2 {
        return rows.stop_gradient();
    }
    let (graph, count, width) = (rows.graph(), rows.dim(0), rows.dim(1));
    let empty = graph.full_u32([count, words(DType::U32, width)], 0);
    let put = graph.apply(PutRows { first: 0, gated: false }, &[empty, rows, graph.iota([count], 0)])[0];
    graph.apply(UnpackRows { width }, &[put])[0]
}
