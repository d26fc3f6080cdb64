//! Local attention: every query sees the keys around it, at cost n times window. The kernels are those of attention, with
//! an interval of keys for every query.
//!
//! Meaning of the `local-attention` package (1.11.2): the sequence is cut into blocks of `window` keys, padded with zeros at
//! its end; a query sees keys at most `window` positions away, which lie in its own block and its neighbours.
//!
//! ```
//! use wgrad::ops::attention::local::LocalAttention;
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let q = graph.full([1, 1, 4, 2], 1.0);
//! let k = graph.full([1, 1, 4, 2], 1.0);
//! let v = graph.constant(Tensor::f32([1, 1, 4, 1], vec![1.0, 2.0, 3.0, 10.0])?);
//! let y = q.local_attention(k, v, &LocalAttention { window: 1, causal: true, ..LocalAttention::default() });
//! let plan = Device::cpu().compile_blocking(&graph, &[("y", y)])?;
//! plan.run(&Feed::new())?;
//! let y = plan.read_blocking("y")?; // a token sees its own block and the one before
//! assert!(y.floats().iter().zip([1.0, 1.5, 2.5, 6.5]).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-5));
//! # Ok(())
//! # }
//! ```

use super::{Attention, Forward, Kind};
use crate::error::Error;
use crate::graph::Var;

/// What becomes of the zeros that fill up the last block, if the window does not divide the sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tail {
    /// They are keys like others: queries within a window of the end share their softmax with up to `window - 1` keys of
    /// logit 0 and value 0. This is what the reference computes, unless it is given a mask; then it hides them, and so
    /// does this. Causal queries never see them.
    #[default]
    Visible,
    /// They are not seen.
    Masked,
}

/// What a query sees, and the scale of the scores.
#[derive(Clone, Copy, Default)]
pub struct LocalAttention<'g> {
    /// Number of keys W that a query sees on either side; causal: keys of a block.
    pub window: usize,
    /// Query p sees the keys from the start of the block before its own up to itself: between W and 2 W keys once the
    /// first block is over.
    pub causal: bool,
    /// Scale of the scores; `None`: one over the square root of the features of a key.
    pub scale: Option<f64>,
    /// Zeros at the end.
    pub tail: Tail,
    /// Keys that may be seen, u32 0/1 `[b, n]`.
    pub mask: Option<Var<'g>>,
}

/// Windows beyond this many keys would overflow sums of positions.
const WIDEST: usize = 1 << 29;

impl LocalAttention<'_> {
    fn kind(&self, width: usize, n: usize) -> Kind {
        let padded = !self.causal && self.tail == Tail::Visible && self.mask.is_none();
        Kind {
            scale: self.scale.unwrap_or(1.0 / (width.max(1) as f64).sqrt()),
            causal: self.causal,
            // The window of attention counts the query's own position.
            window: if self.causal { 0 } else { self.window + 1 },
            block: if self.causal { self.window } else { 0 },
            tail: if padded { n.next_multiple_of(self.window) - n } else { 0 },
            masked: self.mask.is_some(),
            local: true,
            ..Kind::default()
        }
    }
}

