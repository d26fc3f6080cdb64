//! Caches of fixed capacity: written in place, read up to a length known only at run time.

use crate::common;
use wgrad::ops::attention::Attention;
use wgrad::ops::rotary::Rotary;
use wgrad::{Device, Feed, Graph, Plan, Result, Store, Tensor, TensorType, Var};

const HEADS: usize = 2;
const WIDTH: usize = 6;
const CAPACITY: usize = 11;

fn rows(n: usize, first: usize) -> Tensor {
    let value = |i: usize| ((first * HEADS * WIDTH + i) as f32 * 12.9898).sin();
    // Token-major values, so that a token is the same however many come at once; then [1, heads, n, width].
    let mut data = Vec::new();
    for head in 0..HEADS {
        for token in 0..n {
            data.extend((0..WIDTH).map(|f| value((token * HEADS + head) * WIDTH + f)));
        }
    }
    Tensor::f32([1, HEADS, n, WIDTH], data).expect("as many elements as the shape has")
}

fn scalar(x: u32) -> Tensor {
    Tensor::u32([], vec![x]).expect("one element")
}

/// Steps of the plan that write or read whole caches only to copy them.
fn copies(plan: &Plan) -> usize {
    let whole = |step: &&wgrad::plan::Step| {
        let moves = matches!(step.op.name(), "reshape" | "concat" | "assign");
        moves && step.outputs.iter().any(|o| o.numel() >= HEADS * CAPACITY * WIDTH)
    };
    plan.program().steps.iter().filter(whole).count()
}

fn cache(graph: &Graph) -> Var<'_> {
    graph.state("cache", TensorType::f32([1, HEADS, CAPACITY, WIDTH]))
}

fn new_store(device: &Device) -> Store {
    let store = Store::new(device);
    let ty = TensorType::f32([1, HEADS, CAPACITY, WIDTH]);
    store.set_zeros("cache", &ty).expect("a state");
    store
}

