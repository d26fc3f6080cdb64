//! What an operation must know.

use super::{Cotangent, SharedOp, Vjp};
use crate::error::{Refusal, Result};
use crate::kernels::scalar::Scalar;
use crate::kernels::{CpuCall, Lower};
use crate::types::{Layout, Operand, TensorType};

/// An operation: shapes, gradient, kernels and CPU twin in one place.
///
/// `Debug` must print every attribute: equal text on equal inputs means equal results (common subexpressions merge).
pub trait Op: std::fmt::Debug + Send + Sync + 'static {
    /// Name in errors and printed plans.
    fn name(&self) -> &'static str;

    /// The attributes in words that every process of one program has alike, to compare what ranks compute: `Debug`, unless that
    /// numbers what a process makes.
    fn attributes(&self) -> String {
        format!("{self:?}")
    }

    /// Number of outputs.
    fn outputs(&self) -> usize {
        1
    }

    /// Types of the outputs, or why the inputs do not fit.
    ///
    /// # Errors
    /// [`Refusal::Shape`] or [`Refusal::Dtype`], with what was expected; the graph adds name, shapes and place.
    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal>;

    /// Adds the nodes that carry cotangents of the outputs back to the inputs. Absent means zero.
    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>>;

    /// For an operation that only looks at its input differently: the new layout, or `None` if that needs a copy.
    fn view(&self, _input: &TensorType, _layout: &Layout) -> Option<Layout> {
        None
    }

    /// Whether the operation is a view ([`view`](Self::view) may answer).
    fn is_view(&self) -> bool {
        false
    }

    /// For an elementwise operation: what is done per element.
    fn scalar(&self) -> Option<Scalar> {
        None
    }

    /// Whether input `index` may be strided; others are made dense first.
    fn strided(&self, _index: usize) -> bool {
        false
    }

    /// Pairs (input, output) that share one buffer: the output holds the old value when the operation starts and the
    /// input is not bound.
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[]
    }

    /// For an update in place: whether the operation itself sees to what a closed gate means for it (it has the gate among
    /// its inputs, or is meant to ignore it). If not, in a graph with a gate it works on a copy of the state, and the
    /// gate decides whether that becomes the state.
    fn minds_gate(&self) -> bool {
        true
    }

    /// For an update in place that does not mind the gate: the same operation with the gate (u32 scalar) as one more, last
    /// input, which changes nothing where that is 0. The planner takes it where it can put the update at the end.
    fn with_gate(&self) -> Option<SharedOp> {
        None
    }

    /// Whether two nodes with equal inputs may differ (random numbers keyed by the step are equal in this sense; this
    /// is only for operations that must never merge).
    fn unmergeable(&self) -> bool {
        false
    }

    /// Elements of input `index` that a run reads or writes at the most: fewer than it has where rows are picked. For
    /// estimates ([`Plan::explain`](crate::Plan::explain)).
    fn touches(&self, index: usize, inputs: &[Operand]) -> usize {
        inputs[index].numel()
    }

    /// Additions, multiplications and functions of one run, for estimates: one for each element read or written unless the
    /// operation says otherwise.
    fn operations(&self, inputs: &[Operand], outputs: &[Operand]) -> u64 {
        let shared = self.in_place();
        let own = (0..outputs.len()).filter(|o| !shared.iter().any(|(_, output)| output == o));
        let read: usize = (0..inputs.len()).map(|i| self.touches(i, inputs)).sum();
        (read + own.map(|o| outputs[o].numel()).sum::<usize>()) as u64
    }

    /// Whether there is a CPU twin; without one the CPU executor refuses the operation.
    fn on_cpu(&self) -> bool {
        true
    }

    /// CPU twin in single precision.
    #[cfg(feature = "cpu")]
    fn cpu_f32(&self, call: &mut CpuCall<'_, f32>);

    /// CPU twin in double precision: the oracle.
    #[cfg(feature = "oracle")]
    fn cpu_f64(&self, call: &mut CpuCall<'_, f64>);

    /// Kernels.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if a dispatch exceeds the device: what
    /// [`workgroups`](crate::kernels::DispatchBuilder::workgroups) returns.
    fn lower(&self, cx: &mut Lower<'_>) -> Result<()>;
}

/// Implements both CPU twins by one generic function `Self::cpu<T: Real>(&self, &mut CpuCall<T>)`.
macro_rules! cpu_twin {
    () => {
        #[cfg(feature = "cpu")]
        fn cpu_f32(&self, call: &mut $crate::kernels::CpuCall<'_, f32>) {
            self.cpu(call)
        }
        #[cfg(feature = "oracle")]
        fn cpu_f64(&self, call: &mut $crate::kernels::CpuCall<'_, f64>) {
            self.cpu(call)
        }
    };
}
pub(crate) use cpu_twin;