impl<'g> Var<'g> {
    /// Local attention of the queries `self` `[b, h, n, d]` to `keys` `[b, hk, n, d]` and `values` `[b, hk, n, dv]` of the
    /// same sequence; hk divides h, and neighbouring query heads share a key head. Returns `[b, h, n, dv]`. Time grows with
    /// n times the window, memory with n.
    ///
    /// A query that sees no key, because all around it are masked, gets zeros. A window of 0 is an error. There is no second
    /// derivative.
    #[track_caller]
    pub fn local_attention(self, keys: Var<'g>, values: Var<'g>, options: &LocalAttention<'g>) -> Var<'g> {
        if options.window == 0 || options.window > WIDEST {
            let message = format!("is {}; expected 1 to {WIDEST} keys on either side of a query", options.window);
            self.graph().fail(Error::argument("the window of local attention", message));
            return self;
        }
        let kind = options.kind(self.dim(-1), self.dim(-2));
        let mut inputs = vec![self, keys, values];
        inputs.extend(options.mask);
        self.graph().apply(Forward { kind }, &inputs)[0]
    }
}

/// The same by padding, a mask of pairs and ordinary attention: for the samples. No mask of keys.
fn composed<'g>(q: Var<'g>, k: Var<'g>, v: Var<'g>, window: usize, causal: bool) -> Var<'g> {
    let (n, graph) = (q.dim(2), q.graph());
    let padded = n.next_multiple_of(window);
    let [q, k, v] = [q, k, v].map(|x| x.pad(2, 0, padded - n));
    let options = Attention { causal, window: (!causal).then_some(window + 1), ..Attention::default() };
    if !causal {
        return q.attention(k, v, &options).out.slice(2, 0, n);
    }
    // Every pair of blocks on its own: queries are the second half of their keys.
    let split = |x: Var<'g>| {
        let (b, h, d) = (x.dim(0), x.dim(1), x.dim(3));
        x.reshape([b, h, padded / window, window, d])
    };
    let (qs, ks, vs) = (split(q), split(k), split(v));
    let rows = (0..padded / window).map(|i| {
        let one = |x: Var<'g>, i: usize| x.slice(2, i, 1).reshape([x.dim(0), x.dim(1), window, x.dim(4)]);
        let pair = |x: Var<'g>| if i == 0 { one(x, 0) } else { one(x, i - 1).concat(&[one(x, i)], 2) };
        one(qs, i).attention(pair(ks), pair(vs), &options).out
    });
    let rows: Vec<Var<'g>> = rows.collect();
    match rows.split_first() {
        Some((first, rest)) => first.concat(rest, 2).slice(2, 0, n),
        None => graph.full([q.dim(0), q.dim(1), 0, v.dim(3)], 0.0),
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    // Batch, heads, key heads, n, features, value features, window.
    let shapes = [
        [2, 3, 3, 16, 5, 5, 4],
        [1, 2, 1, 23, 4, 6, 4],
        [1, 1, 1, 131, 8, 3, 7],
        [2, 1, 1, 5, 4, 4, 9],
        [1, 2, 2, 70, 67, 65, 1],
        [1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 3, 2, 6],
        [1, 2, 2, 0, 3, 3, 4],
        [0, 2, 2, 9, 3, 3, 4],
    ];
    let mut all = Vec::new();
    for [b, h, hk, n, d, dv, window] in shapes {
        for causal in [false, true] {
            let name = format!("{b}x{h}/{hk}x{n}x{d} to {dv}, window {window}{}", if causal { ", causal" } else { "" });
            let shapes: [&[usize]; 3] = [&[b, h, n, d], &[b, hk, n, d], &[b, hk, n, dv]];
            for (kind, tail) in [("", Tail::Visible), ("tail masked, ", Tail::Masked)] {
                all.push(Sample::new(format!("local attention {kind}{name}"), shapes, move |_, x| {
                    let scale = (d == 4).then_some(0.7);
                    let options = LocalAttention { window, causal, tail, scale, mask: None };
                    vec![x[0].local_attention(x[1], x[2], &options)]
                }));
            }
            for bound in [1, 2, 9] {
                let sample = Sample::new(format!("local attention, mask {bound}, {name}"), shapes, move |_, x| {
                    let options = LocalAttention { window, causal, mask: Some(x[3]), ..LocalAttention::default() };
                    vec![x[0].local_attention(x[1], x[2], &options)]
                });
                all.push(sample.below(&[b, n], bound));
            }
            if n > 0 {
                let same = Sample::new(format!("composed equals local attention {name}"), shapes, move |_, x| {
                    let options = LocalAttention { window, causal, ..LocalAttention::default() };
                    let y = x[0].local_attention(x[1], x[2], &options);
                    vec![y - composed(x[0], x[1], x[2], window, causal)]
                });
                all.push(same.vanishing());
            }
        }
    }
    all
}
