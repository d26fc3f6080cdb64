//! Rows of a tensor of fixed capacity at a position known only at run time: key/value caches and other histories.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Store, Tensor, TensorType};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let cache = graph.state("cache", TensorType::f32([4, 2])); // room for 4 rows
//! let row = graph.input("row", TensorType::f32([1, 2]));
//! let place = graph.input("place", TensorType::u32([]));
//! graph.assign(cache, cache.write_rows(row, place)); // in place: the rest is not touched
//! let device = Device::cpu();
//! let plan = device.compile_blocking(&graph, &[])?;
//! let store = Store::new(&device);
//! store.set_zeros("cache", &TensorType::f32([4, 2]))?;
//! let (row, place) = (Tensor::f32([1, 2], vec![5.0, 6.0])?, Tensor::u32([], vec![2])?);
//! plan.run(&Feed::new().store(&store).input("row", &row).input("place", &place))?;
//! assert_eq!(store.read_blocking("cache")?.floats(), [0.0, 0.0, 0.0, 0.0, 5.0, 6.0, 0.0, 0.0]);
//! # Ok(())
//! # }
//! ```

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, SharedOp, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, Slice, SliceMut};
use crate::types::{DType, Real, Shape, TensorType};
use encase::ShaderType;
use std::sync::Arc;

/// Rows into a cache.
pub static WRITE_ROWS: Kernel = kernel!("attention/write_rows");
/// Rows out of a cache.
pub static TAKE_ROWS: Kernel = kernel!("attention/take_rows");

const WIDTH: usize = 64;

/// Inputs: cache `[.., capacity, width]`, rows `[.., n, width]`, position u32, and with `gated` the gate (u32 scalar).
/// Updates the cache in place.
#[derive(Clone, Debug)]
struct WriteRows {
    gated: bool,
}

/// Inputs: x `[.., capacity, width]`, position u32. Output: `[.., n, width]`.
#[derive(Clone, Debug)]
struct TakeRows {
    n: usize,
}

/// Layout of kernel metadata: see `shared/rows.wgsl`.
#[derive(ShaderType)]
struct Meta {
    outer: u32,
    capacity: u32,
    n: u32,
    width: u32,
    per_position: u32,
    gated: u32,
}

/// `[outer, capacity, width]` and a window of `n` rows.
struct Window {
    outer: usize,
    capacity: usize,
    n: usize,
    width: usize,
    per_position: usize,
}

impl Window {
    fn new(cache: &Shape, n: usize, positions: &Shape) -> Self {
        let axis = cache.len().saturating_sub(2);
        let (outer, capacity, width) = cache.split(axis);
        let per_position = outer.checked_div(positions.numel()).unwrap_or(1).max(1);
        Window { outer, capacity, n, width, per_position }
    }

    fn meta(&self, gated: bool) -> Meta {
        Meta {
            outer: self.outer as u32,
            capacity: self.capacity as u32,
            n: self.n as u32,
            width: self.width as u32,
            per_position: self.per_position as u32,
            gated: u32::from(gated),
        }
    }

    fn groups(&self) -> usize {
        (self.outer * self.n * self.width).div_ceil(WIDTH)
    }

    /// For every outer entry: ranges of the rows that exist, in the cache and in the window.
    fn each(&self, positions: &[u32], mut f: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>)) {
        for outer in 0..self.outer {
            let start = positions[outer / self.per_position] as usize;
            let count = self.n.min(self.capacity.saturating_sub(start)) * self.width;
            if count > 0 {
                let cache = (outer * self.capacity + start) * self.width;
                let rows = outer * self.n * self.width;
                f(cache..cache + count, rows..rows + count);
            }
        }
    }
}

/// Refuses a position that is neither one u32 nor one per entry of the first dimension.
fn check_position(cache: &Shape, position: &TensorType) -> Result<(), Refusal> {
    position.require(DType::U32, "the position is one u32, or one per batch entry")?;
    if cache.len() < 2 {
        return Refusal::shape("needs [.., capacity, width]");
    }
    let batch = cache.len() > 2 && position.shape[..] == cache[..1];
    if !position.shape.is_empty() && !batch {
        return Refusal::shape(format!(
            "the position has shape [] or, for three and more dimensions, that of the first; got {}",
            position.shape
        ));
    }
    Ok(())
}

