//! Copies: strided source to dense target, concatenation, padding and dilation. All move elements, none computes.
//!
//! ```
//! use wgrad::{Device, Feed, Graph};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.iota([3], 0).to_f32();
//! let y = x.concat(&[x + 10.0], 0).pad(0, 1, 0);
//! let plan = Device::cpu().compile_blocking(&graph, &[("y", y)])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("y")?.floats(), [0.0, 0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
//! # Ok(())
//! # }
//! ```

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::walk::Walk;
use crate::kernels::{CpuCall, CpuInput, Kernel, Lower, Slice, SliceMut, par};
use crate::types::{Layout, Real, Shape, TensorType};
use encase::ShaderType;
use glam::UVec4;

/// Strided source into strided target.
pub static COPY: Kernel = kernel!("elementwise/copy");

const WIDTH: usize = 64;
/// Elements that one thread joins at a time on the CPU.
const PIECE: usize = 1 << 14;
/// Elements that lie together from which on finding their place costs little beside them.
const LONG: usize = 64;
const RANK: usize = 8;

#[derive(ShaderType)]
struct Meta {
    n: u32,
    rank: u32,
    source: u32,
    target: u32,
    fill: u32,
    dims: [UVec4; 2],
    source_strides: [UVec4; 2],
    target_strides: [UVec4; 2],
}

/// Puts the inputs one after the other along an axis, each `gap` elements apart from the next (zeros between), after
/// `before` and before `after` zeros.
#[derive(Clone, Debug)]
pub struct Concat {
    axis: usize,
    before: usize,
    after: usize,
    /// Distance between neighbouring elements of the inputs along the axis.
    step: usize,
}

impl Concat {
    /// Length along the axis that an input of `n` elements covers.
    fn cover(&self, n: usize) -> usize {
        match n {
            0 => 0,
            _ => (n - 1).saturating_mul(self.step).saturating_add(1),
        }
    }

    fn has_gaps(&self) -> bool {
        self.before > 0 || self.after > 0 || self.step > 1
    }

    /// Layout of each input within the dense output.
    fn places(&self, inputs: &[&[usize]], out: &[usize]) -> Vec<Layout> {
        let dense = Layout::contiguous(out);
        let mut at = self.before;
        inputs
            .iter()
            .map(|shape| {
                let mut layout = dense.clone();
                layout.offset = at.saturating_mul(dense.strides[self.axis]);
                // With one element the step may be anything.
                layout.strides[self.axis] = layout.strides[self.axis].saturating_mul(self.step);
                at += self.cover(shape[self.axis]);
                layout
            })
            .collect()
    }

