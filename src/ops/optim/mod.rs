//! Optimizer steps on flat buffers, in place and heeding the gate themselves: one dispatch a buffer, or work that grows
//! with the hits only where the gradient names the rows of a table.
//!
//! ```
//! use wgrad::ops::optim::{Common, Controls, Sgd};
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! // What `train::Trainer` builds its steps of.
//! let graph = Graph::new();
//! let param = graph.constant(Tensor::f32([4], vec![1.0; 4])?);
//! let grad = graph.constant(Tensor::f32([4], vec![1.0, 0.0, 0.0, 0.0])?);
//! let controls = Controls {
//!     lr: graph.full([], 0.5),
//!     norm_sq: graph.full([], 1.0),
//!     ok: graph.full_u32([], 1),
//!     progress: graph.full_u32([2], 0),
//! };
//! let common = Common { max_norm: 0.0, lr_factor: 1.0, weight_decay: 0.0 };
//! let sgd = Sgd { common, momentum: 0.0, nesterov: false };
//! let new = sgd.step(param, None, grad, &controls)[0];
//! let plan = Device::cpu().compile_blocking(&graph, &[("new", new)])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("new")?.floats(), [0.5, 1.0, 1.0, 1.0]);
//! # Ok(())
//! # }
//! ```

mod accumulate;
mod adam;
mod adam_rows;
mod pack;
mod row_factors;
mod sgd;
mod sgd_rows;
mod square_sum;
mod tally;

pub use accumulate::{ACCUMULATE, Accumulate};
pub use adam::{ADAM, Adam};
pub use adam_rows::ADAM_ROWS;
pub use pack::{PACK, Pack};
pub use row_factors::ROW_FACTORS;
pub use sgd::{MOMENTUM, SGD, Sgd};
pub use sgd_rows::SGD_ROWS;
pub use square_sum::SQUARE_SUM;
pub(crate) use square_sum::sum_pieces;
pub use tally::{Report, TALLY, Tally};

use crate::error::{Refusal, Result};
use crate::graph::Var;
use crate::kernels::CpuCall;
use crate::ops::runs::{RUNS, RunShape};
use crate::types::{DType, Operand, Real, TensorType};

/// Elements a workgroup of an optimizer kernel updates.
const PER_GROUP: usize = 256;
/// Elements of a piece on the CPU.
const CPU_PIECE: usize = 1 << 14;

/// What all optimizer steps of one run share; all are read on the device.
#[derive(Clone, Copy)]
pub struct Controls<'g> {
    /// Learning rate, f32 `[]`.
    pub lr: Var<'g>,
    /// Square of the norm of all gradients together, f32 `[]`.
    pub norm_sq: Var<'g>,
    /// 0 if the step must change nothing, u32 `[]`.
    pub ok: Var<'g>,
    /// Steps done and steps skipped before this one, u32 `[2]`.
    pub progress: Var<'g>,
}

/// Attributes of every optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Common {
    /// Largest norm of all gradients together (as `torch.nn.utils.clip_grad_norm_`); 0 switches clipping off.
    pub max_norm: f64,
    /// Factor on the learning rate.
    pub lr_factor: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

impl Common {
    fn clip<T: Real>(&self, norm_sq: T) -> T {
        if self.max_norm <= 0.0 {
            return T::ONE;
        }
        T::ONE.min(T::of(self.max_norm) / (norm_sq.sqrt() + T::of(1e-6)))
    }
}

/// Refuses anything but `buffers` flat buffers of one length (a multiple of 4), then learning rate, square of the norm and gate.
fn check(inputs: &[TensorType], buffers: usize) -> Result<Vec<TensorType>, Refusal> {
    let advice = "flat buffers, lr, norm² and gate are needed in this order";
    let (Some(flat), Some(scalars)) = (inputs.get(..buffers), inputs.get(buffers..buffers + 3)) else {
        return Refusal::shape(advice);
    };
    for t in flat {
        t.require(DType::F32, advice)?;
        if t.shape.len() != 1 || t.shape != flat[0].shape || t.shape[0] % 4 != 0 {
            return Refusal::shape("parameters, moments and gradients need one length, a multiple of 4");
        }
    }
    if *scalars != [TensorType::f32([]), TensorType::f32([]), TensorType::u32([])] {
        return Refusal::shape(advice);
    }
    Ok(flat[..buffers - 1].to_vec())
}

/// Refuses anything but `buffers` flat buffers of one length (a multiple of 4) that a table of `rows` rows fits in, then
/// `skip` inputs, the sorted hits, learning rate, square of the norm and gate.
fn check_rows(inputs: &[TensorType], buffers: usize, skip: usize, hits: RunShape) -> Result<Vec<TensorType>, Refusal> {
    let (at, rows) = (buffers + skip, hits.rows);
    let (Some(flat), Some(sorted), Some(scalars)) =
        (inputs.get(..buffers), inputs.get(at..at + RUNS), inputs.get(at + RUNS..))
    else {
        return Refusal::shape("flat buffers, sorted hits, lr, norm² and gate are needed in this order");
    };
    let width = hits.check(sorted)?;
    let room = flat.first().map_or(0, TensorType::numel);
    if rows.checked_mul(width).is_none_or(|n| n > room) {
        return Refusal::shape(format!("{rows} rows of {width} do not fit {room} elements"));
    }
    // The gradient of the dense check: any buffer of the same length.
    let mut like = flat.to_vec();
    like.extend(flat.first().cloned());
    like.extend(scalars.iter().cloned());
    check(&like, buffers + 1)
}

/// What a step on rows touches of input `index`: of the first `buffers` inputs as much as the sorted hits, which begin at
/// input `first`, name.
fn touched(index: usize, inputs: &[Operand], buffers: usize, first: usize) -> usize {
    let all = inputs[index].numel();
    match (inputs.get(first).and_then(|values| values.shape().last()), inputs.get(first + 2)) {
        (Some(width), Some(hits)) if index < buffers => all.min(hits.numel() * width),
        _ => all,
    }
}

/// First element of a float scalar.
fn scalar<T: Real>(call: &CpuCall<'_, T>, input: usize) -> T {
    call.f(input).first().copied().unwrap_or(T::ZERO)
}

/// First element of an integer tensor.
fn flag<T: Real>(call: &CpuCall<'_, T>, input: usize) -> u32 {
    call.u(input).first().copied().unwrap_or(0)
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    [
        accumulate::samples,
        adam::samples,
        adam_rows::samples,
        pack::samples,
        sgd::samples,
        sgd_rows::samples,
        square_sum::samples,
        tally::samples,
    ]
    .into_iter()
    .flat_map(|f| f())
    .collect()
}