#[test]
fn writing_copies_nothing_else() -> Result<()> {
    for device in common::devices() {
        for gated in [false, true] {
            let graph = Graph::new();
            let (cache, new) = (cache(&graph), graph.input("new", TensorType::f32([1, HEADS, 3, WIDTH])));
            let (at, ok) = (graph.input("at", TensorType::u32([])), graph.input("ok", TensorType::u32([])));
            let next = if gated { cache.write_rows_if(ok, new, at) } else { cache.write_rows(new, at) };
            graph.assign(cache, next);
            if gated {
                graph.gate(ok);
            }
            let total = next.sum_all();
            let plan = device.compile_blocking(&graph, &[("total", total)])?;
            assert_eq!(copies(&plan), 0, "{plan}");
            let store = new_store(&device);
            let mut want = vec![0.0; HEADS * CAPACITY * WIDTH];
            for (run, (at, ok)) in [(0, 1), (3, 0), (4, 1), (9, 1), (40, 1)].into_iter().enumerate() {
                let (new, position, open) = (rows(3, run), scalar(at), scalar(ok));
                let mut feed = Feed::new().store(&store).input("new", &new).input("at", &position);
                if gated {
                    feed = feed.input("ok", &open);
                }
                plan.run(&feed)?;
                for head in 0..HEADS {
                    for row in (0..3).filter(|r| at as usize + r < CAPACITY && (ok == 1 || !gated)) {
                        let (to, from) = ((head * CAPACITY + at as usize + row) * WIDTH, (head * 3 + row) * WIDTH);
                        want[to..to + WIDTH].copy_from_slice(&new.floats()[from..from + WIDTH]);
                    }
                }
                let sum: f32 = want.iter().sum();
                assert!((plan.read_blocking("total")?.floats()[0] - sum).abs() < 1e-4);
                assert_eq!(store.read_blocking("cache")?.floats(), want, "run {run} on {device}, gated {gated}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_closed_gate_stops_an_update_that_does_not_know_it() -> Result<()> {
    for device in common::devices() {
        let graph = Graph::new();
        let (cache, new) = (cache(&graph), graph.input("new", TensorType::f32([1, HEADS, 3, WIDTH])));
        graph.assign(cache, cache.write_rows(new, graph.full_u32([], 2)));
        graph.gate(graph.input("ok", TensorType::u32([])));
        let plan = device.compile_blocking(&graph, &[])?;
        let store = new_store(&device);
        for (ok, changed) in [(0, false), (1, true)] {
            let (new, open) = (rows(3, 0), scalar(ok));
            plan.run(&Feed::new().store(&store).input("new", &new).input("ok", &open))?;
            let floats = store.read_blocking("cache")?;
            assert_eq!(floats.floats().iter().any(|x| *x != 0.0), changed, "on {device}");
        }
    }
    Ok(())
}

#[test]
fn positions_of_every_batch_entry() -> Result<()> {
    for device in common::devices() {
        let graph = Graph::new();
        let x = graph.state("x", TensorType::u32([3, 5, 1]));
        let at = graph.input("at", TensorType::u32([3]));
        let next = x.write_rows(graph.full_u32([3, 2, 1], 7), at);
        graph.assign(x, next);
        let plan = device.compile_blocking(&graph, &[("part", next.take_rows(at, 3))])?;
        let store = Store::new(&device);
        store.set_zeros("x", &TensorType::u32([3, 5, 1]))?;
        let at = Tensor::u32([3], vec![0, 4, u32::MAX])?;
        plan.run(&Feed::new().store(&store).input("at", &at))?;
        assert_eq!(store.read_blocking("x")?.ints(), [7, 7, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0]);
        assert_eq!(plan.read_blocking("part")?.ints(), [7, 7, 0, 7, 0, 0, 0, 0, 0]);
    }
    Ok(())
}

/// Attention of `n` new tokens to everything in the cache, whose length is a runtime value.
fn decode(device: &Device, n: usize) -> Result<Plan> {
    let graph = Graph::new();
    let (cache, x) = (cache(&graph), graph.input("x", TensorType::f32([1, HEADS, n, WIDTH])));
    let before = graph.input("before", TensorType::u32([]));
    let next = cache.write_rows(x, before);
    graph.assign(cache, next);
    let numbers = |n: usize| Tensor::u32([n], (0..n as u32).collect()).map(|t| graph.constant(t));
    let queries = x.rotary(numbers(n)? + before, &Rotary::default());
    let keys = next.rotary(numbers(CAPACITY)?, &Rotary::default());
    let valid = Some(before + graph.full_u32([], n as u32));
    let y = queries.attention(keys, next, &Attention { causal: true, valid, ..Attention::default() });
    device.compile_blocking(&graph, &[("y", y.out)])
}

#[test]
fn decoding_token_by_token_equals_all_at_once() -> Result<()> {
    for device in common::devices() {
        let (n, one) = (9, decode(&device, 1)?);
        assert_eq!(copies(&one), 0, "{one}");
        let store = new_store(&device);
        let all = decode(&device, n)?;
        all.run(&Feed::new().store(&store).input("x", &rows(n, 0)).input("before", &scalar(0)))?;
        let want = all.read_blocking("y")?;
        let store = new_store(&device);
        for token in 0..n {
            one.run(&Feed::new().store(&store).input("x", &rows(1, token)).input("before", &scalar(token as u32)))?;
            let got = one.read_blocking("y")?;
            for head in 0..HEADS {
                for f in 0..WIDTH {
                    let (a, b) = (got.floats()[head * WIDTH + f], want.floats()[(head * n + token) * WIDTH + f]);
                    assert!((a - b).abs() < 1e-5, "token {token}: {a} against {b} on {device}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn second_derivatives_are_refused() {
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([1, 1, 4, 2]));
    let y = x.attention(x, x, &Attention::default()).out.square().sum_all();
    let first = graph.grad(y, &[x])[0].dense().expect("depends on x");
    graph.grad(first.square().sum_all(), &[x]);
    let message = graph.error().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("attention_composed"), "{message}");
}

/// A cache that is read after it was written in the text, in a graph whose gate is only known at the end: the write waits for
/// both, and no copy of the cache is made.
#[test]
fn a_write_waits_for_readers_and_gate() -> Result<()> {
    let graph = Graph::new();
    let cache = graph.state("cache", TensorType::f32([5, 2]));
    let x = graph.input("x", TensorType::f32([2, 2]));
    graph.assign(cache, cache.write_rows(x, graph.input("position", TensorType::u32([]))));
    let sum = cache.sum_all() + x.sum_all();
    graph.gate(sum.lt(100.0));
    for device in common::devices() {
        let plan = device.compile_blocking(&graph, &[("sum", sum)])?;
        let copies = plan.program().steps.iter().filter(|s| s.outputs.iter().any(|o| o.numel() == 10)).count();
        assert_eq!(copies, 1, "{plan}");
        let store = Store::new(&device);
        store.set("cache", &Tensor::f32([5, 2], vec![1.0; 10])?)?;
        for (value, want) in [(2.0, 11.0), (100.0, 11.0), (3.0, 13.0)] {
            let position = Tensor::u32([], vec![1])?;
            let x = Tensor::f32([2, 2], vec![value, 1.0, 1.0, value - 1.0])?;
            plan.run(&Feed::new().store(&store).input("x", &x).input("position", &position))?;
            let sum: f32 = store.read_blocking("cache")?.floats().iter().sum();
            // Four of ten ones were replaced, unless the gate was closed.
            assert_eq!(sum, want, "on {device}");
        }
    }
    Ok(())
}