    /// Inputs one after the other: each piece of the output takes its parts of them.
    fn join<E: Copy + Default + Send + Sync>(&self, inputs: &[(&[E], Walk, usize)], out: &mut [E]) {
        let ends: Vec<usize> = inputs
            .iter()
            .scan(0, |end, (_, _, n)| {
                *end += n;
                Some(*end)
            })
            .collect();
        let total = ends.last().copied().unwrap_or(0).max(1);
        par::pieces(
            out,
            PIECE,
            #[inline(always)]
            |start, mut piece| {
                let mut at = start;
                while !piece.is_empty() {
                    let (outer, within) = (at / total, at % total);
                    let i = ends.partition_point(|end| *end <= within);
                    let (data, walk, n) = &inputs[i];
                    let (run, rest) = piece.split_at_mut((ends[i] - within).min(piece.len()));
                    walk.load(data, outer * n + within + n - ends[i], run);
                    at += run.len();
                    piece = rest;
                }
            },
        );
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let run: usize = call.outputs[0].shape[self.axis..].iter().product();
        if !self.has_gaps() && run >= LONG {
            let filled = || call.inputs.iter().filter(|i| !i.shape.contains(&0));
            // Elements for one index of the outer dimensions.
            let each = |shape: &Shape| shape[self.axis..].iter().product::<usize>();
            let part = |i: &CpuInput<'_, T>| (Walk::new(i.layout, i.shape), each(i.shape));
            match &mut call.outputs[0].data {
                SliceMut::Float(out) => {
                    let inputs = filled().filter_map(|i| match (i.data, part(i)) {
                        (Slice::Float(data), (walk, n)) => Some((data, walk, n)),
                        _ => None,
                    });
                    self.join(&inputs.collect::<Vec<_>>(), out);
                }
                SliceMut::Int(out) => {
                    let inputs = filled().filter_map(|i| match (i.data, part(i)) {
                        (Slice::Int(data), (walk, n)) => Some((data, walk, n)),
                        _ => None,
                    });
                    self.join(&inputs.collect::<Vec<_>>(), out);
                }
            }
            return;
        }
        let shapes: Vec<&[usize]> = call.inputs.iter().map(|i| &i.shape.0[..]).collect();
        let places = self.places(&shapes, call.outputs[0].shape);
        match &mut call.outputs[0].data {
            SliceMut::Float(out) => {
                out.fill(T::ZERO);
                for (input, place) in call.inputs.iter().zip(&places) {
                    if let Slice::Float(data) = input.data {
                        scatter(data, input.layout, input.shape, place, out);
                    }
                }
            }
            SliceMut::Int(out) => {
                out.fill(0);
                for (input, place) in call.inputs.iter().zip(&places) {
                    if let Slice::Int(data) = input.data {
                        scatter(data, input.layout, input.shape, place, out);
                    }
                }
            }
        }
    }
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        if self.has_gaps() { "pad" } else { "concat" }
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let Some(first) = inputs.first() else {
            return Refusal::shape("needs at least one input");
        };
        if self.axis >= first.shape.len() {
            return Refusal::shape(format!("axis {} of {} dimensions", self.axis, first.shape.len()));
        }
        let mut extent = self.before.saturating_add(self.after);
        for t in inputs {
            t.require(first.dtype, "all inputs have one element type")?;
            let same = t.shape.len() == first.shape.len()
                && (0..t.shape.len()).all(|i| i == self.axis || t.shape[i] == first.shape[i]);
            if !same {
                return Refusal::shape(format!("inputs must agree in all dimensions but {}", self.axis));
            }
            extent = extent.saturating_add(self.cover(t.shape[self.axis]));
        }
        let mut shape = first.shape.clone();
        shape.0[self.axis] = extent;
        Ok(vec![TensorType { dtype: first.dtype, shape }])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let mut at = self.before;
        let parts = cx.inputs.iter().map(|x| {
            let n = x.shape()[self.axis];
            let part = g.slice_step(self.axis, at, n, self.step);
            at += self.cover(n);
            Some(part)
        });
        cx.dense(parts.collect::<Vec<_>>())
    }

    fn strided(&self, _: usize) -> bool {
        true
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let out = cx.outputs[0].shape().clone();
        let shapes: Vec<&[usize]> = cx.inputs.iter().map(|i| &i.shape().0[..]).collect();
        let places = self.places(&shapes, &out);
        if self.has_gaps() {
            let dense = Layout::contiguous(&out);
            dispatch(cx, None, &dense, &out)?;
        }
        for (i, place) in places.iter().enumerate() {
            let shape = cx.inputs[i].shape().clone();
            dispatch(cx, Some(i), place, &shape)?;
        }
        Ok(())
    }
}

/// Copies input 0 as it lies to the dense output of the same number of elements.
pub(crate) fn copy_lower(cx: &mut Lower<'_>) -> Result<()> {
    let place = Layout::contiguous(cx.inputs[0].shape());
    let shape = cx.inputs[0].shape().clone();
    dispatch(cx, Some(0), &place, &shape)
}

/// CPU twin of [`copy_lower`].
pub(crate) fn copy_cpu<T: Real>(call: &mut CpuCall<'_, T>) {
    let CpuInput { shape, layout, data } = &call.inputs[0];
    if shape.contains(&0) {
        return;
    }
    let walk = Walk::new(layout, shape);
    match (&mut call.outputs[0].data, data) {
        (SliceMut::Float(out), Slice::Float(data)) => walk.copy(data, out),
        (SliceMut::Int(out), Slice::Int(data)) => walk.copy(data, out),
        _ => {}
    }
}

