//! Products, attention and routing.

use crate::grow::{Grower, Value};
use wgrad::Var;
use wgrad::ops::attention::Attention;
use wgrad::ops::attention::descent::DescentAttention;
use wgrad::ops::attention::local::{LocalAttention, Tail};
use wgrad::ops::rotary::{Pairs, Rotary, XPos};
use wgrad::ops::route::sinkhorn::{Sinkhorn, SinkhornGradient};
use wgrad::ops::route::soft_top_k::{DifferentiableTopK, SoftCount, SoftTopK, Start};

type Made<'g> = Option<Value<'g>>;

fn tamed<'g>(x: Var<'g>, terms: usize) -> Var<'g> {
    (x * (1.0 / (terms as f64).sqrt().max(1.0))).tanh()
}

pub fn matmul<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?.var;
    let x = if x.rank() < 2 { x.reshape([1, x.shape().numel()]) } else { x };
    let inner = x.dim(-1);
    let small = |y: Var<'g>, x: Var<'g>| {
        let rest = x.shape().numel() / x.dim(-1).max(1);
        y.rank() == 2 && rest * y.dim(-1) <= crate::grow::LARGEST
    };
    let y = g.float_like(1, |y| small(y.var, x) && y.var.dim(-2) == inner);
    let z = match (g.die(0, 4), y) {
        (1, _) | (_, None) if x.shape().numel() / inner.max(1) <= 35 => x.matmul(x.transpose(-1, -2)),
        (2, _) if x.dim(-2) == 1 => x.transpose(-1, -2).slice(x.rank() - 2, 0, inner.min(30)).matmul(x),
        (_, Some(y)) => x.matmul(y.var),
        _ => return None,
    };
    g.rounded(tamed(z, inner))
}

pub fn einsum<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float_like(0, |f| f.var.rank() == 3 && f.var.shape().numel() <= 300)?.var;
    let y = g.float_like(1, |f| f.var.shape() == x.shape())?.var;
    let terms = x.shape().numel();
    if terms == 0 {
        return g.rounded(g.graph.einsum("abc,abc->ab", &[x, y]));
    }
    let z = match g.die(0, 6) {
        0 => g.graph.einsum("abc,abd->acd", &[x, x.slice(2, 0, x.dim(-1).min(4))]),
        1 => g.graph.einsum("abc,abc->ab", &[x, y]),
        2 => g.graph.einsum("abc->cb", &[x]),
        3 => g.graph.einsum("abc,cba->b", &[x, y.permute(&[2, 1, 0])]),
        4 => g.graph.einsum("abc,ab->c", &[x, y.select_index(2, 0).tanh()]),
        _ => g.graph.einsum("abc,abc->", &[x, y]),
    };
    g.rounded(tamed(z, terms))
}

/// As `[b, h, n, d]`.
fn four<'g>(x: Var<'g>) -> Var<'g> {
    let mut shape = x.shape();
    while shape.len() < 4 {
        shape.0.insert(0, 1);
    }
    x.reshape(shape)
}

/// Queries, and keys and values that fit them.
fn heads<'g>(g: &mut Grower<'g>) -> Option<[Var<'g>; 3]> {
    let q = four(g.float_like(0, |f| f.var.rank() <= 4)?.var);
    let [b, h, n, d] = *q.shape() else { return None };
    let hk = if g.die(0, 3) == 0 && h.is_multiple_of(2) && h > 0 { h / 2 } else { h };
    let unit = b * hk * d;
    let fits = |x: Var<'g>| unit > 0 && x.shape().numel().is_multiple_of(unit) && x.shape().numel() > 0;
    let own = q.slice(1, 0, hk);
    let k = match g.float_like(1, |f| fits(f.var)) {
        Some(f) if g.die(1, 3) > 0 => f.var.reshape([b, hk, f.var.shape().numel() / unit, d]).tanh(),
        _ => own.tanh() * 1.5,
    };
    let v = match g.float_like(2, |f| *f.var.shape() == *k.shape()) {
        Some(f) => f.var,
        None => k.slice(3, 0, d.div_ceil(1 + g.die(2, 2))) + 0.25,
    };
    let size = b * h * n * k.dim(2);
    (size <= 20_000 && h > 0 && d > 0 && d <= 256).then_some([q.tanh() * 1.5, k, v])
}

fn seen<'g>(g: &Grower<'g>, [q, k, _]: [Var<'g>; 3]) -> Attention<'g> {
    let (b, j) = (q.dim(0), k.dim(2));
    Attention {
        scale: [None, Some(0.7)][g.die(3, 2)],
        causal: g.die(0, 2) == 0,
        window: [None, None, Some(1 + g.die(2, 9))][g.die(1, 3)],
        mask: (g.die(2, 3) == 0).then(|| g.mask(1, [b, j])),
        valid: (g.die(3, 4) == 0).then(|| g.indices(2, [b], j as u32 + 2)),
    }
}

pub fn attention<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let [q, k, v] = heads(g)?;
    let options = seen(g, [q, k, v]);
    match g.die(3, 5) {
        0 => g.rounded(q.attention_composed(k, v, &options, |p| p)),
        1 => g.rough(q.attention(k, v, &options).logsumexp.maximum(-100.0).tanh()),
        _ => g.rough(q.attention(k, v, &options).out),
    }
}

