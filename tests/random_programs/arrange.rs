//! Views, copies, gathers and scatters.

use crate::grow::{Grower, Value};
use wgrad::nn::{Sharded, ShardedType};
use wgrad::{DType, Shape, Var};

type Made<'g> = Option<Value<'g>>;

fn transposed<'g>(g: &Grower<'g>, x: Var<'g>) -> Var<'g> {
    let (a, b) = (g.axis(0, x), g.axis(1, x));
    x.transpose(a as isize, b as isize - x.rank() as isize)
}

fn permuted<'g>(g: &Grower<'g>, x: Var<'g>) -> Var<'g> {
    let mut rest: Vec<usize> = (0..x.rank()).collect();
    let axes: Vec<usize> = (0..x.rank()).map(|i| rest.remove(g.die(i % 4, rest.len()))).collect();
    x.permute(&axes)
}

fn reshaped<'g>(g: &Grower<'g>, x: Var<'g>) -> Var<'g> {
    let shape = x.shape();
    if shape.is_empty() || g.die(0, 3) == 0 {
        return x.reshape([shape.numel()]);
    }
    // Splits or merges dimensions.
    let axis = g.axis(1, x);
    let mut to = shape.clone();
    let part = [2, 3, 5].into_iter().find(|p| shape[axis].is_multiple_of(*p)).unwrap_or(1);
    to.0.splice(axis..=axis, [part, shape[axis] / part]);
    if axis > 0 && g.die(2, 2) == 0 {
        let merged = to.0.remove(axis);
        to.0[axis - 1] *= merged;
    }
    x.reshape(to)
}

fn sliced<'g>(g: &Grower<'g>, x: Var<'g>) -> Var<'g> {
    let axis = g.axis(0, x);
    let extent = x.shape()[axis];
    let step = 1 + g.die(1, 3);
    let start = g.die(2, extent);
    let most = (extent - start.min(extent)).div_ceil(step);
    let len = (g.die(3, 8 * most + 1)).min(most);
    match g.die(1, 5) {
        0 if extent > 0 => x.select_index(axis, start),
        1 => x.slice(axis, start, (extent - start.min(extent)).min(len)),
        _ => x.slice_step(axis, start, len, step),
    }
}

fn expanded<'g>(g: &Grower<'g>, x: Var<'g>) -> Var<'g> {
    let mut to = x.shape();
    if g.die(1, 3) == 0 {
        return x.unsqueeze(g.die(2, to.len() + 1));
    }
    if let Some(one) = to.iter().position(|d| *d == 1) {
        to.0[one] = g.die(2, 5);
    }
    to.0.insert(0, 1 + g.die(0, 4));
    x.expand(to)
}

pub fn transpose<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?;
    g.bounded(transposed(g, x.var), x.exact)
}

pub fn permute<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?;
    g.bounded(permuted(g, x.var), x.exact)
}

pub fn reshape<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?;
    g.bounded(reshaped(g, x.var), x.exact)
}

pub fn slice<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?;
    g.bounded(sliced(g, x.var), x.exact)
}

pub fn expand<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?;
    g.bounded(expanded(g, x.var), x.exact)
}

/// Two halves, combined.
pub fn split<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?;
    let axis = g.axis(0, x.var);
    let half = x.var.shape()[axis] / 2;
    let (a, b) = (x.var.slice(axis, 0, half), x.var.slice(axis, half, half));
    match g.die(1, 2) {
        0 => g.bounded(b.concat(&[a], axis), x.exact),
        _ => g.bounded(a - b, x.exact.map(|e| 2.0 * e)),
    }
}

pub fn join<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?;
    let axis = g.axis(0, x.var);
    let others = |s: &Shape| {
        let mut s = s.clone();
        s.0.iter_mut().skip(axis).take(1).for_each(|d| *d = 0);
        s
    };
    let shape = others(&x.var.shape());
    let y = g.float_like(1, |f| f.var.rank() == shape.len() && others(&f.var.shape()) == shape)?;
    let most = x.exact.zip(y.exact).map(|(a, b)| a.max(b));
    let (x, y) = (x.var, y.var);
    match g.die(1, 4) {
        0 => g.bounded(x.concat(&[y], axis), most),
        1 => {
            let empty = x.slice(axis, x.shape()[axis], 0);
            g.bounded(empty.concat(&[y, empty, x.slice(axis, 0, x.shape()[axis] / 2), x], axis), most)
        }
        2 => {
            // More parts than a kernel has bindings.
            let parts = [x, y, x, y, x, x, y, x, y, y];
            g.bounded(y.concat(&parts[..1 + g.die(2, 10)], axis), most)
        }
        _ => {
            let turned = x.transpose(0, -1);
            let last = turned.rank() - 1;
            g.bounded(turned.concat(&[turned], if axis == 0 { last } else { 0 }), most)
        }
    }
}

pub fn pad<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?;
    g.bounded(x.var.pad(g.axis(0, x.var), g.die(1, 4), g.die(2, 4)), x.exact)
}

pub fn dilate<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?;
    g.bounded(x.var.dilate(g.axis(0, x.var), 1 + g.die(1, 3)), x.exact)
}

pub fn copy<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?;
    g.bounded(x.var.contiguous(), x.exact)
}

