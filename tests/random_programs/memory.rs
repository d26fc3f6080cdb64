//! Tables beside the tape: banks, quantised tables, counts, and the steps of optimizers on rows.

use crate::grow::{Draw, Grower, Value};
use half::f16;
use wgrad::graph::{Gradient, Rows};
use wgrad::nn::{Bank, BankType, QuantTableType, Quantization, Storage};
use wgrad::ops::optim::{Adam, Common, Controls, Pack, Sgd, Tally};
use wgrad::{DType, Data, Error, Plan, Store, Tensor, TensorType, Var};

type Made<'g> = Option<Value<'g>>;

/// Rows that a run leaves in a bank.
pub struct Put<'g> {
    bank: Bank<'g>,
    /// Names of the pieces.
    names: Vec<String>,
    pub rows: Var<'g>,
    pub places: Var<'g>,
}

impl Put<'_> {
    pub fn assign(&self) {
        self.bank.assign(self.rows, self.places);
    }

    /// The same on the host, from the outputs that hold rows and places.
    pub fn by_hand(&self, store: &Store, plan: &Plan, [rows, places]: [&str; 2]) -> Result<(), Error> {
        let (rows, places) = (plan.read_blocking(rows)?, plan.read_blocking(places)?);
        let width = self.bank.ty().width();
        let mut first = 0;
        for name in &self.names {
            let mut piece = store.read_blocking(name)?;
            let [count, words] = piece.shape()[..] else { continue };
            for (row, place) in rows.floats().chunks(width).zip(places.ints()) {
                let Some(at) = (*place as usize).checked_sub(first).filter(|at| *at < count) else { continue };
                let at = at * words..(at + 1) * words;
                piece = match piece.data() {
                    Data::F32(old) => {
                        let mut new = old.clone();
                        new[at].copy_from_slice(row);
                        Tensor::f32([count, words], new)?
                    }
                    Data::U32(old) => {
                        let mut new = old.clone();
                        new[at].copy_from_slice(&halves(row));
                        Tensor::u32([count, words], new)?
                    }
                };
            }
            store.set(name, &piece)?;
            first += count;
        }
        Ok(())
    }
}

/// Two to a word.
pub fn halves(row: &[f32]) -> Vec<u32> {
    let bits = |x: &f32| u32::from(f16::from_f32(*x).to_bits());
    row.chunks(2).map(|pair| pair.iter().rev().fold(0, |word, x| word << 16 | bits(x))).collect()
}

fn as_rows<'g>(x: Var<'g>) -> Var<'g> {
    let width = x.shape().last().copied().unwrap_or(1);
    x.reshape([x.shape().numel().checked_div(width).unwrap_or(0), width])
}

/// A history: scored, read, and written for the next run.
pub fn bank<'g>(g: &mut Grower<'g>) -> Made<'g> {
    g.honest = false;
    // Halves hold multiples of 1/64 up to 32.
    let fits = |b: f64| b < 30.0;
    let x = g.float_like(0, |f| f.exact.is_some_and(fits) && f.var.shape().numel() > 0)?.var;
    let values = as_rows(x);
    let [count, width] = *values.shape() else { return None };
    let storage = [Storage::F32, Storage::F16][g.die(0, 2)];
    let [samples, each] = [1 + g.die(1, 3), 1 + g.die(2, 11)];
    let ty = BankType::new(storage, samples * each, width, (width * 4 * (1 + g.die(3, 7))) as u64).ok()?;
    let draw = if storage == Storage::F32 { Draw::Exact } else { Draw::Halves(width) };
    let name = format!("bank{}", g.states.len());
    let names: Vec<String> = ty.named(&name).map(|(name, _)| name).collect();
    let bank = ty.state(g.graph, &name);
    for (name, piece) in names.iter().zip(bank.pieces()) {
        g.states.push((name.clone(), *piece, draw));
    }
    if g.die(3, 3) > 0 {
        // No place twice; some beyond the table.
        let first = g.indices(1, [1], (ty.rows() + 2) as u32);
        let places = g.graph.iota([count], 0) + first;
        g.puts.push(Put { bank: bank.clone(), names, rows: values, places });
    }
    match g.die(1, 2) {
        0 => g.bounded(bank.take(g.indices(2, [1 + g.die(2, 9)], ty.rows() as u32 + 2)).stop_gradient(), Some(30.0)),
        _ => {
            let queries = [1, samples][g.die(2, 2)];
            let routes = 1 + g.die(1, 5);
            let picked = values.tanh().gather(g.indices(2, [queries * routes], count as u32));
            let scores = bank.scores(picked.reshape([queries, routes, width]), each);
            g.rounded(scores * (1.0 / (width as f64).sqrt()))
        }
    }
}

/// A table of halves or bytes.
pub fn quantised<'g>(g: &mut Grower<'g>) -> Made<'g> {
    let x = g.row(0)?.var;
    let how = [Quantization::F16, Quantization::Int8][g.die(0, 2)];
    let (rows, k) = (1 + g.die(1, 12), 1 + g.die(2, 7));
    let width = if g.die(0, 4) < 2 { 1 + g.die(3, 40) } else { x.dim(-1).max(1) };
    let words = width.div_ceil(if how == Quantization::F16 { 2 } else { 4 });
    let ty = QuantTableType::with_limit(how, rows, width, (words * 4 * (1 + g.die(3, 5))) as u64).ok()?;
    let name = format!("quantised{}", g.states.len());
    let draw = |ty: &TensorType| match (ty.dtype, how) {
        (DType::F32, _) => Draw::Squares,
        (_, Quantization::F16) => Draw::Halves(width),
        (_, Quantization::Int8) => Draw::Bytes(width),
    };
    let table = ty.state(g.graph, &name);
    for (name, ty) in ty.named(&name) {
        let draw = draw(&ty);
        g.states.push((name.clone(), g.graph.state(&name, ty), draw));
    }
    // States of words are no inputs that could be moved.
    g.honest = false;
    let some = |g: &Grower<'g>, shape: &[usize]| g.indices(1, shape, rows as u32 + g.die(1, 2) as u32);
    let y = if g.die(0, 4) < 2 || x.shape().last() == Some(&0) {
        let weights = x.tanh();
        table.weighted_gather(some(g, &weights.shape()), weights)
    } else {
        let mut shape = x.shape();
        shape.0.pop();
        shape.0.push(k);
        table.gather_dot(some(g, &shape), x.tanh())
    };
    g.rough((y * 0.2).tanh())
}

