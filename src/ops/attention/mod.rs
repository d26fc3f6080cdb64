//! Attention that never stores the matrix of scores: `softmax(scale q k^T) v` by online softmax over tiles of keys
//! (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135).
//!
//! ```
//! use wgrad::ops::attention::Attention;
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! // [batch, heads, tokens, features]
//! let graph = Graph::new();
//! let q = graph.full([1, 1, 3, 4], 1.0);
//! let k = graph.full([1, 1, 3, 4], 1.0); // all scores are equal
//! let v = graph.constant(Tensor::f32([1, 1, 3, 1], vec![3.0, 5.0, 10.0])?);
//! let seen = q.attention(k, v, &Attention { causal: true, ..Attention::default() });
//! let plan = Device::cpu().compile_blocking(&graph, &[("out", seen.out)])?;
//! plan.run(&Feed::new())?;
//! let out = plan.read_blocking("out")?;
//! assert!(out.floats().iter().zip([3.0, 4.0, 6.0]).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-5));
//! # Ok(())
//! # }
//! ```

pub(crate) mod backward;
mod composed;
mod cpu;
pub mod descent;
mod fast;
pub mod local;
pub(crate) mod packed;

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower};
use crate::types::{DType, Operand, TensorType};
use encase::ShaderType;
use glam::UVec4;

/// Output and logsumexp.
pub static FORWARD: Kernel = kernel!("attention/forward");

/// Features of an output row that one invocation has.
const FEATURES: usize = 64;
const WIDTH: usize = 64;

/// What a query sees, and the scale of the scores.
#[derive(Clone, Copy, Default)]
pub struct Attention<'g> {
    /// Scale of the scores; `None`: one over the square root of the features of a key.
    pub scale: Option<f64>,
    /// Query a sees key c only if `c <= a + keys - queries`: the last key belongs to the last query.
    pub causal: bool,
    /// Keys further than `window - 1` positions away are not seen (looking back, and forward too unless causal).
    pub window: Option<usize>,
    /// Keys that may be seen, u32 0/1 `[batch, keys]`.
    pub mask: Option<Var<'g>>,
    /// Runtime number of keys, u32, one or one per batch entry: keys from there on are not seen, and the last of those
    /// below belong to the queries. For caches of fixed capacity.
    pub valid: Option<Var<'g>>,
}

/// Results of [`Var::attention`].
#[derive(Clone, Copy, Debug)]
pub struct Attended<'g> {
    /// `[batch, heads, queries, value features]`
    pub out: Var<'g>,
    /// Logarithm of the sum of the exponentials of a query's scores, `[batch, heads, queries]`. `f32::MIN` for a query
    /// that sees no key.
    pub logsumexp: Var<'g>,
}

/// Attributes of the operation.
#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    scale: f64,
    causal: bool,
    /// 0: no bound.
    window: usize,
    /// Not 0: a query sees its own and the previous block of so many keys instead of a window; causal.
    block: usize,
    /// Keys of logit 0 and value 0 that follow the last one, for windows that look forward.
    tail: usize,
    /// As many keys as queries, and a query that sees no key gets zeros instead of the mean of all values.
    local: bool,
    masked: bool,
    counted: bool,
}

/// Inputs: q, k, v, then the mask and the counts if there are any. Outputs: out, logsumexp.
#[derive(Clone, Debug)]
struct Forward {
    kind: Kind,
}

/// Extents of one call.
#[derive(Clone, Copy, Debug)]
struct Extents {
    batches: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    width: usize,
    value_width: usize,
}

impl Extents {
    /// Of q, k and v of four dimensions each.
    fn new(q: &[usize], k: &[usize], v: &[usize]) -> Self {
        Extents {
            batches: q[0],
            heads: q[1],
            kv_heads: k[1],
            queries: q[2],
            keys: k[2],
            width: q[3],
            value_width: v[3],
        }
    }

    /// Key heads are shared by this many query heads.
    fn ratio(&self) -> usize {
        self.heads.checked_div(self.kv_heads).unwrap_or(1).max(1)
    }
}

impl Kind {
    /// Pairs of query and key that are looked at, whatever masks and counts say.
    fn pairs(&self, e: &Extents) -> u64 {
        let keys: usize = (0..e.queries).map(|query| self.interval(e, query, e.keys).len()).sum();
        (e.batches * e.heads) as u64 * keys as u64
    }

    /// Keys that `query` may see, whatever the mask says; `count` keys count.
    fn interval(&self, e: &Extents, query: usize, count: usize) -> std::ops::Range<usize> {
        let position = query as i64 + count as i64 - e.queries as i64;
        let window = self.window as i64;
        let mut end = count as i64;
        if self.causal {
            end = end.min(position + 1);
        } else if window > 0 {
            end = end.min(position + window);
        }
        let block = self.block as i64;
        let start = match window {
            _ if block > 0 => (position / block - 1) * block,
            0 => 0,
            _ => position - window + 1,
        };
        let start = start.max(0);
        let end = end.clamp(0, e.keys as i64) as usize;
        (start as usize).min(end)..end
    }

