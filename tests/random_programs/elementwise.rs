//! Elementwise operations.

use crate::grow::{Float, Grower, Value, broadcasts};
use wgrad::{Mode, Var};

type Made<'g> = Option<Value<'g>>;

fn curve<'g>(kind: usize, x: Var<'g>) -> Var<'g> {
    match kind {
        0 => x.sigmoid(),
        1 => x.gelu(),
        2 => x.tanh().exp(),
        3 => (x * x + 1.0).ln().tanh(),
        4 => 1.0 / (x.square() + 1.0),
        5 => x * 0.5 - 0.25,
        6 => x.silu().tanh(),
        7 => x.erf(),
        8 => (x.square() + 0.5).sqrt().tanh(),
        9 => (x.tanh() + 2.0).recip(),
        10 => x.tanh().pow(2.0).stop_gradient() + (x.sigmoid() + 0.1).pow(1.5),
        11 => -x,
        12 => x.tanh().elu(),
        13 => x.tanh().elu_plus_one(),
        _ => x.tanh(),
    }
}

pub fn unary<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?;
    // elu's second derivative has a jump.
    g.honest &= g.die(0, 16) != 10;
    match g.die(0, 16) {
        5 => g.bounded(x.var * 0.5 - 0.25, None),
        11 => g.bounded(-x.var, x.exact),
        kind @ (12 | 13) => g.rough(curve(kind, x.var)),
        kind => g.rounded(curve(kind, x.var)),
    }
}

pub fn binary<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?;
    let y = g.partner(1, x.var)?;
    let both = x.exact.zip(y.exact).map(|(a, b)| a + b);
    let (x, y) = (x.var, y.var);
    match g.die(0, 8) {
        0 | 1 => g.bounded(x + y, both),
        2 | 3 => g.bounded(y - x, both),
        4 => g.rounded(x / (y.square() + 1.0)),
        5 => g.rounded(x.tanh() * y.tanh() + x),
        6 => g.rounded((y.sigmoid() + 0.5).pow(x.tanh())),
        _ => g.rounded((x * y).tanh()),
    }
}

/// Functions with a jump in their slope.
pub fn kinked<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let Float { var: x, exact, .. } = g.exact(0)?;
    let y = g.float_like(1, |f| f.exact.is_some() && broadcasts(f.var, x))?;
    let most = exact.zip(y.exact).map(|(a, b)| a.max(b));
    let y = y.var;
    let made = match g.die(0, 7) {
        0 => g.bounded(x.relu(), exact),
        1 => g.bounded(x.abs(), exact),
        2 => g.bounded(x.floor(), exact.map(|b| b + 1.0)),
        3 => g.bounded(x.maximum(y), most),
        4 => g.bounded(x.minimum(y), most),
        5 => g.bounded(x.gt(y).select(x, y), most),
        _ => g.bounded(x.le(0.25).select(y, -1.0), most.map(|b| b.max(1.0))),
    }?;
    let Value::Float(made) = made else { return None };
    Some(Value::Float(Float { smooth: false, ..made }))
}

pub fn compare<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.exact(0)?.var;
    let y = g.float_like(1, |f| f.exact.is_some() && broadcasts(f.var, x))?.var;
    let mask = match g.die(0, 7) {
        0 => x.lt(y),
        1 => x.le(y),
        2 => x.gt(y),
        3 => x.ge(y),
        4 => x.eq(y),
        5 => x.ne(y),
        _ => x.is_finite(),
    };
    g.ints(mask, 2)
}

pub fn logic<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.int(0)?;
    let y = g.int_like(1, |y| broadcasts(y.var, x.var))?;
    let all = 1 << 32;
    match (g.die(0, 13), x.var, y.var) {
        (0, a, b) => g.ints(a + b, all),
        (1, a, b) => g.ints(a - b, all),
        (2, a, b) => g.ints(a * b, all),
        (3, a, b) => g.ints(a / b.maximum(1u32), x.below),
        (4, a, b) => g.ints(a.rem(b), x.below),
        (5, a, b) => g.ints(a.and(b), all),
        (6, a, b) => g.ints(a.or(b), all),
        (7, a, b) => g.ints(a.xor(b), all),
        (8, a, b) => g.ints(a.shl(b), all),
        (9, a, b) => g.ints(a.shr(b), x.below),
        (10, a, b) => g.ints(a.maximum(b), x.below.max(y.below)),
        (11, a, b) => g.ints(a.gt(b).select(a, b), x.below.max(y.below)),
        (_, a, b) => g.ints(a.minimum(b), x.below),
    }
}