impl WriteRows {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        if self.gated && call.u(3).first() == Some(&0) {
            return;
        }
        let n = call.inputs[1].shape.split(call.inputs[1].shape.len() - 2).1;
        let window = Window::new(call.outputs[0].shape, n, call.inputs[2].shape);
        let positions = call.u(2);
        let (rows, ints) = match call.inputs[1].data {
            Slice::Float(_) => (call.f(1), &[][..]),
            Slice::Int(_) => (&[][..], call.u(1)),
        };
        match &mut call.outputs[0].data {
            SliceMut::Float(out) => {
                window.each(positions, |to, from| {
                    out[to].copy_from_slice(&rows[from]);
                });
            }
            SliceMut::Int(out) => {
                window.each(positions, |to, from| {
                    out[to].copy_from_slice(&ints[from]);
                });
            }
        }
    }
}

impl Op for WriteRows {
    fn name(&self) -> &'static str {
        "write_rows"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let (cache, rows) = (&inputs[0], &inputs[1]);
        check_position(&cache.shape, &inputs[2])?;
        rows.require(cache.dtype, "rows have the element type of the cache")?;
        let axis = cache.shape.len() - 2;
        let fits = rows.shape.len() == cache.shape.len()
            && (0..rows.shape.len()).all(|i| i == axis || rows.shape[i] == cache.shape[i]);
        if !fits {
            return Refusal::shape(format!(
                "rows {} must agree with the cache {} in all dimensions but the last but one",
                rows.shape, cache.shape
            ));
        }
        if self.gated && inputs[3] != TensorType::u32([]) {
            return Refusal::shape(format!("the gate is one u32, got {}", inputs[3]));
        }
        Ok(vec![cache.clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let position = cx.inputs[2];
        let gate = self.gated.then(|| cx.inputs[3]);
        let shape = cx.inputs[1].shape();
        let n = shape[shape.len() - 2];
        let zeros = cx.graph.full(shape, 0.0);
        let cache = g.put_rows(zeros, position, gate);
        let rows = g.take_rows(position, n);
        let rows = gate.map_or(rows, |gate| gate.select(rows, 0.0));
        let mut grads = cx.none();
        grads[0] = Some(cache.into());
        grads[1] = Some(rows.into());
        grads
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn minds_gate(&self) -> bool {
        self.gated
    }

    fn with_gate(&self) -> Option<SharedOp> {
        Some(Arc::new(WriteRows { gated: true }))
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let rows = cx.inputs[1].shape();
        let n = rows.split(rows.len() - 2).1;
        let window = Window::new(cx.outputs[0].shape(), n, cx.inputs[2].shape());
        let gate = if self.gated { 3 } else { 2 };
        cx.dispatch(&WRITE_ROWS)
            .input(1)
            .input(2)
            .input(gate)
            .output(0)
            .uniform(&window.meta(self.gated))
            .workgroups(window.groups())
    }
}

impl TakeRows {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let window = Window::new(call.inputs[0].shape, self.n, call.inputs[1].shape);
        let positions = call.u(1);
        let (floats, ints) = match call.inputs[0].data {
            Slice::Float(_) => (call.f(0), &[][..]),
            Slice::Int(_) => (&[][..], call.u(0)),
        };
        match &mut call.outputs[0].data {
            SliceMut::Float(out) => {
                out.fill(T::ZERO);
                window.each(positions, |from, to| {
                    out[to].copy_from_slice(&floats[from]);
                });
            }
            SliceMut::Int(out) => {
                out.fill(0);
                window.each(positions, |from, to| {
                    out[to].copy_from_slice(&ints[from]);
                });
            }
        }
    }
}

impl Op for TakeRows {
    fn name(&self) -> &'static str {
        "take_rows"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        check_position(&inputs[0].shape, &inputs[1])?;
        let mut out = inputs[0].clone();
        let axis = out.shape.len() - 2;
        out.shape.0[axis] = self.n;
        Ok(vec![out])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let zeros = cx.graph.full(cx.inputs[0].shape(), 0.0);
        let x = zeros.put_rows(g, cx.inputs[1], None);
        vec![Some(x.into()), None]
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let window = Window::new(cx.inputs[0].shape(), self.n, cx.inputs[1].shape());
        cx.dispatch(&TAKE_ROWS).input(0).input(1).output(0).uniform(&window.meta(false)).workgroups(window.groups())
    }
}

