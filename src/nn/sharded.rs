//! Tables that exceed one binding, in pieces: value tables, contexts of a million tokens, long histories.

use crate::error::{Error, Result, Where};
use crate::exec::Store;
use crate::graph::{Graph, Var};
use crate::ops::gather::Gather;
use crate::ops::memory::table::Format;
use crate::ops::memory::weighted_gather::WeightedGather;
use crate::types::{DType, Tensor, TensorType};
use std::ops::Range;

/// Bytes that every WebGPU device can bind at once.
const PORTABLE_BINDING: u64 = 128 << 20;

/// How a table `[rows, width]` is cut: whole rows, as many to a piece as fit into one binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardedType {
    dtype: DType,
    rows: usize,
    width: usize,
    rows_per_shard: usize,
}

impl ShardedType {
    /// Pieces of at most 128 MiB, which every WebGPU device can bind.
    ///
    /// # Errors
    /// [`Error::Limit`] if a row alone is larger, or there are more rows than u32 indices can name.
    pub fn new(dtype: DType, rows: usize, width: usize) -> Result<ShardedType> {
        Self::with_limit(dtype, rows, width, PORTABLE_BINDING)
    }

    /// Pieces of at most `bytes`.
    ///
    /// # Errors
    /// [`Error::Limit`] if a row alone is larger, or there are more rows than u32 indices can name.
    pub fn with_limit(dtype: DType, rows: usize, width: usize, bytes: u64) -> Result<ShardedType> {
        if rows > u32::MAX as usize {
            return Err(Error::Limit {
                limit: "largest number of rows".into(),
                needed: rows as u64,
                available: u64::from(u32::MAX),
                hint: "indices are u32; use several tables".into(),
            });
        }
        let row = (width as u64).saturating_mul(4);
        if row > bytes {
            return Err(Error::Limit {
                limit: "bytes of one shard".into(),
                needed: row,
                available: bytes,
                hint: "a row must fit into a shard; cut rows into several tables".into(),
            });
        }
        let rows_per_shard = bytes.checked_div(row).map_or(rows, |n| (n as usize).min(rows)).max(1);
        Ok(ShardedType { dtype, rows, width, rows_per_shard })
    }

    /// The cut that has pieces of these types.
    fn of(pieces: &[TensorType]) -> Option<ShardedType> {
        let first = pieces.first()?;
        let &[per, width] = &first.shape[..] else { return None };
        let same = pieces.iter().all(|t| t.dtype == first.dtype && t.shape.len() == 2 && t.shape[1] == width);
        let rows = pieces.iter().try_fold(0usize, |n, t| n.checked_add(*t.shape.first()?))?;
        let ty = ShardedType { dtype: first.dtype, rows, width, rows_per_shard: per.max(1) };
        (same && u32::try_from(rows).is_ok() && ty.shards().eq(pieces.iter().cloned())).then_some(ty)
    }

    /// Rows of the whole table.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows of each piece, in order; an empty table has one piece without rows.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let ShardedType { rows, rows_per_shard: per, .. } = *self;
        let count = rows.div_ceil(per).max(1);
        (0..count).map(move |i| i * per..rows.min((i + 1) * per))
    }

    /// Types of the pieces, in order.
    pub fn shards(&self) -> impl ExactSizeIterator<Item = TensorType> + use<> {
        let ShardedType { dtype, width, .. } = *self;
        self.ranges().map(move |rows| TensorType { dtype, shape: [rows.len(), width].into() })
    }

    /// Names and types of the pieces of a table of this name: `<name>.0`, `<name>.1`, ….
    pub fn named(&self, name: &str) -> impl ExactSizeIterator<Item = (String, TensorType)> + use<> {
        let name = name.to_owned();
        self.shards().enumerate().map(move |(i, ty)| (format!("{name}.{i}"), ty))
    }

    /// The pieces as inputs of a graph.
    #[track_caller]
    pub fn input<'g>(&self, graph: &'g Graph, name: &str) -> Sharded<'g> {
        let _at = graph.at(Where::caller());
        self.table(self.named(name).map(|(name, ty)| graph.input(&name, ty)).collect())
    }

    /// The pieces as states of a graph.
    #[track_caller]
    pub fn state<'g>(&self, graph: &'g Graph, name: &str) -> Sharded<'g> {
        let _at = graph.at(Where::caller());
        self.table(self.named(name).map(|(name, ty)| graph.state(&name, ty)).collect())
    }

    fn table<'g>(&self, shards: Vec<Var<'g>>) -> Sharded<'g> {
        Sharded { shards, ty: self.clone() }
    }

    /// Sets the pieces as states in a store; `rows` gives the elements of a run of rows. Only one piece at a time is in
    /// host memory.
    ///
    /// # Errors
    /// [`Error::Name`] when `rows` gives a wrong number of elements; what `rows` returns; else as [`Store::set`].
    pub fn set(&self, store: &Store, name: &str, mut rows: impl FnMut(Range<usize>) -> Result<Tensor>) -> Result<()> {
        let mut first = 0;
        for (name, ty) in self.named(name) {
            let count = ty.shape[0];
            let piece = rows(first..first + count)?;
            if piece.ty() != ty {
                let message = format!("rows {first}..{} are {ty}, got {}", first + count, piece.ty());
                return Err(Error::Name { kind: "state", name, message });
            }
            store.set(&name, &piece)?;
            first += count;
        }
        Ok(())
    }
}