/// Between floats and integers.
pub fn convert<'g>(g: &mut Grower<'g>) -> Made<'g> {
    match g.die(0, 3) {
        0 => {
            let x = g.exact(0)?;
            g.ints(x.var.to_u32(), x.exact? as u64 + 1)
        }
        1 => g.bounded(g.int(0)?.var.rem(128).to_f32() * (1.0 / 64.0), Some(2.0)),
        _ => g.bounded(g.int(0)?.var.rem(5).to_f32(), Some(5.0)),
    }
}

pub fn random<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?.var;
    let site = g.die(1, 5) as u32;
    match g.die(0, 5) {
        0 => g.rounded(x * g.graph.uniform(x.shape(), site)),
        1 => g.rounded(x + g.graph.gumbel(x.shape(), site) * 0.1),
        2 => g.ints(g.graph.random_bits(g.shape(2), site), 1 << 32),
        3 => g.rounded(x.dropout(0.5, site, Mode::Eval)),
        _ => g.rounded(x.dropout(0.4, site, Mode::Train)),
    }
}

/// What WGSL allows an error of 2^-11, as a part so small that the whole is as exact as everything else, and so large that a wrong
/// one shows.
pub fn loose<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?.var;
    let angle = x.tanh() * 3.0;
    let part = match g.die(0, 3) {
        0 => angle.sin() * 0.004,
        1 => angle.cos() * 0.004,
        _ => g.graph.normal(x.shape(), g.die(1, 5) as u32) * 0.001,
    };
    g.rounded(x.tanh() + 1.5 + part)
}

pub fn choose<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?;
    let y = g.partner(1, x.var)?;
    let mask = g.mask(2, x.var.shape());
    let most = x.exact.zip(y.exact).map(|(a, b)| a.max(b).max(1.0));
    match g.die(0, 4) {
        0 => g.bounded(mask.select(x.var, y.var), most),
        1 => g.bounded(x.var.keep_where(mask, -0.5), x.exact.map(|b| b.max(1.0))),
        2 => g.bounded(mask.select(1.0, x.var), x.exact.map(|b| b.max(1.0))),
        _ => g.rounded(x.var.tanh() * mask.to_f32()),
    }
}

/// A part that the backward pass computes again.
pub fn recompute<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?;
    let y = g.partner(1, x.var)?;
    let (a, b) = (g.die(0, 15), g.die(1, 15));
    g.honest &= a != 10 && b != 10;
    let made = g.graph.recompute(|| curve(b, curve(a, x.var) + y.var.tanh()) * curve(a, x.var));
    g.rough(made)
}

pub fn straight<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?.var;
    let y = curve(g.die(1, 15), x);
    g.honest = false;
    match g.die(0, 3) {
        0 => g.rough(y * x.stop_gradient()),
        _ => g.rough(x.straight_through(y)),
    }
}

pub fn constant<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let shape = g.shape(0);
    match g.die(1, 4) {
        0 => g.bounded(g.graph.full(shape, 0.75), Some(1.0)),
        1 => g.ints(g.graph.full_u32(shape, 3), 4),
        2 if !shape.is_empty() => {
            let axis = g.die(2, shape.len());
            g.ints(g.graph.iota(shape, axis), 1500)
        }
        _ => {
            let n = shape.numel();
            let values = (0..n).map(|i| ((i * 29) % 97) as f32 / 64.0).collect();
            let tensor = wgrad::Tensor::f32(shape, values).ok()?;
            g.bounded(g.graph.constant(tensor), Some(2.0))
        }
    }
}