    /// Number of keys of the tail that `query` sees.
    fn zero_keys(&self, e: &Extents, query: usize) -> usize {
        let end = query + self.window;
        end.min(e.keys + self.tail).saturating_sub(e.keys)
    }

    /// Number of keys that neighbouring queries see together, about.
    fn reach(&self, e: &Extents) -> usize {
        match 2 * self.block.max(self.window) {
            0 => e.keys,
            reach => reach.min(e.keys),
        }
    }

    /// Number of keys that count for a batch entry.
    fn count(&self, e: &Extents, counts: &[u32], batch: usize) -> usize {
        match counts {
            [] => e.keys,
            _ => counts[batch.min(counts.len() - 1)].min(0x3fff_ffff) as usize,
        }
    }

    /// What becomes of queries that see no key: 0, there are none, as far as shapes tell; 1, mean; 2, zeros.
    fn blind(&self, e: &Extents) -> u32 {
        let bounded = self.causal || self.window > 0;
        match self.local {
            true => 2,
            false => u32::from(self.masked || self.counted || (bounded && e.keys < e.queries)),
        }
    }

    /// Checks q, k, v and what follows them.
    fn check(&self, inputs: &[TensorType]) -> Result<Extents, Refusal> {
        for t in &inputs[..3] {
            t.require(DType::F32, "convert with to_f32")?;
            if t.shape.len() != 4 {
                return Refusal::shape("queries, keys and values are [batch, heads, n, features]");
            }
        }
        let (q, k, v) = (&inputs[0].shape, &inputs[1].shape, &inputs[2].shape);
        if q[0] != k[0] || q[3] != k[3] || k[..3] != v[..3] {
            return Refusal::shape("q [b, h, i, d], k [b, hk, j, d] and v [b, hk, j, dv] must agree in b, hk, j and d");
        }
        if k[1] == 0 || q[1] % k[1] != 0 {
            return Refusal::shape(format!("{} query heads cannot share {} key heads evenly", q[1], k[1]));
        }
        let e = Extents::new(q, k, v);
        if self.local && e.keys != e.queries {
            return Refusal::shape("local attention is within one sequence: as many keys as queries");
        }
        let mut rest = inputs[3..].iter();
        if let Some(mask) = rest.next().filter(|_| self.masked) {
            let want = TensorType::u32([e.batches, e.keys]);
            if *mask != want {
                return Refusal::shape(format!("the mask of keys is {want}, got {mask}"));
            }
        }
        if let Some(counts) = inputs[3..].get(usize::from(self.masked)).filter(|_| self.counted) {
            counts.require(DType::U32, "the number of valid keys is u32")?;
            if !counts.shape.is_empty() && counts.shape[..] != [e.batches] {
                let got = &counts.shape;
                return Refusal::shape(format!("the number of valid keys has shape [] or [{}], got {got}", e.batches));
            }
        }
        Ok(e)
    }
}

/// Uniform of the kernels: see `shared/attention.wgsl`.
#[derive(ShaderType)]
struct Meta {
    batches: u32,
    heads: u32,
    kv_heads: u32,
    queries: u32,
    keys: u32,
    width: u32,
    value_width: u32,
    causal: u32,
    window: u32,
    block: u32,
    tail: u32,
    masked: u32,
    counts: u32,
    lanes: u32,
    vectors: u32,
    blind: u32,
    scale: f32,
    offsets: UVec4,
    q: UVec4,
    k: UVec4,
    v: UVec4,
    g: UVec4,
}

/// Invocations that share a query: where there are few queries, several split its keys.
fn lanes(queries: usize) -> usize {
    match queries {
        0..=8 => 8,
        9..=16 => 4,
        _ => 1,
    }
}

/// vec4s of features that an invocation keeps; few different numbers, so that there are few pipelines.
fn vectors(e: &Extents) -> usize {
    match e.width.max(e.value_width) {
        0..=16 => 4,
        17..=32 => 8,
        _ => 16,
    }
}

/// The same as a constant of the pipeline; 0 on software drivers, where loops are better left as they are.
fn unrolled(cx: &Lower<'_>, e: &Extents) -> f64 {
    if cx.caps.software { 0.0 } else { vectors(e) as f64 }
}

fn strides(operand: &Operand) -> UVec4 {
    let mut s = UVec4::ZERO;
    for (i, stride) in operand.layout.strides.iter().take(4).enumerate() {
        s[i] = *stride as u32;
    }
    s
}

