//! Gradients in double precision: exact across the blocks of a call, cut between calls.

use super::{SEGMENT, VOCABULARY, WIDTH, graph_input, long, model, texts, tiny, variants};
use std::collections::BTreeMap;
use wgrad::graph::Gradient;
use wgrad::models::recurrent::{BlockRecurrentConfig, BlockRecurrentTransformer, Carried, Memory, States};
use wgrad::nn::{ParamVars, Params};
use wgrad::{Device, Feed, Graph, Tensor, TensorType, Var};

/// Numbers in double precision by name.
pub type Numbers = BTreeMap<String, Vec<f64>>;

pub fn numbers(params: &Params) -> Numbers {
    let wide = |t: Tensor| t.floats().iter().map(|x| f64::from(*x)).collect();
    params.values().map(|(name, t)| (name.to_owned(), wide(t))).collect()
}

/// Runs on the oracle with parameters, and whatever else `build` declares, as inputs in double precision.
pub fn oracle(
    params: &Params,
    given: &Numbers,
    build: impl for<'g> Fn(&'g Graph, &ParamVars<'g>) -> Vec<(String, Var<'g>)>,
) -> Numbers {
    let graph = Graph::new();
    let declare =
        |p: &wgrad::nn::Param| (p.name().to_owned(), graph.input(p.name(), TensorType::f32(p.shape().clone())));
    let vars: Vec<_> = params.iter().map(declare).collect();
    let outputs = build(&graph, &ParamVars::from_vars(&graph, vars));
    let named: Vec<(&str, Var<'_>)> = outputs.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let plan = Device::cpu_f64().compile_blocking(&graph, &named).unwrap();
    let mut feed = Feed::new();
    for (name, values) in given {
        feed = feed.input_f64(name, values);
    }
    plan.run(&feed).unwrap();
    outputs.iter().map(|(name, _)| (name.clone(), plan.read_f64(name).unwrap())).collect()
}

/// Gradients of `seeds` to all trainable parameters and to `more`, under their names.
pub fn gradients<'g>(
    params: &Params,
    p: &ParamVars<'g>,
    seeds: &[(Var<'g>, Var<'g>)],
    more: &[(String, Var<'g>)],
) -> Vec<(String, Var<'g>)> {
    let own = params.iter().filter(|p| p.is_trainable()).map(|q| (q.name().to_owned(), p.get(q.name())));
    let wrt: Vec<(String, Var<'g>)> = own.chain(more.iter().cloned()).collect();
    let vars: Vec<Var<'g>> = wrt.iter().map(|(_, v)| *v).collect();
    let grads = p.graph().vjp(seeds, &vars);
    let named = wrt.into_iter().zip(grads).filter(|(_, g)| !matches!(g, Gradient::None));
    named.filter_map(|((name, _), g)| Some((name, g.dense()?))).collect()
}

pub fn one<'g>(g: &'g Graph) -> Var<'g> {
    g.full([], 1.0)
}

/// Carried values under names.
fn spread<'g>(carried: &Carried<'g>) -> Vec<(String, Var<'g>)> {
    let memories = carried.memories.iter().enumerate();
    let memories = memories.flat_map(|(i, m)| [(format!("carried.k{i}"), m.keys), (format!("carried.v{i}"), m.values)]);
    let states = carried.states.iter().enumerate().map(|(i, s)| (format!("carried.s{i}"), s.vectors));
    memories.chain(states).collect()
}

/// Sum of two sets; what is absent is zero.
fn plus(a: &Numbers, b: &Numbers) -> Numbers {
    let mut sum = a.clone();
    for (name, values) in b {
        let total = sum.entry(name.clone()).or_insert_with(|| vec![0.0; values.len()]);
        total.iter_mut().zip(values).for_each(|(t, v)| *t += v);
    }
    sum
}

fn assert_equal(what: &str, a: &Numbers, b: &Numbers) {
    let none = Numbers::new();
    // Absent is zero.
    for (name, values) in plus(a, &none).iter().chain(b) {
        let zeros = vec![0.0; values.len()];
        let [x, y] = [a, b].map(|set| set.get(name).unwrap_or(&zeros));
        let worst = x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-12, "{what}: {name} differs by {worst:e}");
    }
}

/// A block of the text, and the token after it.
fn half(g: &Graph, start: usize) -> Var<'_> {
    g.constant(texts(2, SEGMENT + 1, 1)).slice(1, start, WIDTH + 1)
}

