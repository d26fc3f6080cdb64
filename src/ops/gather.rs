//! Rows of a table: embedding lookup.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let table = graph.constant(Tensor::f32([3, 2], vec![0.0, 1.0, 10.0, 11.0, 20.0, 21.0])?);
//! let ids = graph.constant(Tensor::u32([3], vec![2, 0, 9])?);
//! let rows = table.gather(ids); // [3, 2]; no row has number 9
//! let plan = Device::cpu().compile_blocking(&graph, &[("rows", rows)])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("rows")?.floats(), [20.0, 21.0, 0.0, 1.0, 0.0, 0.0]);
//! # Ok(())
//! # }
//! ```

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Rows, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, SliceMut, par};
use crate::types::{DType, Operand, Real, TensorType};
use encase::ShaderType;

/// One element an invocation.
pub static GATHER: Kernel = kernel!("memory/gather");
/// The same for rows of full fours of elements.
pub static GATHER_WIDE: Kernel = kernel!("memory/gather_wide");

const WIDTH: usize = 64;
/// Fours that an invocation moves at most on a software driver, where finding them costs as much.
const QUADS: usize = 8;
/// Invocations below which it moves fewer, to keep all threads busy.
const SPREAD: usize = 8 * WIDTH;

/// `output[.., c] = table[indices[..], c]`, 0 where the index names no row. Inputs: the pieces of the table, one after
/// the other (none empty, unless it is the only one), and the indices.
#[derive(Clone, Debug)]
pub(crate) struct Gather;

#[derive(ShaderType)]
struct Meta {
    n: u32,
    first: u32,
    rows: u32,
    width: u32,
}

/// Copies the rows that this piece has; the first piece writes zeros for all others.
fn copy_rows<E: Copy + Default + Send + Sync>(piece: &[E], first: usize, indices: &[u32], width: usize, out: &mut [E]) {
    par::rows(out, width, width, |i, row| {
        let start = (indices[i] as usize).checked_sub(first).and_then(|r| r.checked_mul(width));
        match start.and_then(|s| piece.get(s..)?.get(..width)) {
            Some(found) => row.copy_from_slice(found),
            None if first == 0 => row.fill(E::default()),
            None => {}
        }
    });
}

impl Gather {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let pieces = call.inputs.len() - 1;
        let indices = call.u(pieces);
        let mut first = 0;
        for piece in 0..pieces {
            let [rows, width] = [call.inputs[piece].shape[0], call.inputs[piece].shape[1]];
            let (floats, ints) = (call.f(piece), call.u(piece));
            match &mut call.outputs[0].data {
                SliceMut::Float(out) => copy_rows(floats, first, indices, width, out),
                SliceMut::Int(out) => copy_rows(ints, first, indices, width, out),
            }
            first += rows;
        }
    }
}