pub fn local_attention<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let [q, k, v] = heads(g)?;
    let (b, n) = (q.dim(0), q.dim(2));
    if k.dim(2) != n {
        return None;
    }
    let options = LocalAttention {
        window: 1 + g.die(0, 9),
        causal: g.die(1, 2) == 0,
        scale: None,
        tail: [Tail::Visible, Tail::Masked][g.die(2, 2)],
        mask: (g.die(3, 3) == 0).then(|| g.mask(1, [b, n])),
    };
    g.rough(q.local_attention(k, v, &options))
}

fn soft(g: &Grower<'_>, die: usize) -> SoftTopK {
    match g.die(die, 4) {
        0 => SoftTopK::iterations(1 + g.die(2, 9), 0.5),
        1 => SoftTopK::iterations(5, 0.3).scaled(2.0, 0.7).starting(Start::Relu),
        2 => SoftTopK::exact(0.7),
        _ => SoftTopK::exact(1.3),
    }
}

pub fn descent_attention<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let [q, k, v] = heads(g)?;
    let attention = Attention { valid: None, ..seen(g, [q, k, v]) };
    let options = DescentAttention {
        attention,
        k: 1.7.into(),
        how: soft(g, 0),
        normalize: g.die(1, 2) == 0,
        rows: [None, Some(1 + g.die(3, 4))][g.die(2, 2)],
    };
    g.rough(q.descent_attention(k, v, &options).tanh())
}

pub fn rotary<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float_like(0, |f| f.var.rank() >= 2 && f.var.dim(-1) >= 2)?.var;
    let (n, d) = (x.dim(-2), x.dim(-1));
    let each = g.die(3, 3) == 0 && x.rank() > 2;
    let shape = if each { vec![x.shape()[0], n] } else { vec![n] };
    let positions = g.indices(1, shape, [9, 300, u32::MAX][g.die(2, 3)]);
    let dim = 2 * (1 + g.die(1, d / 2));
    let xpos = XPos { center: 10, scale_base: 64.0, invert: g.die(3, 2) == 0 };
    let options = Rotary {
        pairs: [Pairs::default(), Pairs::Half][g.die(0, 2)],
        dim: Some(dim.min(d / 2 * 2)),
        // Scales are for positions near the center.
        xpos: (g.die(1, 3) == 0 && g.die(2, 3) == 0).then_some(xpos),
        ..Rotary::default()
    };
    g.rounded(x.rotary(positions, &options))
}

/// Scores in general position, `[.., n]` with some entries.
fn scores<'g>(g: &mut Grower<'g>) -> Option<Var<'g>> {
    let x = g.float_like(0, |f| f.var.rank() > 0 && f.var.dim(-1) > 0)?.var;
    // No two alike, and none on a boundary.
    let n = x.shape().numel();
    let spread = (g.graph.iota([n], 0) * 61u32).rem(127).to_f32() * 0.003_71;
    Some(x.tanh() * 1.137 + spread.reshape(x.shape()))
}

pub fn soft_top_k<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = scores(g)?;
    let mut rows = x.shape();
    let n = rows.0.pop()?;
    let mask = (g.die(1, 3) == 0).then(|| g.mask(1, x.shape()));
    let count = 0.3 + 0.77 * g.die(3, n) as f64;
    let k = match g.die(0, 3) {
        0 => SoftCount::PerRow(g.indices(2, rows, 3).to_f32() * 0.61 + count),
        _ => SoftCount::Fixed(count),
    };
    g.rough(x.soft_top_k(k, &soft(g, 2), mask))
}

pub fn differentiable_top_k<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float_like(0, |f| f.exact.is_some() && f.var.rank() > 0 && f.var.dim(-1) > 0)?.var;
    let n = x.dim(-1);
    let options = DifferentiableTopK { ratio: 1.17, how: soft(g, 2) };
    let mask = (g.die(1, 3) == 0).then(|| g.mask(1, x.shape()));
    g.honest = false;
    let top = x.differentiable_top_k(1 + g.die(0, n), &options, mask);
    match g.die(3, 4) {
        0 => g.ints(top.indices, n as u64),
        1 => g.rough(top.soft),
        2 => g.rough(top.gates * 0.5),
        _ => g.rough(top.values),
    }
}

pub fn sinkhorn<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float_like(0, |f| f.var.rank() >= 2)?.var;
    let mut tokens = x.shape();
    tokens.0.remove(tokens.len() - 2);
    let mask = (g.die(0, 3) == 0).then(|| g.mask(1, tokens));
    g.honest &= g.die(0, 4) != 0;
    let options = Sinkhorn {
        iterations: 1 + g.die(1, 6),
        temperature: [1.0, 0.6][g.die(2, 2)],
        gumbel: [None, Some(4)][g.die(3, 2)],
        gradient: match g.die(0, 4) {
            0 => SinkhornGradient::Implicit { iterations: 3 },
            _ => SinkhornGradient::Unrolled,
        },
    };
    g.rough(x.sinkhorn(&options, mask))
}

pub fn cumulative_softmax<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float_like(0, |f| f.exact.is_some() && f.var.rank() > 0 && f.var.dim(-1) > 0)?.var;
    let mask = (g.die(1, 3) == 0).then(|| g.mask(1, x.shape()));
    // None flows through the maximum.
    g.honest = false;
    let top = x.cumulative_softmax(1 + g.die(0, x.dim(-1)), 0.9, mask);
    match g.die(2, 3) {
        0 => g.ints(top.indices, x.dim(-1) as u64),
        _ => g.rough(top.scores),
    }
}