/// Hits on a table of `rows`: a value each, or the gradient of a weighted sum.
fn hits<'g>(g: &mut Grower<'g>, die: usize) -> Option<Rows<'g>> {
    let x = g.float_like(0, |f| f.var.shape().numel() > 0)?.var;
    let values = as_rows(x).tanh();
    let [count, width] = *values.shape() else { return None };
    let rows = g.die(die, 12);
    if g.die(die, 3) > 0 {
        return Some(Rows::new(g.indices(1, [count], rows as u32 + 1), values, rows));
    }
    let table = g.graph.full([rows, width], 0.5);
    let k = 1 + g.die(die, 4);
    let weights = values.gather(g.graph.iota([count * k], 0).rem(count as u32)).sum(1).tanh().reshape([count, k]);
    let sums = table.weighted_gather(g.indices(1, [count, k], rows as u32 + 1), weights);
    let grads = g.graph.grad((sums * values).sum_all(), &[table]);
    match grads.first()? {
        Gradient::Rows(all) => Rows::concat(all),
        _ => None,
    }
}

/// Counts by row.
pub fn tally_rows<'g>(g: &mut Grower<'g>) -> Made<'g> {
    g.honest = false;
    let hits = hits(g, 2)?;
    let ty = TensorType::f32([hits.rows, hits.values.dim(-1) + 2]);
    // It does not heed a gate.
    let new = if g.gate.is_none() {
        let table = g.state(ty);
        let new = table.tally_rows(&hits);
        g.updates.push((g.states.len() - 1, new));
        new
    } else {
        g.graph.iota(ty.shape.clone(), 1).to_f32().tally_rows(&hits)
    };
    g.rough((new * 0.05).tanh())
}

/// A step of an optimizer on the rows that are hit.
pub fn optimize_rows<'g>(g: &mut Grower<'g>) -> Made<'g> {
    g.honest = false;
    let hits = hits(g, 2)?;
    let n = hits.rows * hits.values.dim(-1);
    let flat = TensorType::f32([n.next_multiple_of(4)]);
    let ok = g.gate.unwrap_or_else(|| g.graph.full_u32([], 1));
    let progress = g.input(TensorType::u32([2]), Draw::Below(30));
    let controls = Controls { lr: g.graph.full([], 0.05), norm_sq: hits.square_sum(), ok, progress };
    let max_norm = [0.0, 1.5][g.die(1, 2)];
    let common = Common { max_norm, lr_factor: 0.7, weight_decay: [0.0, 0.1][g.die(2, 2)] };
    let first = g.states.len();
    let (param, held) = (g.state(flat.clone()), 0..hits.rows);
    let new = match g.die(0, 4) {
        0 => Sgd { common, momentum: 0.0, nesterov: false }.step_rows(param, None, &hits, held, &controls),
        1 => {
            let sgd = Sgd { common, momentum: 0.9, nesterov: g.die(3, 2) == 0 };
            sgd.step_rows(param, Some(g.state(flat)), &hits, held, &controls)
        }
        kind => {
            let adam = Adam { common, decoupled: g.die(3, 2) == 0, beta1: 0.9, beta2: 0.99, eps: 1e-3 };
            let moments = [g.state(flat.clone()), g.square_state(flat)];
            let counts = (kind == 2).then(|| g.count_state(TensorType::u32([hits.rows])));
            adam.step_rows(param, moments, counts, &hits, held, &controls)
        }
    };
    g.updates.extend(new.iter().enumerate().map(|(i, v)| (first + i, *v)));
    g.rough(new[0].slice(0, 0, n))
}

/// Tensors side by side in a flat buffer, and what a step reports.
pub fn pack<'g>(g: &mut Grower<'g>) -> Made<'g> {
    g.honest = false;
    let exact = g.exact(0)?;
    if g.die(0, 3) == 0 {
        let progress = g.input(TensorType::u32([2]), Draw::Below(30));
        let ok = g.indices(1, [1], 2).reshape([]);
        // Its first element, or 0; zeros without a sign.
        let loss = exact.var.reshape([exact.var.shape().numel()]).pad(0, 0, 1).slice(0, 0, 1).reshape([]).abs();
        let counted = Tally::count(progress, loss, loss * loss, ok);
        return g.ints(counted[g.die(1, 2)], 1 << 32);
    }
    let (x, y) = (g.float(1)?.var, g.float(2)?.var);
    let [gap, end] = [4 * g.die(1, 3), 4 * g.die(2, 2)];
    let second = x.shape().numel().next_multiple_of(4) + gap;
    let third = (second + y.shape().numel()).next_multiple_of(4);
    let len = (third + exact.var.shape().numel()).next_multiple_of(4) + end;
    let turned = if x.rank() > 1 { x.transpose(0, 1) } else { x };
    g.rough(Pack { places: vec![0, second, third], len }.pack(g.graph, &[turned, y, exact.var]))
}
