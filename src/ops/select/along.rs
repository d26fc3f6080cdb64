//! Taking and scattering along an axis by indices per entry: PyTorch's `gather` and `scatter_add`.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.constant(Tensor::f32([2, 3], vec![0.0, 1.0, 2.0, 10.0, 11.0, 12.0])?);
//! let at = graph.constant(Tensor::u32([2, 2], vec![2, 0, 1, 1])?);
//! let taken = x.take_along(at, -1); // [2, 2]: `gather` of PyTorch, `take_along_axis` of NumPy
//! let back = taken.scatter_along(at, -1, 3); // [2, 3]: sums
//! let plan = Device::cpu().compile_blocking(&graph, &[("taken", taken), ("back", back)])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("taken")?.floats(), [2.0, 0.0, 11.0, 11.0]);
//! assert_eq!(plan.read_blocking("back")?.floats(), [0.0, 0.0, 2.0, 0.0, 22.0, 0.0]);
//! # Ok(())
//! # }
//! ```

use crate::error::{Error, Refusal, Result, Where};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower};
use crate::ops::rows::zero;
use crate::types::{DType, Real, Shape, TensorType};
use encase::ShaderType;

/// Values to places of their own.
pub static SCATTER_UNIQUE: Kernel = kernel!("memory/scatter_unique");

const WIDTH: usize = 64;

/// Values f32 `[count]` into zeros `[size]` at places u32 `[count]` of which no two are equal; a place outside is dropped.
#[derive(Clone, Debug)]
struct ScatterUnique {
    size: usize,
}

#[derive(ShaderType)]
struct Meta {
    n: u32,
    size: u32,
}

impl ScatterUnique {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (values, places) = (call.f(0), call.u(1));
        let out = call.out(0);
        out.fill(T::ZERO);
        for (value, place) in values.iter().zip(places) {
            if let Some(out) = out.get_mut(*place as usize) {
                *out = *value;
            }
        }
    }
}

impl Op for ScatterUnique {
    fn name(&self) -> &'static str {
        "scatter_unique"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        inputs[0].require(DType::F32, "only floats carry gradients")?;
        inputs[1].require(DType::U32, "indices are integers; convert with to_u32")?;
        if inputs[0].shape != inputs[1].shape {
            return Refusal::shape("expected one place for each value");
        }
        Ok(vec![TensorType::f32([self.size])])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let count = cx.inputs[0].shape();
        vec![Some(g.reshape([self.size, 1]).gather(cx.inputs[1]).reshape(count).into()), None]
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.inputs[0].numel();
        zero(cx, crate::kernels::Place::Output(0), self.size)?;
        let meta = Meta { n: n as u32, size: self.size as u32 };
        cx.dispatch(&SCATTER_UNIQUE).input(0).input(1).output(0).uniform(&meta).workgroups(n.div_ceil(WIDTH))
    }
}

/// Numbers in `[outer, n, inner]` of the entries that `indices` (shape `[outer, m, inner]`, seen at `axis`) name;
/// `u32::MAX` for an index that is not below `n`.
#[track_caller]
fn places<'g>(indices: Var<'g>, axis: usize, n: usize) -> Var<'g> {
    let g = indices.graph();
    let (outer, m, inner) = indices.shape().split(axis);
    let shape = [outer, m, inner];
    let index = indices.reshape(shape);
    let first = g.iota(shape, 0) * (n as u32);
    let place = (first + index) * (inner as u32) + g.iota(shape, 2);
    index.lt(n as u32).select(place, u32::MAX).reshape([outer * m * inner])
}

/// The axis, counted from the end if negative, and whether `shape` and `indices` agree beside it.
fn check(op: &str, shape: &Shape, indices: Var<'_>, axis: isize, location: Where) -> Result<usize> {
    let rank = shape.len() as isize;
    let at = if axis < 0 { axis + rank } else { axis };
    let refuse = |message: String| {
        let shapes = vec![shape.clone(), indices.shape()];
        Err(Error::Shape { op: op.to_owned(), message, shapes, location })
    };
    if at < 0 || at >= rank {
        return refuse(format!("axis {axis} of {rank} dimensions"));
    }
    let at = at as usize;
    let mut expected = shape.clone();
    if let (Some(here), Some(there)) = (expected.0.get_mut(at), indices.shape().get(at)) {
        *here = *there;
    }
    if indices.shape() != expected {
        return refuse(format!("indices must have the same shape but for axis {at}"));
    }
    if indices.dtype() != DType::U32 {
        let message = "indices are integers; convert with to_u32".to_owned();
        let (op, got) = (op.to_owned(), indices.dtype());
        return Err(Error::Dtype { op, expected: DType::U32, got, message, location });
    }
    Ok(at)
}

