//! The operations by name. Numbers are attributes in a fixed order, NaN or absent where the default is wanted.

use crate::error::{Error, Result};
use crate::graph::{Graph, Mode, Var};
use crate::ops::attention::Attention;
use crate::ops::attention::local::LocalAttention;
use crate::ops::rotary::Rotary;
use crate::ops::route::sinkhorn::{Sinkhorn, SinkhornGradient};
use crate::ops::route::soft_top_k::{DifferentiableTopK, SoftTopK};
use crate::ops::select::Sampling;
use crate::types::Shape;

/// Attributes of an operation.
pub(super) struct Numbers<'a>(pub &'a [f64]);

impl Numbers<'_> {
    fn given(&self, i: usize) -> Option<f64> {
        self.0.get(i).copied().filter(|n| !n.is_nan())
    }

    fn real(&self, i: usize, default: f64) -> f64 {
        self.given(i).unwrap_or(default)
    }

    fn size(&self, i: usize) -> usize {
        size(self.real(i, 0.0))
    }

    fn whole(&self, i: usize) -> u32 {
        self.real(i, 0.0) as u32
    }

    fn signed(&self, i: usize) -> isize {
        self.real(i, 0.0) as isize
    }

    fn flag(&self, i: usize) -> bool {
        self.real(i, 0.0) != 0.0
    }

    fn shape(&self, from: usize) -> Shape {
        self.0.iter().skip(from).map(|n| size(*n)).collect::<Vec<_>>().into()
    }
}

/// A size or axis; what is none becomes one that everybody refuses, and not the next best.
fn size(number: f64) -> usize {
    if number >= 0.0 && number == number.trunc() { number as usize } else { usize::MAX }
}

/// Adds an operation of this name.
pub(super) fn call<'g>(
    graph: &'g Graph,
    op: &str,
    inputs: &[Var<'g>],
    n: &Numbers<'_>,
    text: &str,
) -> Result<Vec<Var<'g>>> {
    let one = match inputs {
        [] => leaf(graph, op, n),
        [a] => unary(*a, op, n),
        [a, b] => binary(*a, *b, op, n),
        _ => None,
    };
    let vars = match one {
        Some(var) => Some(vec![var]),
        None => match op {
            "einsum" => Some(vec![graph.einsum(text, inputs)]),
            _ => several(op, inputs, n),
        },
    };
    vars.ok_or_else(|| Error::argument(op, format!("is no operation of {} variables", inputs.len())))
}

fn leaf<'g>(graph: &'g Graph, op: &str, n: &Numbers<'_>) -> Option<Var<'g>> {
    Some(match op {
        "full" => graph.full(n.shape(1), n.real(0, 0.0)),
        "full_u32" => graph.full_u32(n.shape(1), n.whole(0)),
        "iota" => graph.iota(n.shape(1), n.size(0)),
        "random_bits" => graph.random_bits(n.shape(1), n.whole(0)),
        "uniform" => graph.uniform(n.shape(1), n.whole(0)),
        "normal" => graph.normal(n.shape(1), n.whole(0)),
        "gumbel" => graph.gumbel(n.shape(1), n.whole(0)),
        _ => return None,
    })
}

