//! What a program reads and what becomes of it: inputs, states, outputs, loss, updates.

use crate::grow::{Draw, Float, Grower, Value};
use wgrad::TensorType;
use wgrad::ops::optim::{Accumulate, Adam, Common, Controls, Sgd};

type Made<'g> = Option<Value<'g>>;

pub fn input<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let var = g.input(TensorType::f32(g.shape(0)), Draw::Normal);
    g.rounded(var)
}

pub fn exact<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let var = g.input(TensorType::f32(g.shape(0)), Draw::Exact);
    g.bounded(var, Some(2.0))
}

pub fn ints<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let below = [2, 9, 100, u32::MAX][g.die(1, 4)];
    let var = g.input(TensorType::u32(g.shape(0)), Draw::Below(below));
    g.ints(var, below.into())
}

pub fn state<'g>(g: &mut Grower<'g>) -> Made<'g> {
    // Often of the type of another value, so that there is something to assign.
    let like = g.float(1).filter(|_| g.die(1, 3) > 0).map(|f| f.var.shape());
    let var = g.state(TensorType::f32(like.unwrap_or_else(|| g.shape(0))));
    g.rounded(var)
}

pub fn output<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let var = match (g.float(0), g.int(0)) {
        (_, Some(i)) if g.die(0, 4) == 0 => i.var,
        (f, _) => f?.var,
    };
    g.output(var);
    None
}

pub fn loss<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?;
    g.add_to_loss(x.var);
    None
}

pub fn assign<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let (state, value) = g.update(1)?;
    let old = g.states[state].1;
    let value = match g.die(1, 6) {
        // In place; it does not heed a gate.
        0 if g.gate.is_none() => Accumulate { scale: 0.5 }.add(old, value, g.indices(2, [1], 2).reshape([])),
        1 if old.rank() >= 2 => {
            let rows = value.slice(old.rank() - 2, 0, old.dim(-2) / 2).tanh();
            let position = g.indices(2, [1], old.dim(-2) as u32 + 1).reshape([]);
            match g.gate {
                Some(gate) => old.write_rows_if(gate, rows, position),
                None => old.write_rows(rows, position),
            }
        }
        2 => (old - value.tanh() * 0.1).tanh(),
        _ => value,
    };
    // The new value, or the old one, is an output too.
    match g.die(0, 4) {
        0 => g.output(value),
        1 => g.output(old),
        _ => {}
    }
    g.updates.push((state, value));
    g.used.push("assign");
    None
}

pub fn gate<'g>(g: &mut Grower<'g>) -> Made<'g> {
    // Updates in place heed the gate themselves: they must know it.
    if g.used
        .iter()
        .any(|name| ["optimize", "optimize_rows", "tally_rows", "accumulate", "cache", "assign"].contains(name))
    {
        return None;
    }
    let int = g.int_like(0, |i| i.var.shape().numel() > 0)?.var;
    let first = int.reshape([int.shape().numel()]).slice(0, 0, 1).reshape([]);
    g.gate = Some(match g.die(0, 3) {
        0 => first.rem(2),
        1 => first,
        _ => g.float(1)?.var.sum_all().is_finite(),
    });
    None
}

/// A gradient inside the program, so that the loss has second derivatives.
pub fn slope<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let y = g.float_like(0, |f: &Float<'g>| f.smooth)?;
    let wrt = g.leaves();
    let sum = g.weighed(y.var);
    let gradients = g.graph.grad(sum, &wrt);
    let gradient = gradients.iter().filter_map(|x| x.dense()).nth(g.die(0, 2))?;
    // Once is enough.
    g.rough(gradient.tanh())
}

/// A step of an optimizer on a state of its own.
pub fn optimize<'g>(g: &mut Grower<'g>) -> Made<'g> {
    g.honest = false;
    let x = g.float(0)?.var;
    let n = x.shape().numel();
    let len = n.next_multiple_of(4);
    let flat = TensorType::f32([len]);
    let grad = x.reshape([n]).pad(0, 0, len - n);
    let graph = g.graph;
    let ok = g.gate.unwrap_or_else(|| graph.full_u32([], 1));
    let step = g.input(TensorType::u32([2]), Draw::Below(30));
    let controls = Controls { lr: graph.full([], 0.05), norm_sq: grad.square_sum(), ok, progress: step };
    let max_norm = [0.0, 1.5][g.die(1, 2)];
    let common = Common { max_norm, lr_factor: 0.7, weight_decay: [0.0, 0.1][g.die(2, 2)] };
    let first = g.states.len();
    let param = g.state(flat.clone());
    let new = match g.die(0, 3) {
        0 => Sgd { common, momentum: 0.0, nesterov: false }.step(param, None, grad, &controls),
        1 => {
            let sgd = Sgd { common, momentum: 0.9, nesterov: g.die(3, 2) == 0 };
            sgd.step(param, Some(g.state(flat)), grad, &controls)
        }
        _ => {
            let adam = Adam { common, decoupled: g.die(3, 2) == 0, beta1: 0.9, beta2: 0.99, eps: 1e-3 };
            let moments = [g.state(flat.clone()), g.square_state(flat)];
            adam.step(param, moments, grad, &controls)
        }
    };
    g.updates.extend(new.iter().enumerate().map(|(i, v)| (first + i, *v)));
    g.rough(new[0].slice(0, 0, n))
}

pub fn accumulate<'g>(g: &mut Grower<'g>) -> Made<'g> {
    // It has no gradient.
    g.honest = false;
    if g.gate.is_some() {
        return None;
    }
    let (x, y) = (g.float(0)?.var, g.float(1)?.var);
    let y = if y.ty() == x.ty() { y } else { x.tanh() };
    let first = g.indices(2, [1], 2).reshape([]);
    g.rough(Accumulate { scale: 0.5 }.add(x, y, first))
}