/// What a call is handed, as inputs of the names of [`spread`].
fn carried_inputs<'g>(g: &'g Graph, c: &BlockRecurrentConfig, handed: &Numbers) -> Carried<'g> {
    let memory = |i: usize, part: &str| {
        let rows = handed[&format!("carried.k{i}")].len() / (2 * c.dim_head);
        graph_input(g, &format!("carried.{part}{i}"), &[2, rows, c.dim_head])
    };
    let state = |i: usize| graph_input(g, &format!("carried.s{i}"), &[2, c.states(), c.dim]);
    Carried {
        memories: (0..c.memories())
            .map(|i| Memory { keys: memory(i, "k"), values: memory(i, "v"), count: None })
            .collect(),
        states: (0..c.writers().len()).map(|i| States { vectors: state(i), written: None }).collect(),
        ..Default::default()
    }
}

/// A text in two blocks, the second by itself: what it was carried are inputs, and it tells their gradients.
struct InTwo {
    /// Gradients of the first block's loss alone, and of the second's with what it was carried taken as given.
    first: Numbers,
    second: Numbers,
    /// The first block's, together with what came back through what it handed on.
    through: Numbers,
}

impl InTwo {
    fn new(model: &BlockRecurrentTransformer, params: &Params, share: f64) -> Self {
        let given = numbers(params);
        let handed = oracle(params, &given, |g, p| spread(&model.loss(p, half(g, 0), &Carried::default()).1));
        let mut both = given.clone();
        both.extend(handed.clone());
        let mut second = oracle(params, &both, |g, p| {
            let carried = carried_inputs(g, model.config(), &handed);
            let (loss, _) = model.loss(p, half(g, WIDTH), &carried);
            gradients(params, p, &[(loss * share, one(g))], &spread(&carried))
        });
        let back: Numbers =
            second.iter().filter(|(n, _)| n.starts_with("carried")).map(|(n, v)| (n.clone(), v.clone())).collect();
        second.retain(|n, _| !n.starts_with("carried"));
        let first = |back: Option<&Numbers>| {
            let mut all = given.clone();
            all.extend(back.cloned().unwrap_or_default());
            oracle(params, &all, |g, p| {
                let ids = half(g, 0);
                let (logits, carried) = model.forward_attached(p, ids.slice(1, 0, WIDTH), &Carried::default());
                let labels = ids.slice(1, 1, WIDTH).reshape([2 * WIDTH]);
                let loss = logits.reshape([2 * WIDTH, VOCABULARY]).cross_entropy_mean(labels, None);
                let mut seeds = vec![(loss * share, one(g))];
                for (name, var) in spread(&carried) {
                    if back.is_some_and(|b| b.contains_key(&name)) {
                        seeds.push((var, graph_input(g, &name, &var.shape())));
                    }
                }
                gradients(params, p, &seeds, &[])
            })
        };
        InTwo { first: first(None), through: first(Some(&back)), second }
    }
}

#[test]
fn gradients_cross_the_blocks_of_a_call_exactly() {
    for (name, config) in variants().into_iter().filter(|(_, c)| !c.enhanced_recurrence) {
        let (model, params) = model(&config);
        let whole = oracle(&params, &numbers(&params), |g, p| {
            let (loss, _) = model.loss(p, g.constant(texts(2, SEGMENT + 1, 1)), &Carried::default());
            gradients(&params, p, &[(loss, one(g))], &[])
        });
        let two = InTwo::new(&model, &params, 0.5);
        assert_equal(name, &whole, &plus(&two.through, &two.second));
        let differ = two.first.iter().any(|(n, v)| two.through.get(n).is_some_and(|t| t != v));
        assert!(differ, "{name}: nothing comes back");
    }
}

#[test]
fn gradients_stop_between_calls() {
    for (name, config) in variants().into_iter().filter(|(_, c)| !c.enhanced_recurrence) {
        let (model, params) = model(&config);
        let calls = oracle(&params, &numbers(&params), |g, p| {
            let text = g.constant(texts(2, SEGMENT + 1, 1));
            let (a, carried) = model.loss(p, text.slice(1, 0, WIDTH + 1), &Carried::default());
            let (b, _) = model.loss(p, text.slice(1, WIDTH, WIDTH + 1), &carried);
            gradients(&params, p, &[((a + b) * 0.5, one(g))], &[])
        });
        let two = InTwo::new(&model, &params, 0.5);
        assert_equal(name, &calls, &plus(&two.first, &two.second));
    }
}