fn unary<'g>(x: Var<'g>, op: &str, n: &Numbers<'_>) -> Option<Var<'g>> {
    Some(match op {
        "exp" => x.exp(),
        "ln" => x.ln(),
        "sqrt" => x.sqrt(),
        "recip" => x.recip(),
        "tanh" => x.tanh(),
        "sigmoid" => x.sigmoid(),
        "relu" => x.relu(),
        "elu" => x.elu(),
        "elu_plus_one" => x.elu_plus_one(),
        "erf" => x.erf(),
        "gelu" => x.gelu(),
        "silu" => x.silu(),
        "sin" => x.sin(),
        "cos" => x.cos(),
        "abs" => x.abs(),
        "floor" => x.floor(),
        "square" => x.square(),
        "neg" => -x,
        "to_f32" => x.to_f32(),
        "to_u32" => x.to_u32(),
        "is_finite" => x.is_finite(),
        "stop_gradient" => x.stop_gradient(),
        "contiguous" => x.contiguous(),
        "sum_all" => x.sum_all(),
        "mean_all" => x.mean_all(),
        "sum" => x.sum(n.size(0)),
        "max" => x.max(n.size(0)),
        "min" => x.min(n.size(0)),
        "mean" => x.mean(n.size(0)),
        "argmax" => x.argmax(n.size(0)),
        "softmax" => x.softmax(n.size(0)),
        "logsumexp" => x.logsumexp(n.size(0)),
        "cumsum" => match (n.flag(1), n.flag(2)) {
            (false, false) => x.cumsum(n.size(0)),
            (true, false) => x.cumsum_exclusive(n.size(0)),
            (exclusive, true) => x.cumsum_reverse(n.size(0), exclusive),
        },
        "reshape" => x.reshape(n.shape(0)),
        "expand" => x.expand(n.shape(0)),
        "permute" => x.permute(&n.shape(0)),
        "slice" => x.slice_step(n.size(0), n.size(1), n.size(2), size(n.real(3, 1.0))),
        "pad" => x.pad(n.size(0), n.size(1), n.size(2)),
        "l2_normalize" => x.l2_normalize(n.real(0, 1e-12)),
        "dropout" => x.dropout(n.real(0, 0.0), n.whole(1), Mode::Train),
        "sample" => x.sample(&sampling(n), n.whole(3)),
        _ => return None,
    })
}

fn sampling(n: &Numbers<'_>) -> Sampling {
    Sampling {
        temperature: n.real(0, 1.0) as f32,
        top_k: n.given(1).map(|k| k as usize),
        top_p: n.given(2).map(|p| p as f32),
    }
}

fn binary<'g>(a: Var<'g>, b: Var<'g>, op: &str, n: &Numbers<'_>) -> Option<Var<'g>> {
    Some(match op {
        "add" => a + b,
        "sub" => a - b,
        "mul" => a * b,
        "div" => a / b,
        "maximum" => a.maximum(b),
        "minimum" => a.minimum(b),
        "pow" => a.pow(b),
        "rem" => a.rem(b),
        "and" => a.and(b),
        "or" => a.or(b),
        "xor" => a.xor(b),
        "shl" => a.shl(b),
        "shr" => a.shr(b),
        "lt" => a.lt(b),
        "le" => a.le(b),
        "gt" => a.gt(b),
        "ge" => a.ge(b),
        "eq" => a.eq(b),
        "ne" => a.ne(b),
        "straight_through" => a.straight_through(b),
        "matmul" => a.matmul(b),
        "gather" => a.gather(b),
        "scatter_add" => a.scatter_add(b, n.size(0)),
        "take_along" => a.take_along(b, n.signed(0)),
        "scatter_along" => a.scatter_along(b, n.signed(0), n.size(1)),
        "cross_entropy" => a.cross_entropy(b, n.given(0).map(|i| i as i64)),
        "cross_entropy_mean" => a.cross_entropy_mean(b, n.given(0).map(|i| i as i64)),
        "rotary" => a.rotary(b, &rotary(n)),
        _ => return None,
    })
}

fn rotary(n: &Numbers<'_>) -> Rotary {
    let default = Rotary::default();
    Rotary { theta: n.real(0, default.theta), dim: n.given(1).map(|d| d as usize), ..default }
}

