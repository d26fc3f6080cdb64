//! Functions that the layers are made of.

use super::build::run;
use super::compare::Outcome;
use super::fixture::Case;
use crate::Module;
use wgrad::ops::attention::Attention;
use wgrad::ops::rotary::{Pairs, Rotary, XPos};
use wgrad::ops::route::sinkhorn::Sinkhorn;
use wgrad::ops::route::soft_top_k::{DifferentiableTopK, SoftCount, SoftTopK, Start};
use wgrad::{Device, Graph, Result, Tensor, Var};

pub static MODULES: &[(&str, &str, Module)] = &[
    ("primitive", "mean cross entropy, ignore_index 2", cross_entropy),
    ("primitive", "softmax/logsumexp", softmax),
    ("primitive", "layer_norm eps1e-5 / rms_norm x/max(|x|,1e-12)*sqrt(d)*g / l2norm", norms),
    ("primitive", "gelu(erf)/elu+1/sigmoid/relu/silu", activations),
    ("primitive", "colt5 RotaryEmbedding, half layout, theta 10000, positions 0..n-1", rotary_half),
    ("primitive", "rotary_embedding_torch, interleaved, rotate_queries_with_cached_keys", rotary_interleaved),
    ("primitive", "block recurrent RotaryEmbedding + xpos, last rows of the table", rotary_xpos),
    ("primitive", "EmbeddingBag(sum, per_sample_weights), repeated indices", embedding_bag),
    ("CoLT5-attention", "scatter_mean", scatter_mean),
    ("CoLT5-attention", "sinkhorn", sinkhorn),
    ("CoLT5-attention", "gumbel_sinkhorn", gumbel_sinkhorn),
    ("primitive", "softmax(q k^T d^-.5, causal offset j-i) v", causal_attention),
    ("CoLT5-attention", "coor_descent", coor_descent),
    ("CoLT5-attention", "topk", topk),
];

fn softmax(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let x = b.input("x")?;
        let (last, mut rows) = (x.rank() - 1, x.shape());
        rows.0.pop();
        b.output("softmax", x.softmax(last));
        b.output("logsumexp", x.logsumexp(last).reshape(rows));
        Ok(())
    })
}

fn norms(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let (x, gain, offset) = (b.input("x")?, b.input("g")?, b.input("b")?);
        b.output("layer_norm", x.layer_norm(gain, offset, 1e-5));
        b.output("rms_norm", x.rms_norm(gain));
        b.output("l2norm", x.l2_normalize(1e-12));
        Ok(())
    })
}

fn activations(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let x = b.input("x")?;
        b.output("gelu", x.gelu());
        b.output("elu1", x.elu_plus_one());
        b.output("sigmoid", x.sigmoid());
        b.output("relu", x.relu());
        b.output("silu", x.silu());
        Ok(())
    })
}

fn cross_entropy(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let (logits, labels) = (b.input("logits")?, b.input("labels")?);
        let ignore = case.option("ignore_index").and_then(|v| v.as_i64());
        b.output("loss", logits.cross_entropy_mean(labels, ignore));
        Ok(())
    })
}

/// Positions `range` as a constant.
fn positions(graph: &Graph, range: std::ops::Range<usize>) -> Result<Var<'_>> {
    Ok(graph.constant(Tensor::u32([range.len()], range.map(|p| p as u32).collect())?))
}

fn rotary_half(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let x = b.input("x")?;
        let options = Rotary { pairs: Pairs::Half, ..Rotary::default() };
        b.output("out", x.rotary(positions(b.graph, 0..x.dim(-2))?, &options));
        Ok(())
    })
}

fn rotary_interleaved(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let (q, k) = (b.input("q")?, b.input("k")?);
        let (i, j) = (q.dim(-2), k.dim(-2));
        b.output("q", q.rotary(positions(b.graph, j - i..j)?, &Rotary::default()));
        b.output("k", k.rotary(positions(b.graph, 0..j)?, &Rotary::default()));
        Ok(())
    })
}