impl<'g> Var<'g> {
    /// `y[.., j, ..] = x[.., indices[.., j, ..], ..]` along `axis` (counted from the end if negative): PyTorch's
    /// `gather`, of any element type. `indices` u32 has the shape of `x` but for that axis, and is the shape of the result.
    ///
    /// An index out of range gives 0 and passes no gradient. Gradient: [`scatter_along`](Self::scatter_along).
    #[track_caller]
    pub fn take_along(self, indices: Var<'g>, axis: isize) -> Var<'g> {
        let shape = self.shape();
        match check("take_along", &shape, indices, axis, Where::caller()) {
            Ok(axis) => {
                let places = places(indices, axis, shape[axis]);
                self.reshape([shape.numel(), 1]).gather(places).reshape(indices.shape())
            }
            Err(error) => {
                self.graph().fail(error);
                self
            }
        }
    }

    /// Sums floats into zeros of extent `n` along `axis` (counted from the end if negative): `y[.., i, ..]` is the sum of
    /// the `x[.., j, ..]` with `indices[.., j, ..] = i`. `indices` u32 has the shape of `x`; one out of range is dropped.
    ///
    /// Repeated indices are added in the order of `j`, as [`scatter_add`](Self::scatter_add) does: the same bits at every
    /// run. Gradient: [`take_along`](Self::take_along).
    #[track_caller]
    pub fn scatter_along(self, indices: Var<'g>, axis: isize, n: usize) -> Var<'g> {
        self.scatter(indices, axis, n, |values, places, size| {
            values.reshape([values.shape().numel(), 1]).scatter_add(places, size)
        })
    }

    /// [`scatter_along`](Self::scatter_along) where no index is repeated: a plain write.
    #[track_caller]
    pub(crate) fn scatter_along_unique(self, indices: Var<'g>, axis: isize, n: usize) -> Var<'g> {
        self.scatter(indices, axis, n, |values, places, size| {
            values.reshape([values.shape().numel()]).op(ScatterUnique { size }, &[places])
        })
    }

    #[track_caller]
    fn scatter(
        self,
        indices: Var<'g>,
        axis: isize,
        n: usize,
        sum: impl FnOnce(Var<'g>, Var<'g>, usize) -> Var<'g>,
    ) -> Var<'g> {
        let mut shape = self.shape();
        let location = Where::caller();
        let _at = self.graph().at(location);
        let checked = check("scatter_along", &shape, indices, axis, location).and_then(|axis| {
            if indices.shape() == shape {
                return Ok(axis);
            }
            let message = "expected one index for each value".to_owned();
            let shapes = vec![shape.clone(), indices.shape()];
            Err(Error::Shape { op: "scatter_along".into(), message, shapes, location })
        });
        let axis = match checked {
            Ok(axis) => axis,
            Err(error) => {
                self.graph().fail(error);
                return self;
            }
        };
        shape.0[axis] = n;
        if let Err(error) =
            TensorType::f32(shape.clone()).check_size(&|| format!("the result of scatter_along at {location}"))
        {
            self.graph().fail(error);
            return self;
        }
        sum(self, places(indices, axis, n), shape.numel()).reshape(shape)
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let shapes: [(&[usize], usize, usize, u32); 11] = [
        (&[5], 0, 3, 5),
        (&[4, 7], 1, 3, 9),
        (&[4, 7], 0, 9, 5),
        (&[3, 5, 2], 1, 4, 6),
        (&[1, 1], 1, 1, 1),
        (&[0, 4], 1, 3, 4),
        (&[3, 4], 1, 0, 4),
        (&[3, 0], 1, 2, 1),
        (&[2, 1_003], 1, 517, 1_003),
        (&[66_000, 2], 1, 3, 3),
        (&[3, 131, 67], 1, 5, 140),
    ];
    let mut all = Vec::new();
    for (shape, axis, m, below) in shapes {
        let mut taken = shape.to_vec();
        taken[axis] = m;
        let take = Sample::new(format!("take_along {shape:?} {axis} {m}"), [shape], move |_, x| {
            vec![x[0].take_along(x[1], axis as isize)]
        });
        all.push(take.below(&taken, below));
        let n = shape[axis];
        let scatter = Sample::new(format!("scatter_along {taken:?} {axis} into {n}"), [&taken], move |_, x| {
            vec![x[0].scatter_along(x[1], axis as isize - x[0].rank() as isize, n)]
        });
        all.push(scatter.below(&taken, below));
    }
    let twice = Sample::new("take_along of a product", [&[3, 5], &[3, 4]], |_, x| {
        let y = x[0].tanh().take_along(x[2], 1);
        vec![(y * x[1]).scatter_along(x[2], 1, 6).tanh()]
    });
    all.push(twice.below(&[3, 4], 7));
    let ints = Sample::new("take_along of integers", [], |_, x| vec![x[0].take_along(x[1], 0)]);
    all.push(ints.below(&[9, 3], 1000).below(&[4, 3], 12).no_gradient());
    all
}