/// Operations with several results, or with optional inputs.
fn several<'g>(op: &str, inputs: &[Var<'g>], n: &Numbers<'_>) -> Option<Vec<Var<'g>>> {
    let (x, rest) = inputs.split_first()?;
    let second = rest.first().copied();
    Some(match (op, rest) {
        ("select", [yes, no]) => vec![x.select(*yes, *no)],
        ("concat", _) => vec![x.concat(rest, n.size(0))],
        ("layer_norm", []) => vec![x.layer_norm(None, None, n.real(0, 1e-5))],
        ("layer_norm", [gamma]) => vec![x.layer_norm(*gamma, None, n.real(0, 1e-5))],
        ("layer_norm", [gamma, beta]) => vec![x.layer_norm(*gamma, *beta, n.real(0, 1e-5))],
        ("rms_norm", [] | [_]) => vec![x.rms_norm(second)],
        ("sort_pairs", []) => {
            let (keys, positions) = x.sort_pairs(n.given(0).map(|limit| limit as u32));
            vec![keys, positions]
        }
        ("top_k", [] | [_]) => {
            let found = match second {
                Some(mask) => x.top_k_masked(n.size(0), mask),
                None => x.top_k(n.size(0)),
            };
            vec![found.values, found.indices]
        }
        ("product_top_k", [other]) => {
            let found = x.product_top_k(*other, n.size(0));
            vec![found.values, found.indices]
        }
        ("weighted_gather", [indices, weights]) => vec![x.weighted_gather(*indices, *weights)],
        ("weighted_gather", [indices, weights, trained]) => {
            vec![x.weighted_gather_masked(*indices, *weights, *trained)]
        }
        ("differentiable_top_k", [] | [_]) => {
            let how = DifferentiableTopK { ratio: n.real(5, 9.0 / 8.0), how: soft(n) };
            let found = x.differentiable_top_k(n.size(0), &how, second);
            vec![found.values, found.indices, found.gates]
        }
        ("write_rows", [new, start]) => vec![x.write_rows(*new, *start)],
        ("take_rows", [start]) => vec![x.take_rows(*start, n.size(0))],
        ("soft_top_k", [] | [_]) => vec![x.soft_top_k(n.real(0, 1.0), &soft(n), second)],
        ("sinkhorn", [] | [_]) => vec![x.sinkhorn(&sinkhorn(n), second)],
        ("cumulative_softmax", [] | [_]) => {
            let found = x.cumulative_softmax(n.size(0), n.real(1, 1.0), second);
            vec![found.scores, found.indices]
        }
        ("attention", [keys, values, mask @ ..]) => {
            let window = n.given(2).map(|w| w as usize);
            let mask = mask.first().copied();
            let options = Attention { scale: n.given(0), causal: n.flag(1), window, mask, ..Default::default() };
            let found = x.attention(*keys, *values, &options);
            vec![found.out, found.logsumexp]
        }
        ("local_attention", [keys, values, mask @ ..]) => {
            let mask = mask.first().copied();
            let (scale, causal, window) = (n.given(0), n.flag(1), n.size(2));
            let options = LocalAttention { window, causal, scale, mask, ..Default::default() };
            vec![x.local_attention(*keys, *values, &options)]
        }
        _ => return None,
    })
}

/// k, epsilon, iterations (absent: the fixed point), first epsilon, its decay.
fn soft(n: &Numbers<'_>) -> SoftTopK {
    let eps = n.real(1, 0.1);
    match (n.given(2), n.given(3)) {
        (None, _) => SoftTopK::exact(eps),
        (Some(iterations), None) => SoftTopK::iterations(iterations as usize, eps),
        (Some(iterations), Some(init)) => SoftTopK::iterations(iterations as usize, eps).scaled(init, n.real(4, 0.7)),
    }
}

/// Iterations, temperature, steps of the implicit gradient (absent: unrolled), site of Gumbel noise (absent: none).
fn sinkhorn(n: &Numbers<'_>) -> Sinkhorn {
    let default = Sinkhorn::default();
    let implicit = |steps: f64| SinkhornGradient::Implicit { iterations: steps as usize };
    Sinkhorn {
        iterations: n.given(0).map_or(default.iterations, |i| i as usize),
        temperature: n.real(1, default.temperature),
        gradient: n.given(2).map_or(default.gradient, implicit),
        gumbel: n.given(3).map(|site| site as u32),
    }
}
