//! Views: the same elements seen differently. Free where layouts allow, else one strided copy.
//!
//! ```
//! use wgrad::{Device, Feed, Graph};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.iota([6], 0).reshape([2, 3]);
//! let y = x.transpose(0, 1).slice(0, 1, 2); // [2, 2]
//! let plan = Device::cpu().compile_blocking(&graph, &[("y", y)])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("y")?.ints(), [1, 4, 2, 5]);
//! # Ok(())
//! # }
//! ```

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernels::{CpuCall, Lower};
use crate::ops::copy::{copy_cpu, copy_lower};
use crate::types::{Layout, Real, Shape, TensorType};

/// The views.
#[derive(Clone, Debug)]
pub enum View {
    /// Another shape, same number of elements.
    Reshape(Shape),
    /// Dimension i of the result is dimension `0[i]` of the input.
    Permute(Vec<usize>),
    /// Elements `start..start + len` along an axis, every `step`-th.
    Slice {
        /// The axis.
        axis: usize,
        /// First element.
        start: usize,
        /// Number of elements.
        len: usize,
        /// Distance between them.
        step: usize,
    },
    /// Repeated along new or one-element dimensions.
    Expand(Shape),
    /// Identity without gradient.
    StopGradient,
}

impl Op for View {
    fn name(&self) -> &'static str {
        match self {
            View::Reshape(_) => "reshape",
            View::Permute(_) => "permute",
            View::Slice { .. } => "slice",
            View::Expand(_) => "expand",
            View::StopGradient => "stop_gradient",
        }
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let input = &inputs[0];
        let rank = input.shape.len();
        let shape = match self {
            View::Reshape(to) => {
                if to.numel() != input.numel() {
                    let (a, b) = (input.numel(), to.numel());
                    return Refusal::shape(format!("{a} elements do not fit {to}, which has {b}"));
                }
                to.clone()
            }
            View::Permute(axes) => {
                if axes.len() != rank || !(0..rank).all(|axis| axes.contains(&axis)) {
                    return Refusal::shape(format!("axes {axes:?} are no permutation of {rank} dimensions"));
                }
                axes.iter().map(|a| input.shape[*a]).collect::<Vec<_>>().into()
            }
            View::Slice { axis, start, len, step } => {
                let extent = input.shape.get(*axis).copied();
                let end = match len {
                    0 => Some(*start),
                    _ => (len - 1).checked_mul(*step).and_then(|n| n.checked_add(*start)?.checked_add(1)),
                };
                let fits = *step > 0 && extent.zip(end).is_some_and(|(extent, end)| end <= extent);
                if !fits {
                    return Refusal::shape(format!(
                        "{len} elements from {start} by {step} do not lie in axis {axis} of {}",
                        input.shape
                    ));
                }
                let mut shape = input.shape.clone();
                shape.0[*axis] = *len;
                shape
            }
            View::Expand(to) => {
                if input.shape.broadcast(to)? != *to {
                    return Refusal::shape(format!("{} does not broadcast to {to}", input.shape));
                }
                to.clone()
            }
            View::StopGradient => input.shape.clone(),
        };
        Ok(vec![TensorType { dtype: input.dtype, shape }])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let x = cx.inputs[0].shape();
        let grad = match self {
            View::Reshape(_) => g.reshape(x),
            View::Permute(axes) => {
                let mut inverse = vec![0; axes.len()];
                for (i, a) in axes.iter().enumerate() {
                    inverse[*a] = i;
                }
                g.permute(&inverse)
            }
            View::Slice { axis, start, len, step } => {
                let g = if *step == 1 || *len <= 1 { g } else { g.dilate(*axis, *step) };
                let covered = g.dim(*axis as isize);
                g.pad(*axis, *start, x[*axis].saturating_sub(start + covered))
            }
            View::Expand(_) => g.sum_to(x),
            View::StopGradient => return cx.none(),
        };
        vec![Some(grad.into())]
    }

    fn is_view(&self) -> bool {
        true
    }

    fn view(&self, input: &TensorType, layout: &Layout) -> Option<Layout> {
        match self {
            View::Reshape(to) => layout.reshape(&input.shape, to),
            View::Permute(axes) => {
                Some(Layout { offset: layout.offset, strides: axes.iter().map(|a| layout.strides[*a]).collect() })
            }
            View::Slice { axis, start, len, step } => {
                let mut out = layout.clone();
                // No element: any place will do, but one inside the buffer can be bound.
                out.offset += if *len == 0 { 0 } else { start * out.strides[*axis] };
                if *len > 1 {
                    out.strides[*axis] *= step;
                }
                Some(out)
            }
            View::Expand(to) => Some(layout.broadcast(&input.shape, to)),
            View::StopGradient => Some(layout.clone()),
        }
    }

    fn strided(&self, _: usize) -> bool {
        // Reached only when a view is impossible; the planner hands over the source as it lies.
        true
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        copy_lower(cx)
    }
}