impl Kind {
    /// Metadata for q, k, v at inputs 0 to 2, the cotangent of the output at `cotangent` and the counts at `counts`.
    fn meta(&self, cx: &Lower<'_>, cotangent: Option<usize>, counts: usize) -> (Extents, Meta) {
        let [q, k, v] = [0, 1, 2].map(|i| &cx.inputs[i]);
        let e = Extents::new(q.shape(), k.shape(), v.shape());
        let g = &cx.inputs[cotangent.unwrap_or(0)];
        let lead = |o: &Operand| cx.lead(o) as u32;
        let n = if self.counted { cx.inputs[counts].numel() } else { 0 };
        let meta = Meta {
            batches: e.batches as u32,
            heads: e.heads as u32,
            kv_heads: e.kv_heads as u32,
            queries: e.queries as u32,
            keys: e.keys as u32,
            width: e.width as u32,
            value_width: e.value_width as u32,
            causal: u32::from(self.causal),
            window: self.window as u32,
            block: self.block as u32,
            tail: self.tail as u32,
            masked: u32::from(self.masked),
            counts: n as u32,
            lanes: lanes(e.queries) as u32,
            vectors: vectors(&e) as u32,
            blind: self.blind(&e),
            scale: self.scale as f32,
            offsets: UVec4::new(lead(q), lead(k), lead(v), lead(g)),
            q: strides(q),
            k: strides(k),
            v: strides(v),
            g: strides(g),
        };
        (e, meta)
    }

    /// Inputs that hold the mask and the counts when `first` is the first after the floats; q stands in for what is absent.
    fn optional(&self, first: usize) -> [usize; 2] {
        let counts = first + usize::from(self.masked);
        [if self.masked { first } else { 0 }, if self.counted { counts } else { 0 }]
    }
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let e = self.kind.check(inputs)?;
        let out = TensorType::f32([e.batches, e.heads, e.queries, e.value_width]);
        let logsumexp = TensorType::f32([e.batches, e.heads, e.queries]);
        Ok(vec![out, logsumexp])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let mut grads = cx.none();
        for (grad, var) in grads.iter_mut().zip(backward::gradients(self.kind, cx)) {
            *grad = Some(var.into());
        }
        grads
    }

    fn strided(&self, index: usize) -> bool {
        index < 3
    }

    fn operations(&self, inputs: &[Operand], _: &[Operand]) -> u64 {
        let e = Extents::new(inputs[0].shape(), inputs[1].shape(), inputs[2].shape());
        2 * self.kind.pairs(&e) * (e.width + e.value_width) as u64
    }

    #[cfg(feature = "cpu")]
    fn cpu_f32(&self, call: &mut CpuCall<'_, f32>) {
        fast::forward(&self.kind, call);
    }

    #[cfg(feature = "oracle")]
    fn cpu_f64(&self, call: &mut CpuCall<'_, f64>) {
        cpu::forward(&self.kind, call);
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let [mask, counts] = self.kind.optional(3);
        let (e, meta) = self.kind.meta(cx, None, counts);
        if packed::helps(&self.kind, cx, &e, &[]) {
            return packed::forward(cx, &e, &meta, [mask, counts]);
        }
        let blocks = e.queries.div_ceil(WIDTH / lanes(e.queries));
        let pieces = e.value_width.div_ceil(FEATURES).max(1);
        let unrolled = unrolled(cx, &e);
        cx.dispatch(&FORWARD)
            .constant("VECTORS", unrolled)
            .input(0)
            .input(1)
            .input(2)
            .input(mask)
            .input(counts)
            .output(0)
            .output(1)
            .uniform(&meta)
            .workgroups(e.batches * e.heads * blocks * pieces)
    }
}

impl<'g> Var<'g> {
    /// Attention of the queries `self` `[b, h, i, d]` to `keys` `[b, hk, j, d]` and `values` `[b, hk, j, dv]`; hk divides
    /// h, and neighbouring query heads share a key head. The scores are never stored; the gradient makes them again.
    ///
    /// A query that sees no key weighs all j values alike, as [`keep_where`](Self::keep_where) with `f32::MIN` and
    /// `softmax` do, and sends no gradient to queries and keys. There is no second derivative: use
    /// [`attention_composed`](Self::attention_composed) for that, and for dropout of the probabilities.
    #[track_caller]
    pub fn attention(self, keys: Var<'g>, values: Var<'g>, options: &Attention<'g>) -> Attended<'g> {
        let width = self.dim(-1).max(1) as f64;
        let kind = Kind {
            scale: options.scale.unwrap_or(1.0 / width.sqrt()),
            causal: options.causal,
            window: options.window.unwrap_or(0),
            masked: options.mask.is_some(),
            counted: options.valid.is_some(),
            ..Kind::default()
        };
        let mut inputs = vec![self, keys, values];
        inputs.extend(options.mask);
        inputs.extend(options.valid);
        let outputs = self.graph().apply(Forward { kind }, &inputs);
        Attended { out: outputs[0], logsumexp: outputs[1] }
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    [composed::samples(), local::samples(), descent::samples()].into_iter().flatten().collect()
}