impl<'g> Var<'g> {
    /// The cache `self` `[.., capacity, width]` with `rows` `[.., n, width]` written from row `position` on (u32: a
    /// scalar, or one per entry of the first dimension). Rows beyond the capacity are dropped.
    ///
    /// `graph.assign(cache, cache.write_rows(..))` updates the state's own buffer: nothing else is copied, unless the
    /// new value is read as well. In a graph with a gate the update waits for it.
    #[track_caller]
    pub fn write_rows(self, rows: Var<'g>, position: Var<'g>) -> Var<'g> {
        self.put_rows(rows, position, None)
    }

    /// [`write_rows`](Self::write_rows), only if `gate` (u32 scalar) is not 0.
    #[track_caller]
    pub fn write_rows_if(self, gate: Var<'g>, rows: Var<'g>, position: Var<'g>) -> Var<'g> {
        self.put_rows(rows, position, Some(gate))
    }

    #[track_caller]
    fn put_rows(self, rows: Var<'g>, position: Var<'g>, gate: Option<Var<'g>>) -> Var<'g> {
        let mut others = vec![rows, position];
        others.extend(gate);
        let gated = gate.is_some();
        self.op(WriteRows { gated }, &others)
    }

    /// Rows `position..position + n` of `self` `[.., capacity, width]`, as `[.., n, width]`. `position` is u32: a scalar,
    /// or one per entry of the first dimension. Rows beyond the capacity are 0.
    #[track_caller]
    pub fn take_rows(self, position: Var<'g>, n: usize) -> Var<'g> {
        self.op(TakeRows { n }, &[position])
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    // Cache, rows, shape of the position, bound of its values (beyond the capacity as well).
    type Case = (&'static [usize], &'static [usize], &'static [usize], u32);
    let cases: [Case; 7] = [
        (&[7, 3], &[2, 3], &[], 7),
        (&[2, 3, 11, 5], &[2, 3, 4, 5], &[2], 14),
        (&[5, 13, 1], &[5, 1, 1], &[5], 13),
        (&[2, 5, 3], &[2, 9, 3], &[], 3),
        (&[2, 5, 3], &[2, 0, 3], &[2], 3),
        (&[70_000, 2, 1], &[70_000, 1, 1], &[], 2),
        (&[1, 1], &[1, 1], &[], 1),
    ];
    let mut all = Vec::new();
    for (cache, rows, position, bound) in cases {
        let n = rows[rows.len() - 2];
        all.push(
            Sample::new(format!("write_rows {cache:?} {rows:?} {position:?}"), [cache, rows], |_, x| {
                vec![x[0].write_rows(x[1], x[2])]
            })
            .below(position, bound),
        );
        all.push(
            Sample::new(format!("take_rows {cache:?} {n} {position:?}"), [cache], move |_, x| {
                vec![x[0].take_rows(x[1], n)]
            })
            .below(position, bound),
        );
    }
    for (name, bound) in [("closed", 1), ("open", 100)] {
        all.push(
            Sample::new(format!("write_rows {name} gate"), [&[2, 4, 3], &[2, 2, 3]], |_, x| {
                vec![x[0].write_rows_if(x[3], x[1], x[2])]
            })
            .below(&[2], 4)
            .below(&[], bound),
        );
    }
    all.push(
        Sample::new("rows of integers", [], |_, x| vec![x[0].write_rows(x[1], x[2]), x[0].take_rows(x[2], 3)])
            .below(&[2, 5, 3], 100)
            .below(&[2, 2, 3], 100)
            .below(&[2], 5)
            .no_gradient(),
    );
    all
}