impl View {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        copy_cpu(call);
    }
}

impl<'g> Var<'g> {
    /// The same elements, row-major, under another shape of as many.
    #[track_caller]
    pub fn reshape(self, shape: impl Into<Shape>) -> Var<'g> {
        let shape = shape.into();
        if shape == self.shape() { self } else { self.op(View::Reshape(shape), &[]) }
    }

    /// The same value as a variable of its own.
    pub(crate) fn renamed(self) -> Var<'g> {
        self.op(View::Reshape(self.shape()), &[])
    }

    /// Dimension i of the result is dimension `axes[i]`: `[2, 3, 4]` by `[2, 0, 1]` is `[4, 2, 3]`.
    #[track_caller]
    pub fn permute(self, axes: &[usize]) -> Var<'g> {
        self.op(View::Permute(axes.to_vec()), &[])
    }

    /// Swaps two dimensions, counted from the end if negative: `transpose(-1, -2)` makes `[.., m, n]` to `[.., n, m]`.
    #[track_caller]
    pub fn transpose(self, a: isize, b: isize) -> Var<'g> {
        let rank = self.rank();
        let mut axes: Vec<usize> = (0..rank).collect();
        let at = |i: isize| {
            if i < 0 { (i + rank as isize) as usize } else { i as usize }
        };
        if at(a) < rank && at(b) < rank {
            axes.swap(at(a), at(b));
        } else {
            axes.push(rank);
        }
        self.op(View::Permute(axes), &[])
    }

    /// Elements `start..start + len` along `axis`: `[.., n, ..]` to `[.., len, ..]`.
    #[track_caller]
    pub fn slice(self, axis: usize, start: usize, len: usize) -> Var<'g> {
        self.slice_step(axis, start, len, 1)
    }

    /// `len` elements along `axis` from `start`, every `step`-th: `[.., n, ..]` to `[.., len, ..]`.
    #[track_caller]
    pub fn slice_step(self, axis: usize, start: usize, len: usize, step: usize) -> Var<'g> {
        if start == 0 && step == 1 && self.shape().get(axis) == Some(&len) {
            return self;
        }
        self.op(View::Slice { axis, start, len, step }, &[])
    }

    /// Row `index` along `axis`; that dimension disappears: `[.., n, ..]` to `[.., ..]`.
    #[track_caller]
    pub fn select_index(self, axis: usize, index: usize) -> Var<'g> {
        let mut shape = self.shape();
        if axis < shape.len() {
            shape.0.remove(axis);
        }
        self.slice(axis, index, 1).reshape(shape)
    }

    /// Repeats one-element and missing leading dimensions up to `shape`: `[3, 1]` to `[2, 3, 4]`.
    #[track_caller]
    pub fn expand(self, shape: impl Into<Shape>) -> Var<'g> {
        let shape = shape.into();
        if shape == self.shape() { self } else { self.op(View::Expand(shape), &[]) }
    }

    /// A new dimension of one element before `axis`: `[m, n]` at 1 is `[m, 1, n]`.
    #[track_caller]
    pub fn unsqueeze(self, axis: usize) -> Var<'g> {
        let mut shape = self.shape();
        shape.0.insert(axis.min(shape.len()), 1);
        self.reshape(shape)
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    vec![
        Sample::new("reshape", [&[6, 35]], |_, x| vec![x[0].reshape([7, 30]), x[0].reshape([210]).exp()]),
        Sample::new("permute", [&[3, 4, 5]], |_, x| {
            let y = x[0].permute(&[2, 0, 1]);
            vec![y, y.reshape([15, 4]), y.tanh().reshape([60])]
        }),
        Sample::new("slice", [&[5, 7, 3]], |_, x| {
            vec![x[0].slice(1, 2, 4), x[0].slice_step(1, 0, 4, 2).exp(), x[0].slice(0, 5, 0), x[0].select_index(2, 1)]
        }),
        Sample::new("expand", [&[3, 1, 2]], |_, x| {
            vec![x[0].expand([4, 3, 5, 2]), x[0].expand([3, 3, 2]).reshape([18]).tanh()]
        }),
        Sample::new("empty slice at the end", [&[64, 2]], |_, x| {
            let none = x[0].slice(0, 64, 0);
            vec![none.transpose(0, 1).matmul(none), x[0].concat(&[none], 0)]
        }),
        Sample::new("views of views", [&[4, 6, 5]], |_, x| {
            let y = x[0].transpose(0, 2).slice(0, 1, 3).reshape([3, 24]).slice(1, 3, 9);
            vec![y, y * 2.0, y.matmul(y.transpose(0, 1))]
        }),
    ]
}