/// The slope along one direction through all parameters, against a difference of losses.
#[test]
fn gradients_are_slopes() {
    for (name, config) in variants() {
        let (model, params) = model(&BlockRecurrentConfig { max_seq_len: 16, ..config });
        let text = texts(2, 15, 3);
        let loss = |given: &Numbers| {
            oracle(&params, given, |g, p| {
                vec![("loss".into(), model.loss(p, g.constant(text.clone()), &Carried::default()).0)]
            })["loss"][0]
        };
        let at = numbers(&params);
        let slope = oracle(&params, &at, |g, p| {
            let (loss, _) = model.loss(p, g.constant(text.clone()), &Carried::default());
            gradients(&params, p, &[(loss, one(g))], &[])
        });
        let direction = |name: &str, i: usize| ((name.len() * 7 + i * 13) as f64 * 0.37).sin();
        let moved = |h: f64| {
            let step = |(n, v): (&String, &Vec<f64>)| {
                let values = v.iter().enumerate();
                (
                    n.clone(),
                    values.map(|(i, x)| x + if slope.contains_key(n) { h * direction(n, i) } else { 0.0 }).collect(),
                )
            };
            loss(&at.iter().map(step).collect())
        };
        let h = 1e-5;
        let want = (moved(h) - moved(-h)) / (2.0 * h);
        let along = |(n, v): (&String, &Vec<f64>)| v.iter().enumerate().map(|(i, g)| g * direction(n, i)).sum::<f64>();
        let got: f64 = slope.iter().map(along).sum();
        assert!((got - want).abs() < 1e-6 * (1.0 + want.abs()), "{got} {want} {name}");
        // All parameters learn from a text of several blocks, but for what four blocks are too few to use.
        let trained = params.iter().filter(|p| p.is_trainable()).map(|p| p.name());
        let still: Vec<&str> = trained.filter(|n| slope.get(*n).is_none_or(|g| g.iter().all(|x| *x == 0.0))).collect();
        assert!(still.is_empty(), "{still:?} have no gradient: {name}");
    }
}

/// Memories that are there but do not count are no memories, and states that were not written the first ones.
#[test]
fn what_does_not_count_is_as_if_absent() {
    for (name, config) in variants() {
        let (model, params) = model(&config);
        let run = |carried: bool| {
            oracle(&params, &numbers(&params), |g, p| {
                let mut past = Carried::default();
                if carried {
                    let c = model.config();
                    let memory = || g.full([2, c.memory_rows(), c.dim_head], 7.0).counted_by(g);
                    past.memories = (0..c.memories()).map(|_| memory()).collect();
                    let vectors = g.full([2, c.states(), c.dim], 7.0);
                    let states = States { vectors, written: Some(g.full_u32([2], 0)) };
                    past.states = vec![states; c.writers().len()];
                }
                let (loss, next) = model.loss(p, g.constant(texts(2, SEGMENT + 1, 1)), &past);
                let mut all = gradients(&params, p, &[(loss, one(g))], &[]);
                all.push(("loss".into(), loss));
                all.extend(next.states.iter().enumerate().map(|(i, s)| (format!("s{i}"), s.vectors)));
                all
            })
        };
        assert_equal(name, &run(false), &run(true));
    }
}

trait Counted<'g> {
    fn counted_by(self, g: &'g Graph) -> Memory<'g>;
}

impl<'g> Counted<'g> for Var<'g> {
    fn counted_by(self, g: &'g Graph) -> Memory<'g> {
        Memory { keys: self, values: self, count: Some(g.full_u32([2], 0)) }
    }
}

#[test]
fn recomputation_changes_nothing() {
    let losses = |recompute: bool| {
        let (model, params) = model(&BlockRecurrentConfig { recompute, ..tiny() });
        oracle(&params, &numbers(&params), |g, p| {
            let (loss, _) = model.loss(p, g.constant(texts(2, SEGMENT + 1, 1)), &Carried::default());
            gradients(&params, p, &[(loss, one(g))], &[])
        })
    };
    assert_eq!(losses(false), losses(true));
}

/// What a long memory picked in the second block gives gradients to its router and to its projections.
#[test]
fn long_memories_learn() {
    let (model, params) = model(&long(&[1, 2]));
    let found = oracle(&params, &numbers(&params), |g, p| {
        let loss = model.loss(p, g.constant(texts(2, SEGMENT + 1, 1)), &Carried::default()).0;
        gradients(&params, p, &[(loss, one(g))], &[])
    });
    let own: Vec<&str> = params.names().filter(|name| name.contains("long_memory")).collect();
    assert!(own.iter().any(|name| name.ends_with("routing_token")) && own.len() > 10, "{own:?}");
    for name in own {
        assert!(found.get(name).is_some_and(|grad| grad.iter().any(|x| *x != 0.0)), "{name} gets no gradient");
    }
}