/// What is read of input `index` by picking rows of the first `pieces` inputs with the indices that follow them.
pub(crate) fn picked(index: usize, inputs: &[Operand], pieces: usize) -> usize {
    let all = inputs[index].numel();
    match (inputs.get(pieces), inputs[index].shape().last()) {
        (Some(indices), Some(width)) if index < pieces => all.min(indices.numel() * width),
        _ => all,
    }
}

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let [tables @ .., indices] = inputs else {
            return Refusal::shape("expected a table and indices");
        };
        indices.require(DType::U32, "indices are integers; convert with to_u32")?;
        if tables.iter().any(|t| t.shape.len() != 2) {
            return Refusal::shape("expected a table [rows, width]; bring it there with reshape");
        }
        let mut shape = indices.shape.clone();
        shape.0.push(tables[0].shape[1]);
        Ok(vec![TensorType { dtype: tables[0].dtype, shape }])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let (Some(g), [tables @ .., indices]) = (cx.cotangent(), &cx.inputs[..]) else {
            return cx.none();
        };
        let count = indices.shape().numel();
        let (indices, mut first) = (indices.reshape([count]), 0);
        let mut grads = Vec::new();
        for table in tables {
            let [rows, width] = [table.shape()[0], table.shape()[1]];
            // Wraps for rows before this piece, which then name none of its rows.
            let indices = if first == 0 { indices } else { indices - first as u32 };
            grads.push(Some(Cotangent::Rows(Rows::new(indices, g.reshape([count, width]), rows))));
            first += rows;
        }
        grads.push(None);
        grads
    }

    fn touches(&self, index: usize, inputs: &[Operand]) -> usize {
        picked(index, inputs, inputs.len() - 1)
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (n, pieces) = (cx.outputs[0].numel(), cx.inputs.len() - 1);
        let mut first = 0;
        for piece in 0..pieces {
            let table = cx.inputs[piece].shape();
            let (rows, width) = (table[0], table[1]);
            let wide = rows > 0 && width.is_multiple_of(4);
            let (n, width) = if wide { (n / 4, width / 4) } else { (n, width) };
            let mut quads = 1;
            let most = if wide && cx.caps.software { QUADS } else { 1 };
            while 2 * quads <= most && width.is_multiple_of(2 * quads) && n / (2 * quads) >= SPREAD {
                quads *= 2;
            }
            let n = n / quads;
            let meta = Meta { n: n as u32, first: first as u32, rows: rows as u32, width: width as u32 };
            let d = match wide {
                true => cx.dispatch(&GATHER_WIDE).constant("QUADS", quads as f64),
                false => cx.dispatch(&GATHER),
            };
            d.input(piece).input(pieces).output(0).uniform(&meta).workgroups(n.div_ceil(WIDTH))?;
            first += rows;
        }
        Ok(())
    }
}

impl<'g> Var<'g> {
    /// Rows of a table `[rows, width]` of any element type at `indices` (u32, any shape `[..]`): `[.., width]`.
    ///
    /// An index that is not below `rows` gives a row of zeros and passes no gradient. The gradient of the table is
    /// [`Cotangent::Rows`]: one row a hit, added up only where it is made dense.
    #[track_caller]
    pub fn gather(self, indices: Var<'g>) -> Var<'g> {
        self.op(Gather, &[indices])
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let shapes: [([usize; 2], &[usize], u32); 12] = [
        ([1, 1], &[1], 1),
        ([5, 3], &[], 5),
        ([7, 4], &[2, 3], 10),
        ([0, 4], &[3], 2),
        ([4, 0], &[3], 4),
        ([4, 5], &[0], 4),
        ([3, 70], &[611], 3),
        ([257, 64], &[31, 7], 260),
        ([257, 12], &[600], 260),
        ([31, 128], &[513], 40),
        ([66_000, 2], &[33], 66_000),
        ([2, 1], &[70_001], 3),
    ];
    let mut all: Vec<Sample> = shapes
        .into_iter()
        .map(|(table, indices, below)| {
            Sample::new(format!("gather {table:?} {indices:?}"), [&table], |_, x| vec![x[0].gather(x[1])])
                .below(indices, below)
        })
        .collect();
    all.push(
        Sample::new("gather used twice", [&[6, 5], &[5, 2]], |_, x| {
            let (a, b) = (x[0].tanh(), x[2].reshape([3, 4]).transpose(0, 1));
            vec![a.gather(x[2]).matmul(x[1]), a.gather(b) + a.gather(x[2].slice(0, 2, 1))]
        })
        .below(&[12], 7),
    );
    for (name, pieces, width, n, below) in [
        ("gather from 3 pieces", [4, 4, 3], 5, 29, 14),
        ("gather from pieces of one row", [1, 1, 1], 1, 7, 4),
        ("gather from wide pieces", [3, 3, 1], 130, 67, 7),
        ("gather fours from 3 pieces", [3, 3, 1], 136, 67, 9),
        ("gather nothing from 3 pieces", [2, 2, 2], 3, 0, 6),
    ] {
        let [a, b, c] = pieces.map(|rows| [rows, width]);
        all.push(Sample::new(name, [&a, &b, &c], |g, x| vec![g.apply(Gather, x)[0]]).below(&[n], below));
    }
    all.push(
        Sample::new("gather of integers", [], |_, x| vec![x[0].gather(x[1])])
            .below(&[9, 3], 1000)
            .below(&[4, 2], 12)
            .no_gradient(),
    );
    all
}