/// A table `[rows, width]` in pieces, each small enough for one binding. Only [`gather`](Self::gather),
/// [`score`](Self::score), [`sum_of_squares`](Self::sum_of_squares) and [`scatter_add`](Self::scatter_add) accept it; what they return is an ordinary variable, or
/// a table of the same cut.
#[derive(Clone)]
pub struct Sharded<'g> {
    shards: Vec<Var<'g>>,
    ty: ShardedType,
}

impl<'g> Sharded<'g> {
    /// The table that these pieces make, one after the other: all `[rows, width]` of one element type and width, of as
    /// many rows as the first but for the last, which may have fewer. The graph fails if they do not fit.
    #[track_caller]
    pub fn new(graph: &'g Graph, shards: &[Var<'g>]) -> Sharded<'g> {
        let location = Where::caller();
        let types: Vec<TensorType> = shards.iter().map(|s| s.ty()).collect();
        let ty = ShardedType::of(&types).filter(|_| graph.owns("sharded table", shards, location));
        match ty {
            Some(ty) => Sharded { shards: shards.to_vec(), ty },
            None => {
                graph.fail(Error::Shape {
                    op: "sharded table".into(),
                    message:
                        "expected pieces [rows, width] of one type, width and number of rows; the last may have fewer"
                            .into(),
                    shapes: types.into_iter().map(|t| t.shape).collect(),
                    location,
                });
                let ty = ShardedType { dtype: DType::F32, rows: 0, width: 0, rows_per_shard: 1 };
                Sharded { shards: vec![graph.full([0, 0], 0.0)], ty }
            }
        }
    }

    /// How it is cut.
    pub fn ty(&self) -> &ShardedType {
        &self.ty
    }

    /// The pieces, in order: to differentiate with respect to them, or to assign states.
    pub fn shards(&self) -> &[Var<'g>] {
        &self.shards
    }

    fn graph(&self) -> &'g Graph {
        self.shards[0].graph()
    }

    /// Rows at `indices` (u32, any shape `[..]`): `[.., width]`, like [`Var::gather`]; zeros for an index that names no
    /// row. The gradient of each piece is a list of rows. Cost: the indices are read once a piece.
    #[track_caller]
    pub fn gather(&self, indices: Var<'g>) -> Var<'g> {
        let location = Where::caller();
        let mut inputs = self.shards.clone();
        inputs.push(indices);
        self.graph().apply_at(std::sync::Arc::new(Gather), &inputs, location)[0]
    }

    /// [`Var::weighted_gather`] from a table in pieces: `[.., width]`. The gradient of each piece is a list of rows. Cost:
    /// the indices are read once a piece.
    #[track_caller]
    pub fn weighted_gather(&self, indices: Var<'g>, weights: Var<'g>) -> Var<'g> {
        WeightedGather { format: Format::F32, masked: false }.apply(self.shards(), indices, weights, None, None)
    }

    /// [`Var::weighted_gather_masked`] from a table in pieces; `trained` is u32 `[rows]` of the whole table.
    #[track_caller]
    pub fn weighted_gather_masked(&self, indices: Var<'g>, weights: Var<'g>, trained: Var<'g>) -> Var<'g> {
        WeightedGather { format: Format::F32, masked: true }.apply(self.shards(), indices, weights, None, Some(trained))
    }

    /// Sum of squares of every row, `[rows]`; its root is the length that turns scores into cosines.
    #[track_caller]
    pub fn sum_of_squares(&self) -> Var<'g> {
        let one = |shard: &Var<'g>| shard.sum_of_squares(1).reshape([shard.dim(0)]);
        let parts: Vec<Var<'g>> = self.shards.iter().map(one).collect();
        parts[0].concat(&parts[1..], 0)
    }

    /// Products of every query with every row: queries f32 `[.., width]` to `[.., rows]`.
    #[track_caller]
    pub fn score(&self, queries: Var<'g>) -> Var<'g> {
        let _at = self.graph().at(Where::caller());
        let mut shape = queries.shape();
        let (count, width) = shape.rows();
        let flat = queries.reshape([count, width]).transpose(0, 1);
        // Rows first: pieces of the long side are computed side by side also where there are few queries.
        let parts: Vec<Var<'g>> = self.shards.iter().map(|shard| shard.matmul(flat)).collect();
        let scores = parts[0].concat(&parts[1..], 0).transpose(0, 1);
        if let Some(last) = shape.0.last_mut() {
            *last = self.ty.rows;
        }
        scores.reshape(shape)
    }

    /// The table of the same cut that sums values f32 `[count, width]` at `indices` (u32 `[count]`), as
    /// [`Var::scatter_add`] does: repeatable bit for bit; an index that names no row is dropped.
    #[track_caller]
    pub fn scatter_add(ty: &ShardedType, values: Var<'g>, indices: Var<'g>) -> Sharded<'g> {
        let location = Where::caller();
        let _at = values.graph().at(location);
        if values.ty() != TensorType::f32([indices.shape().numel(), ty.width]) || ty.dtype != DType::F32 {
            values.graph().fail(Error::Shape {
                op: "sharded scatter_add".into(),
                message: format!("expected f32[{}, {}] for a table of floats", indices.shape().numel(), ty.width),
                shapes: vec![values.shape(), indices.shape()],
                location,
            });
        }
        let sum = |(i, shard): (usize, TensorType)| {
            // Wraps for rows before this piece, which then name none of its rows.
            let first = (i * ty.rows_per_shard) as u32;
            let own = if first == 0 { indices } else { indices - first };
            values.scatter_add(own, shard.shape[0])
        };
        let shards = ty.shards().enumerate().map(sum).collect();
        Sharded { shards, ty: ty.clone() }
    }
}