fn dispatch(cx: &mut Lower<'_>, input: Option<usize>, place: &Layout, shape: &[usize]) -> Result<()> {
    let zero = Layout { offset: 0, strides: vec![0; shape.len()] };
    let layout = input.map_or(&zero, |i| &cx.inputs[i].layout).clone();
    let (dims, strides) = Layout::collapse(shape, &[&layout, place]);
    if dims.len() > RANK {
        return Err(crate::Error::Limit {
            limit: "dimensions of a copy".into(),
            needed: dims.len() as u64,
            available: RANK as u64,
            hint: "merge dimensions with reshape".into(),
        });
    }
    let pack = |values: &[usize], fill: u32| {
        let mut v = [UVec4::splat(fill); 2];
        for (d, x) in values.iter().enumerate() {
            v[d / 4][d % 4] = *x as u32;
        }
        v
    };
    let n: usize = shape.iter().product();
    let meta = Meta {
        n: n as u32,
        rank: dims.len() as u32,
        source: input.map_or(0, |i| cx.lead(&cx.inputs[i])) as u32,
        target: (place.offset + cx.lead(&cx.outputs[0])) as u32,
        fill: u32::from(input.is_none()),
        dims: pack(&dims, 1),
        source_strides: pack(&strides[0], 0),
        target_strides: pack(&strides[1], 0),
    };
    // A fill has no source; it binds a word that it does not read.
    let word = input.is_none().then(|| cx.temp(1));
    let d = cx.dispatch(&COPY);
    let d = match (input, word) {
        (Some(i), _) => d.input(i),
        (None, Some(word)) => d.read(word),
        (None, None) => d,
    };
    d.output(0).uniform(&meta).workgroups(n.div_ceil(WIDTH))
}

/// Writes the elements of a strided source to strided places.
pub(crate) fn scatter<E: Copy>(data: &[E], from: &Layout, shape: &[usize], to: &Layout, out: &mut [E]) {
    if shape.contains(&0) {
        return;
    }
    let (dims, strides) = Layout::collapse(shape, &[from, to]);
    let Some((&extent, outer)) = dims.split_last() else {
        out[to.offset] = data[from.offset];
        return;
    };
    let (inner_from, inner_to) = (strides[0][dims.len() - 1], strides[1][dims.len() - 1]);
    let mut index = vec![0; outer.len()];
    let (mut a, mut b) = (from.offset, to.offset);
    loop {
        if inner_from == 1 && inner_to == 1 {
            out[b..b + extent].copy_from_slice(&data[a..a + extent]);
        } else {
            for i in 0..extent {
                out[b + i * inner_to] = data[a + i * inner_from];
            }
        }
        let mut d = outer.len();
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            index[d] += 1;
            a += strides[0][d];
            b += strides[1][d];
            if index[d] < outer[d] {
                break;
            }
            a -= strides[0][d] * outer[d];
            b -= strides[1][d] * outer[d];
            index[d] = 0;
        }
    }
}

impl<'g> Var<'g> {
    /// `self` and `others` one after the other along `axis`: `[.., a, ..]` and `[.., b, ..]` to `[.., a + b, ..]`.
    #[track_caller]
    pub fn concat(self, others: &[Var<'g>], axis: usize) -> Var<'g> {
        if others.is_empty() { self } else { self.op(Concat { axis, before: 0, after: 0, step: 1 }, others) }
    }

    /// `before` zeros, the elements, `after` zeros along `axis`: `[.., n, ..]` to `[.., before + n + after, ..]`.
    #[track_caller]
    pub fn pad(self, axis: usize, before: usize, after: usize) -> Var<'g> {
        if before == 0 && after == 0 { self } else { self.op(Concat { axis, before, after, step: 1 }, &[]) }
    }

    /// `step - 1` zeros between neighbours along `axis`: `[.., n, ..]` to `[.., (n - 1) step + 1, ..]`.
    #[track_caller]
    pub fn dilate(self, axis: usize, step: usize) -> Var<'g> {
        self.op(Concat { axis, before: 0, after: 0, step: step.max(1) }, &[])
    }

    /// Dense copy in row-major order, of the same shape and values.
    #[track_caller]
    pub fn contiguous(self) -> Var<'g> {
        // The copy runs along an axis; a scalar has none.
        let x = if self.rank() == 0 { self.reshape([1]) } else { self };
        let copy = x.op(Concat { axis: 0, before: 0, after: 0, step: 1 }, &[]);
        if self.rank() == 0 { copy.reshape([]) } else { copy }
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    vec![
        Sample::new("concat", [&[2, 3, 4], &[2, 5, 4], &[2, 0, 4]], |_, x| {
            vec![x[0].concat(&[x[1], x[2]], 1), x[0].transpose(0, 2).concat(&[x[1].slice(1, 1, 3).transpose(0, 2)], 1)]
        }),
        Sample::new("pad", [&[3, 5]], |_, x| vec![x[0].pad(1, 2, 3), x[0].pad(0, 0, 1), x[0].dilate(1, 3)]),
        Sample::new("contiguous", [&[3, 5], &[]], |_, x| vec![x[0].transpose(0, 1).contiguous(), x[1].contiguous()]),
    ]
}