fn table<'g>(x: Var<'g>) -> Var<'g> {
    let width = x.shape().last().copied().unwrap_or(1);
    let rows = x.shape().numel().checked_div(width).unwrap_or(0);
    x.reshape([rows, width])
}

pub fn gather<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?;
    let table = table(x.var);
    let rows = table.shape()[0] as u32;
    // Some out of range.
    let indices = g.indices(1, [1 + g.die(0, 3), g.die(1, 12)], rows + g.die(2, 2) as u32);
    g.bounded(table.gather(indices), x.exact)
}

pub fn scatter<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float(0)?;
    let values = table(x.var);
    let (count, rows) = (values.shape()[0], g.die(0, 12));
    let indices = g.indices(1, [count], (rows + g.die(2, 2)) as u32);
    g.bounded(values.scatter_add(indices, rows), x.exact.map(|b| b * count.max(1) as f64))
}

pub fn take_along<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?;
    let axis = g.axis(0, x.var);
    let mut shape = x.var.shape();
    let extent = shape[axis];
    shape.0[axis] = g.die(1, 9);
    let indices = g.indices(1, shape, (extent + g.die(2, 2)) as u32);
    g.bounded(x.var.take_along(indices, axis as isize), x.exact)
}

pub fn scatter_along<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?;
    let (axis, n) = (g.axis(0, x.var), g.die(1, 9));
    let extent = x.var.shape()[axis].max(1) as f64;
    let indices = g.indices(1, x.var.shape(), (n + g.die(2, 2)) as u32);
    g.bounded(x.var.scatter_along(indices, axis as isize, n), x.exact.map(|b| b * extent))
}

pub fn sort<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let keys = g.int(0)?;
    let n = keys.var.shape().numel();
    let limit = [None, Some(0), Some(3), Some(100)][g.die(0, 4)];
    let (sorted, positions) = keys.var.reshape([n]).sort_pairs(limit);
    match g.die(1, 2) {
        0 => g.ints(sorted, keys.below),
        _ => g.ints(positions, n as u64),
    }
}

pub fn cache<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.float_like(0, |f| f.var.rank() >= 2)?;
    let shape = x.var.shape();
    let (axis, capacity) = (shape.len() - 2, shape[shape.len() - 2]);
    let each = g.die(3, 2) == 0 && shape.len() > 2;
    let at = if each { vec![shape[0]] } else { vec![] };
    let position = g.indices(1, at, capacity as u32 + 2);
    let n = g.die(0, capacity + 3);
    if g.die(1, 3) == 0 {
        return g.bounded(x.var.take_rows(position, n), x.exact);
    }
    let rows = x.var.slice(axis, 0, n.min(capacity)).tanh();
    match g.die(2, 2) {
        0 => g.rounded(x.var.write_rows(rows, position)),
        _ => {
            let gate = g.gate.unwrap_or_else(|| g.indices(2, [1], 2).reshape([]));
            g.rounded(x.var.write_rows_if(gate, rows, position))
        }
    }
}

pub fn sharded<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let values = table(g.float(0)?.var);
    let [count, width] = *values.shape() else { return None };
    let rows = 1 + g.die(0, 12);
    let ty = ShardedType::with_limit(DType::F32, rows, width, (width.max(1) * (1 + g.die(1, 4)) * 4) as u64).ok()?;
    let table = Sharded::scatter_add(&ty, values, g.indices(1, [count], rows as u32 + 1));
    match g.die(2, 3) {
        1 => {
            let weights = g.float_like(1, |f| f.var.rank() > 0)?.var.tanh();
            let indices = g.indices(2, weights.shape(), rows as u32 + 1);
            g.rounded(table.weighted_gather(indices, weights).tanh())
        }
        0 => g.rounded(table.gather(g.indices(2, [7], rows as u32 + 1))),
        _ => g.rounded((table.score(values.tanh()) * 0.2).tanh()),
    }
}

pub fn weighted_gather<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let table = table(g.float(0)?.var);
    let weights = g.float_like(1, |f| f.var.rank() > 0)?.var.tanh();
    let rows = table.shape()[0];
    let indices = g.indices(2, weights.shape(), (rows + g.die(0, 2)) as u32);
    let y = match g.die(1, 3) {
        0 => {
            g.honest = false;
            table.weighted_gather_masked(indices, weights, g.mask(1, [rows]))
        }
        _ => table.weighted_gather(indices, weights),
    };
    // A second derivative has a composition of its own.
    g.rough((y * 0.5).tanh())
}

/// The same with integers.
pub fn of_ints<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.int_like(0, |i| i.var.rank() > 0)?;
    let axis = g.axis(0, x.var);
    let var = match g.die(3, 9) {
        0 => transposed(g, x.var),
        1 => permuted(g, x.var),
        2 => reshaped(g, x.var),
        3 => sliced(g, x.var),
        4 => expanded(g, x.var),
        5 => x.var.concat(&[x.var.slice(axis, 0, x.var.shape()[axis] / 2)], axis),
        6 => x.var.pad(axis, 1, 2),
        7 => table(x.var).gather(g.indices(1, [5], 9)),
        _ => x.var.contiguous(),
    };
    g.ints(var, x.below)
}