fn rotary_xpos(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let (q, k) = (b.input("q")?, b.input("k")?);
        // Queries and keys take the last rows of a table as long as the width.
        let table = case.option("width").and_then(|v| v.as_u64()).unwrap_or(0) as usize;
        let options = |invert| Rotary {
            pairs: Pairs::Half,
            xpos: Some(XPos { center: table as u32 / 2, scale_base: 512.0, invert }),
            ..Rotary::default()
        };
        b.output("q", q.rotary(positions(b.graph, table - q.dim(-2)..table)?, &options(false)));
        b.output("k", k.rotary(positions(b.graph, table - k.dim(-2)..table)?, &options(true)));
        Ok(())
    })
}

fn causal_attention(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let options = Attention { causal: true, ..Attention::default() };
        b.output("out", b.input("q")?.attention(b.input("k")?, b.input("v")?, &options).out);
        Ok(())
    })
}

fn embedding_bag(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let (table, weights) = (b.input("weight")?, b.input("w")?);
        b.output("out", table.weighted_gather(b.input("indices")?, weights));
        Ok(())
    })
}

/// Mean of what falls into each row: the sum over its count, which is at least eps.
fn scatter_mean(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let (t, index) = (b.input("t")?, b.input("index")?);
        let shape = case.tensor("output.out")?.shape().clone();
        let (batch, n, width) = (t.dim(0), t.dim(1), t.dim(2));
        let rows = shape[1];
        let at = (b.graph.iota([batch, n], 0) * rows as u32 + index).reshape([batch * n]);
        let sums = t.reshape([batch * n, width]).scatter_add(at, batch * rows);
        let counts = b.graph.full([batch * n, 1], 1.0).scatter_add(at, batch * rows);
        b.output("out", (sums / counts.maximum(case.float("eps", 1e-5))).reshape(shape));
        Ok(())
    })
}

fn sinkhorn(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let options = Sinkhorn { iterations: case.size("n_iters", 8), ..Sinkhorn::default() };
        b.output("out", b.input("r")?.sinkhorn(&options, None));
        Ok(())
    })
}

fn gumbel_sinkhorn(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let (iterations, temperature) = (case.size("n_iters", 8), case.float("temperature", 0.7));
        let options = Sinkhorn { iterations, temperature, ..Sinkhorn::default() };
        b.output("out", b.input("r")?.gumbel_sinkhorn(b.input("gumbel")?, &options));
        Ok(())
    })
}

/// The coordinate descent that a case asks for. Before 0.9 it started at the rectified scores.
fn descent(case: &Case, iterations: usize) -> SoftTopK {
    let minor = case.version.split('.').nth(1).and_then(|v| v.parse::<u32>().ok());
    SoftTopK::Iterations {
        n: case.size("n_iters", iterations),
        eps: case.float("eps", 0.1),
        eps_init: case.option("eps_init").and_then(|v| v.as_f64()),
        eps_decay: case.float("eps_decay", 1.0),
        start: if minor.is_some_and(|m| m < 9) { Start::Relu } else { Start::Scores },
    }
}

fn coor_descent(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let s = b.input("s")?;
        // One count for all, or one a row, `[rows]` or `[rows, 1]`.
        let k = match b.maybe_input("k") {
            Some(k) => SoftCount::PerRow(k.reshape(&s.shape()[..s.rank() - 1])),
            None => SoftCount::Fixed(case.float("k", 1.0)),
        };
        b.output("scores", s.soft_top_k(k, &descent(case, 50), b.maybe_input("mask")));
        Ok(())
    })
}

fn topk(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let x = b.input("x")?;
        let k = case.size("k", 1);
        if case.flag("non_differentiable", false) {
            let top = x.top_k(k);
            b.output("values", top.values);
            b.output("indices", top.indices);
            return Ok(());
        }
        let ratio = case.float("coor_descent_k_ratio", 9.0 / 8.0);
        let options = DifferentiableTopK { ratio, how: descent(case, 20) };
        let top = x.differentiable_top_k(k, &options, b.maybe_input("mask"));
        b.output("values", top.values);
        b.output("indices", top.indices);
        b.output("coor_descent_values", top.soft);
        b.output("gates", top.gates);
        Ok(())
    })
}
