//! Rows in half precision as floats.

use super::{half, words};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// An element an invocation.
pub static UNPACK_ROWS: Kernel = kernel!("bank/unpack_rows");

const WIDTH: usize = 64;

/// Packed rows u32 `[.., ceil(width / 2)]` to f32 `[.., width]`. No gradient.
#[derive(Clone, Debug)]
pub(crate) struct UnpackRows {
    /// Features of a row.
    pub width: usize,
}

#[derive(ShaderType)]
struct Meta {
    n: u32,
    width: u32,
    words: u32,
}

impl UnpackRows {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (packed, words) = (call.u(0), words(DType::U32, self.width));
        par::rows(
            call.out(0),
            self.width,
            self.width,
            #[inline(always)]
            |i, row| {
                half::unpack(&packed[i * words..(i + 1) * words], row);
            },
        );
    }
}

impl Op for UnpackRows {
    fn name(&self) -> &'static str {
        "unpack_rows"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        inputs[0].require(DType::U32, "rows in half precision are integers")?;
        let mut shape = inputs[0].shape.clone();
        match shape.0.last_mut() {
            Some(last) if *last == words(DType::U32, self.width) => *last = self.width,
            _ => return Refusal::shape(format!("expected rows of {} words", words(DType::U32, self.width))),
        }
        Ok(vec![TensorType::f32(shape)])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.outputs[0].numel();
        let words = words(DType::U32, self.width);
        let meta = Meta { n: n as u32, width: self.width as u32, words: words as u32 };
        cx.dispatch(&UNPACK_ROWS).input(0).output(0).uniform(&meta).workgroups(n.div_ceil(WIDTH))
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use super::put::PutRows;
    use crate::ops::samples::Sample;
    let shapes = [[1, 1], [5, 7], [3, 64], [0, 4], [70_001, 2]];
    let one = |shape: [usize; 2]| {
        let [rows, width] = shape;
        let sample = Sample::new(format!("pack and unpack {shape:?}"), [&shape], move |g, x| {
            let empty = g.full_u32([rows, words(DType::U32, width)], 0);
            let packed = g.apply(PutRows { first: 0, gated: false }, &[empty, x[0] * 3.0, g.iota([rows], 0)])[0];
            vec![packed, g.apply(UnpackRows { width }, &[packed])[0]]
        });
        sample.no_gradient()
    };
    shapes.into_iter().map(one).collect()
}
