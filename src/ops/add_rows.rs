//! Running sums by row: what is kept about the slots of a memory.

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Rows, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// One element of a row an invocation.
pub static ADD_ROWS: Kernel = kernel!("memory/add_rows");

const WIDTH: usize = 64;

/// Inputs: table f32 `[rows, width]`, indices u32 `[n]` of which none that names a row comes twice, values f32 `[n, width]`.
/// Updates the table in place.
#[derive(Clone, Debug)]
struct AddRows;

#[derive(ShaderType)]
struct Meta {
    n: u32,
    rows: u32,
    width: u32,
}

impl AddRows {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (indices, values) = (call.u(1), call.f(2));
        let width = call.inputs[2].shape[1];
        par::picked([call.take(0)], width, indices, |hit, [row]| {
            row.iter_mut().zip(&values[hit * width..]).for_each(|(r, v)| *r += *v);
        });
    }
}

impl Op for AddRows {
    fn name(&self) -> &'static str {
        "add_rows"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let [table, indices, values] = inputs else {
            return Refusal::shape("expected a table, indices and values");
        };
        table.require(DType::F32, "only floats are added up")?;
        indices.require(DType::U32, "rows are named by integers")?;
        values.require(DType::F32, "only floats are added up")?;
        let fits = table.shape.len() == 2
            && values.shape.len() == 2
            && table.shape[1..] == values.shape[1..]
            && indices.shape[..] == values.shape[..1];
        if !fits {
            return Refusal::shape("expected a table [rows, width], indices [n] and values [n, width]");
        }
        Ok(vec![table.clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        vec![Some(g.into()), None, Some(g.gather(cx.inputs[1]).into())]
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let [n, width] = [cx.inputs[2].shape()[0], cx.inputs[2].shape()[1]];
        let meta = Meta { n: n as u32, rows: cx.outputs[0].shape()[0] as u32, width: width as u32 };
        cx.dispatch(&ADD_ROWS).input(1).input(2).output(0).uniform(&meta).workgroups((n * width).div_ceil(WIDTH))
    }
}

impl<'g> Var<'g> {
    /// The table `self` f32 `[rows, width]` with the hits added to the rows they name: those of a row are summed first, in
    /// the order of their positions; an index that names no row is dropped.
    ///
    /// `graph.assign(state, state.add_rows(..))` updates the state's own buffer: the cost grows with the hits, not with the
    /// table. A gate does not hold it back: a run whose gate is closed is counted too.
    #[track_caller]
    pub fn add_rows(self, hits: &Rows<'g>) -> Var<'g> {
        let united = hits.unite();
        self.op(AddRows, &[united.indices, united.values])
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let cases = [(1, 1, 1), (7, 3, 5), (5, 2, 0), (0, 2, 3), (9, 0, 4), (67, 5, 300), (70_001, 1, 70_003)];
    let case = |(rows, width, n): (usize, usize, usize)| {
        let name = format!("add_rows [{rows}, {width}] {n}");
        let sample = Sample::new(name, [&[rows, width], &[n, width]], move |_, x| {
            vec![x[0].tanh().add_rows(&Rows { indices: x[2], values: x[1], rows })]
        });
        sample.below(&[n], rows as u32 + 2)
    };
    cases.into_iter().map(case).collect()
}
