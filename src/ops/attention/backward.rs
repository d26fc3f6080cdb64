//! The gradient of attention, from the output and the logsumexp.

use super::{Extents, FEATURES, Kind, WIDTH, cpu, fast, packed, strides, unrolled};
use crate::error::{Error, Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, Place};
use crate::types::{Operand, TensorType};
use encase::ShaderType;
use glam::UVec4;

/// Statistics of every query.
pub static DELTA: Kernel = kernel!("attention/delta");
/// One of the three gradients.
pub static BACKWARD: Kernel = kernel!("attention/backward");

/// Inputs: q, k, v, cotangent of the output, output, logsumexp, with `extra` the cotangent of the logsumexp, then mask and
/// counts. Outputs: gradients of q, k and v.
#[derive(Clone, Debug)]
pub(super) struct Backward {
    pub kind: Kind,
    pub extra: bool,
}

/// Uniform of `attention/delta.wgsl`.
#[derive(ShaderType)]
struct DeltaMeta {
    rows: u32,
    heads: u32,
    queries: u32,
    width: u32,
    extra: u32,
    offset: u32,
    g: UVec4,
}

/// Gradients of q, k and v.
pub(super) fn gradients<'g>(kind: Kind, cx: &Vjp<'g>) -> Vec<Var<'g>> {
    let out = cx.outputs[0];
    let g = cx.cotangents[0].unwrap_or_else(|| cx.graph.full(out.shape(), 0.0));
    let extra = cx.cotangents[1];
    let mut inputs = cx.inputs[..3].to_vec();
    inputs.extend([g, out, cx.outputs[1]]);
    inputs.extend(extra);
    inputs.extend(&cx.inputs[3..]);
    let extra = extra.is_some();
    cx.graph.apply(Backward { kind, extra }, &inputs)
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "attention_gradient"
    }

    fn outputs(&self) -> usize {
        3
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        Ok(inputs[..3].to_vec())
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.graph.fail(Error::argument(
            "second derivative of attention",
            "is not defined; build it with attention_composed where it is needed",
        ));
        cx.none()
    }

    fn strided(&self, index: usize) -> bool {
        index < 4
    }

    fn operations(&self, inputs: &[Operand], _: &[Operand]) -> u64 {
        // Scores again and the gradients of queries and keys; the gradients of scores and of values.
        let e = Extents::new(inputs[0].shape(), inputs[1].shape(), inputs[2].shape());
        2 * self.kind.pairs(&e) * (3 * e.width + 2 * e.value_width) as u64
    }

    #[cfg(feature = "cpu")]
    fn cpu_f32(&self, call: &mut CpuCall<'_, f32>) {
        fast::backward(self, call);
    }

    #[cfg(feature = "oracle")]
    fn cpu_f64(&self, call: &mut CpuCall<'_, f64>) {
        cpu::backward(self, call);
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let [mask, counts] = self.kind.optional(6 + usize::from(self.extra));
        let (e, meta) = self.kind.meta(cx, Some(3), counts);
        let rows = e.batches * e.heads * e.queries;
        let delta = DeltaMeta {
            rows: rows as u32,
            heads: e.heads as u32,
            queries: e.queries as u32,
            width: e.value_width as u32,
            extra: u32::from(self.extra),
            offset: cx.lead(&cx.inputs[3]) as u32,
            g: strides(&cx.inputs[3]),
        };
        let stats = cx.temp(2 * rows.max(1));
        cx.dispatch(&DELTA)
            .input(4)
            .input(3)
            .input(5)
            .input(if self.extra { 6 } else { 5 })
            .write(stats)
            .uniform(&delta)
            .workgroups(rows.div_ceil(WIDTH))?;
        if packed::helps(&self.kind, cx, &e, &[0, 3]) {
            return packed::backward(cx, &e, &meta, [mask, counts], Place::Temp(stats));
        }
        let unrolled = unrolled(cx, &e);
        for (output, groups) in groups(&e).into_iter().enumerate() {
            cx.dispatch(&BACKWARD)
                .constant("VECTORS", unrolled)
                .constant("KIND", output as f64)
                .constant("BY_QUERY", if output == 0 { 1.0 } else { 0.0 })
                .input(0)
                .input(1)
                .input(2)
                .input(mask)
                .input(counts)
                .input(3)
                .read(stats)
                .output(output)
                .uniform(&meta)
                .workgroups(groups)?;
        }
        Ok(())
    }
}

/// Workgroups for the gradients of q, k and v.
fn groups(e: &Extents) -> [usize; 3] {
    let queries = e.batches * e.heads * e.queries.div_ceil(WIDTH);
    let keys = e.batches * e.kv_heads * e.keys.div_ceil(WIDTH);
    let pieces = e.width.div_ceil(FEATURES);
    [queries * pieces, keys * pieces, keys * e.value_width.div_ceil(FEATURES)]
}
