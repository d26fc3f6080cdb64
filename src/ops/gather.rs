//! Rows of a table: embedding lookup.

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Rows, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, SliceMut, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// One element an invocation.
pub static GATHER: Kernel = kernel!("memory/gather");

const WIDTH: usize = 64;

/// `output[.., c] = table[indices[..], c]`, 0 where the index names no row.
#[derive(Clone, Debug)]
struct Gather;

#[derive(ShaderType)]
struct Meta {
    n: u32,
    rows: u32,
    width: u32,
}

fn copy_rows<E: Copy + Default + Send + Sync>(table: &[E], indices: &[u32], width: usize, out: &mut [E]) {
    par::rows(out, width, width, |i, row| {
        let start = (indices[i] as usize).checked_mul(width);
        match start.and_then(|s| table.get(s..)?.get(..width)) {
            Some(found) => row.copy_from_slice(found),
            None => row.fill(E::default()),
        }
    });
}

impl Gather {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let width = call.inputs[0].shape[1];
        let (floats, ints, indices) = (call.f(0), call.u(0), call.u(1));
        match &mut call.outputs[0].data {
            SliceMut::Float(out) => copy_rows(floats, indices, width, out),
            SliceMut::Int(out) => copy_rows(ints, indices, width, out),
        }
    }
}

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let (table, indices) = (&inputs[0], &inputs[1]);
        indices.require(DType::U32, "indices are integers; convert with to_u32")?;
        if table.shape.len() != 2 {
            return Refusal::shape("expected a table [rows, width]; bring it there with reshape");
        }
        let mut shape = indices.shape.clone();
        shape.0.push(table.shape[1]);
        Ok(vec![TensorType { dtype: table.dtype, shape }])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let (table, indices) = (cx.inputs[0].shape(), cx.inputs[1]);
        let count = indices.shape().numel();
        let rows = Rows { indices: indices.reshape([count]), values: g.reshape([count, table[1]]), rows: table[0] };
        vec![Some(Cotangent::Rows(rows)), None]
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.outputs[0].numel();
        let table = cx.inputs[0].shape();
        let meta = Meta { n: n as u32, rows: table[0] as u32, width: table[1] as u32 };
        cx.dispatch(&GATHER).input(0).input(1).output(0).uniform(&meta).workgroups(n.div_ceil(WIDTH))
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
    let shapes: [([usize; 2], &[usize], u32); 10] = [
        ([1, 1], &[1], 1),
        ([5, 3], &[], 5),
        ([7, 4], &[2, 3], 10),
        ([0, 4], &[3], 2),
        ([4, 0], &[3], 4),
        ([4, 5], &[0], 4),
        ([3, 70], &[611], 3),
        ([257, 64], &[31, 7], 260),
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
    all.push(
        Sample::new("gather of integers", [], |_, x| vec![x[0].gather(x[1])])
            .below(&[9, 3], 1000)
            .below(&[4, 2], 12)
            .no_gradient(),
    );
    all
}
