//! Gradients side by side in a flat buffer.

use crate::error::{Error, Refusal, Result};
use crate::graph::{Cotangent, Graph, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::walk::Walk;
use crate::kernels::{CpuCall, Kernel, Lower, Slice};
use crate::types::{DType, Layout, Real, TensorType};
use encase::ShaderType;
use glam::UVec4;

/// Up to seven tensors a dispatch.
pub static PACK: Kernel = kernel!("optim/pack");

const WIDTH: usize = 64;
/// Tensors one dispatch reads; the eighth binding is the flat buffer.
const INPUTS: usize = 7;
/// Dimensions that are left after merging.
const RANK: usize = 8;

/// Input `i`, row-major, from element `places[i]` on; zeros elsewhere. Places ascend and inputs do not overlap.
#[derive(Clone, Debug)]
pub struct Pack {
    /// First element of each input.
    pub places: Vec<usize>,
    /// Elements of the flat buffer.
    pub len: usize,
}

#[derive(ShaderType, Clone, Copy, Default)]
struct Segment {
    start: u32,
    n: u32,
    offset: u32,
    rank: u32,
    slot: u32,
    dims: [UVec4; 2],
    strides: [UVec4; 2],
}

#[derive(ShaderType)]
struct Meta {
    start: u32,
    end: u32,
    count: u32,
    segments: [Segment; INPUTS + 1],
}

impl Pack {
    /// The flat buffer, f32 `[len]`.
    #[track_caller]
    pub fn pack<'g>(self, graph: &'g Graph, inputs: &[Var<'g>]) -> Var<'g> {
        match inputs {
            [] => graph.full([self.len], 0.0),
            [first, others @ ..] => first.op(self, others),
        }
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (out, mut end) = (call.take(0), 0);
        for (input, &offset) in call.inputs.iter().zip(&self.places) {
            let n = input.shape.numel();
            if let Slice::Float(data) = input.data
                && n > 0
            {
                out[end..offset].fill(T::ZERO);
                end = offset + n;
                Walk::new(input.layout, input.shape).copy(data, &mut out[offset..end]);
            }
        }
        out[end..].fill(T::ZERO);
    }

    /// One dispatch: `inputs` (not empty ones), covering elements `start..end` with the zeros around them.
    fn part(&self, cx: &mut Lower<'_>, inputs: &[usize], start: usize, end: usize) -> Result<()> {
        let mut segments = [Segment::default(); INPUTS + 1];
        // What lies before the first input is a segment without elements.
        segments[0].start = start as u32;
        for (slot, &i) in inputs.iter().enumerate() {
            let operand = &cx.inputs[i];
            let (dims, strides) = Layout::collapse(operand.shape(), &[&operand.layout]);
            if dims.len() > RANK {
                return Err(Error::Limit {
                    limit: "dimensions of a packed gradient".into(),
                    needed: dims.len() as u64,
                    available: RANK as u64,
                    hint: "merge dimensions with reshape".into(),
                });
            }
            let mut segment = Segment {
                start: self.places[i] as u32,
                n: operand.numel() as u32,
                offset: cx.lead(operand) as u32,
                rank: dims.len() as u32,
                slot: slot as u32,
                ..Segment::default()
            };
            for (d, (dim, stride)) in dims.iter().zip(&strides[0]).enumerate() {
                segment.dims[d / 4][d % 4] = *dim as u32;
                segment.strides[d / 4][d % 4] = *stride as u32;
            }
            segments[slot + 1] = segment;
        }
        let meta = Meta { start: start as u32, end: end as u32, count: inputs.len() as u32 + 1, segments };
        let mut d = cx.dispatch(&PACK);
        for slot in 0..INPUTS {
            // Bindings that are not needed repeat the first.
            d = d.input(inputs.get(slot).or(inputs.first()).copied().unwrap_or(0));
        }
        d.output(0).uniform(&meta).workgroups((end - start).div_ceil(WIDTH))
    }
}

impl Op for Pack {
    fn name(&self) -> &'static str {
        "pack"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        if inputs.len() != self.places.len() {
            return Refusal::shape(format!("{} places are given", self.places.len()));
        }
        let mut at = 0;
        for (t, &place) in inputs.iter().zip(&self.places) {
            t.require(DType::F32, "gradients are floats")?;
            if place < at {
                return Refusal::shape(format!("place {place} lies in the input before it"));
            }
            at = place.saturating_add(t.numel());
        }
        if at > self.len {
            return Refusal::shape(format!("inputs end at {at}, the flat buffer at {}", self.len));
        }
        Ok(vec![TensorType::f32([self.len])])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let parts = cx.inputs.iter().zip(&self.places).map(|(x, &place)| {
            let shape = x.shape();
            Some(g.slice(0, place, shape.numel()).reshape(shape))
        });
        cx.dense(parts.collect::<Vec<_>>())
    }

    fn strided(&self, _: usize) -> bool {
        true
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let filled: Vec<usize> = (0..cx.inputs.len()).filter(|i| cx.inputs[*i].numel() > 0).collect();
        if filled.is_empty() {
            return self.part(cx, &[], 0, self.len);
        }
        let mut start = 0;
        for (c, inputs) in filled.chunks(INPUTS).enumerate() {
            let next = filled.get((c + 1) * INPUTS);
            let end = next.map_or(self.len, |i| self.places[*i]);
            self.part(cx, inputs, start, end)?;
            start = end;
        }
        Ok(())
    }
}

pub(super) fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    vec![
        Sample::new("pack", [&[3, 5], &[7], &[0], &[], &[2, 3, 4]], |g, x| {
            let inputs = [
                x[0],
                x[0].transpose(0, 1),
                x[1],
                x[1].slice(0, 2, 3),
                x[2],
                x[3],
                x[3].expand([6]),
                x[4].permute(&[2, 0, 1]),
                x[4],
                x[0] * 2.0,
            ];
            let places = (0..10).map(|i| 64 * (i + 1)).collect();
            vec![
                Pack { places, len: 768 }.pack(g, &inputs),
                Pack { places: vec![0], len: 15 }.pack(g, &inputs[..1]),
                Pack { places: vec![3], len: 8 }.pack(g, &[x[2]]),
                Pack { places: vec![], len: 5 }.pack(g, &[]),
            ]
        }),
        Sample::new("pack large", [&[70_001], &[300, 301]], |g, x| {
            let places = vec![0, 70_016];
            vec![Pack { places, len: 160_384 }.pack(g, &[x[0], x[1].transpose(0, 1)])]
        }),
    ]
}
