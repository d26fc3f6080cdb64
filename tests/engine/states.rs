//! States change all at once, in their own buffers where nobody sees it.

use crate::common;
use crate::common::ops::AddInPlace;
use crate::plans::{PLAIN, compile, floats};
use wgrad::ops::optim::{Adam, Common, Controls, Tally};
use wgrad::plan::{Origin, Program};
use wgrad::{Feed, Graph, Options, Store, Tensor, TensorType, Var};

pub fn state<'g>(graph: &'g Graph, name: &str, n: usize) -> Var<'g> {
    graph.state(name, TensorType::f32([n]))
}

/// Runs a graph over states once on every device; the states and outputs afterwards.
fn after(
    states: &[(&str, &[f32])],
    outputs: &[&str],
    build: &dyn for<'g> Fn(&'g Graph) -> Vec<(&'static str, Var<'g>)>,
) -> Vec<Vec<f32>> {
    let mut results = Vec::new();
    for device in common::devices() {
        for options in [Options::default(), PLAIN] {
            let graph = Graph::new();
            let named = build(&graph);
            let plan =
                pollster::block_on(device.compile_with(&graph, &named, options)).unwrap_or_else(|e| panic!("{e}"));
            let store = Store::new(&device);
            for (name, values) in states {
                store.set(name, &floats(values)).expect("a state");
            }
            plan.run(&Feed::new().store(&store)).unwrap_or_else(|e| panic!("{e}\n{plan}"));
            let states = states.iter().map(|(n, _)| store.read_blocking(n));
            let outputs = outputs.iter().map(|n| plan.read_blocking(n));
            let all: Result<Vec<Tensor>, _> = states.chain(outputs).collect();
            let all = all.unwrap_or_else(|e| panic!("{e}\n{plan}"));
            results.push(all.iter().map(|t| t.floats().to_vec()).collect::<Vec<_>>());
        }
    }
    // By their bits, so that NaN equals itself.
    let bits = |r: &Vec<Vec<f32>>| -> Vec<u32> { r.iter().flatten().map(|x| x.to_bits()).collect() };
    for r in &results {
        assert_eq!(bits(r), bits(&results[0]));
    }
    results.swap_remove(0)
}

#[test]
fn all_reads_see_the_old_state() {
    let got = after(&[("s", &[1.0, 2.0])], &["before", "twice"], &|g| {
        let s = state(g, "s", 2);
        g.assign(s, s + 10.0);
        vec![("before", s), ("twice", s * 2.0)]
    });
    assert_eq!(got, [[11.0, 12.0], [1.0, 2.0], [2.0, 4.0]]);
}

#[test]
fn two_states_swap() {
    let got = after(&[("a", &[1.0, 2.0]), ("b", &[3.0, 4.0])], &[], &|g| {
        let (a, b) = (state(g, "a", 2), state(g, "b", 2));
        g.assign(a, b);
        g.assign(b, a);
        vec![]
    });
    assert_eq!(got, [[3.0, 4.0], [1.0, 2.0]]);
}

#[test]
fn three_states_rotate_computed() {
    let got = after(&[("a", &[1.0]), ("b", &[2.0]), ("c", &[3.0])], &["sum"], &|g| {
        let (a, b, c) = (state(g, "a", 1), state(g, "b", 1), state(g, "c", 1));
        g.assign(a, b * 10.0);
        g.assign(b, c * 10.0);
        g.assign(c, a * 10.0);
        vec![("sum", a + b + c)]
    });
    assert_eq!(got, [[20.0], [30.0], [10.0], [6.0]]);
}

#[test]
fn a_state_takes_a_view_of_itself() {
    let got = after(&[("s", &[1.0, 2.0, 3.0, 4.0])], &[], &|g| {
        let s = state(g, "s", 4);
        g.assign(s, s.reshape([2, 2]).transpose(0, 1).reshape([4]));
        vec![]
    });
    assert_eq!(got, [[1.0, 3.0, 2.0, 4.0]]);
}

#[test]
fn one_value_for_two_states_and_an_output() {
    let states: [(&str, &[f32]); 3] = [("a", &[1.0]), ("b", &[2.0]), ("c", &[3.0])];
    let got = after(&states, &[], &|g| {
        let (a, b, c) = (state(g, "a", 1), state(g, "b", 1), state(g, "c", 1));
        let value = c.exp() * 0.0 + 5.0;
        g.assign(a, value);
        g.assign(b, value);
        vec![]
    });
    assert_eq!(got, [[5.0], [5.0], [3.0]]);
    let got = after(&states, &["new"], &|g| {
        let (a, b, c) = (state(g, "a", 1), state(g, "b", 1), state(g, "c", 1));
        let value = b + c;
        g.assign(a, value);
        vec![("new", value)]
    });
    assert_eq!(got, [[5.0], [2.0], [3.0], [5.0]]);
}

#[test]
fn a_closed_gate_changes_nothing() {
    for (bad, want) in [(0.0, [[2.0, 4.0], [4.0, 6.0]]), (f32::NAN, [[1.0, 2.0], [3.0, 4.0]])] {
        let got = after(&[("a", &[1.0, 2.0]), ("b", &[3.0, 4.0]), ("bad", &[bad])], &[], &|g| {
            let (a, b) = (state(g, "a", 2), state(g, "b", 2));
            g.assign(a, a * 2.0);
            g.assign(b, a + b);
            g.gate(state(g, "bad", 1).is_finite().reshape([]));
            vec![]
        });
        assert_eq!(got[..2], want);
    }
}

#[test]
fn a_gate_that_is_a_state_is_read_before_it_changes() {
    let closes = |graph: &Graph| {
        let open = graph.state("open", TensorType::u32([]));
        let s = graph.state("s", TensorType::f32([1]));
        graph.assign(open, open * graph.full_u32([], 0));
        graph.assign(s, s + 1.0);
        graph.gate(open);
    };
    for device in common::devices() {
        let graph = Graph::new();
        closes(&graph);
        let plan = compile(&device, &graph, &[]);
        let store = Store::new(&device);
        let one = Tensor::u32([], vec![1]).expect("a scalar");
        store.set("open", &one).expect("a state");
        store.set("s", &floats(&[1.0])).expect("a state");
        for _ in 0..3 {
            plan.run(&Feed::new().store(&store)).expect("a run");
        }
        let s = store.read_blocking("s").expect("a state");
        assert_eq!(s.floats(), [2.0], "on {device}");
    }
}

#[test]
fn in_place_updates_write_into_the_state() {
    let step = |reads_old: bool, reads_new: bool, transposed: bool| {
        let graph = Graph::new();
        let s = graph.state("s", TensorType::f32([2, 2]));
        let delta = graph.input("delta", TensorType::f32([2, 2]));
        let old = if transposed { s.transpose(0, 1) } else { s };
        let new = graph.apply(AddInPlace, &[old, delta])[0];
        graph.assign(s, new);
        let mut outputs = Vec::new();
        if reads_old {
            outputs.push(("old", s * 1.0));
        }
        if reads_new {
            outputs.push(("new", new));
        }
        let mut count = 0;
        for device in common::devices() {
            let plan = compile(&device, &graph, &outputs);
            count = plan.program().steps.len();
            let store = Store::new(&device);
            let tensor = |v: [f32; 4]| Tensor::f32([2, 2], v.to_vec()).expect("four elements");
            store.set("s", &tensor([1.0, 2.0, 3.0, 4.0])).expect("a state");
            let delta = tensor([10.0; 4]);
            let run = plan.run(&Feed::new().store(&store).input("delta", &delta));
            run.unwrap_or_else(|e| panic!("{e}\n{plan}"));
            let want = if transposed { [11.0, 13.0, 12.0, 14.0] } else { [11.0, 12.0, 13.0, 14.0] };
            assert_eq!(store.read_blocking("s").expect("a state").floats(), want);
            if reads_old {
                let old = plan.read_blocking("old").expect("an output");
                assert_eq!(old.floats(), [1.0, 2.0, 3.0, 4.0]);
            }
            if reads_new {
                let new = plan.read_blocking("new").expect("an output");
                assert_eq!(new.floats(), want);
            }
        }
        count
    };
    // Alone, the update is the only step: no copy before it and none after it.
    assert_eq!(step(false, false, false), 1);
    assert!(step(true, false, false) <= 4);
    assert!(step(false, true, false) <= 3);
    assert!(step(false, false, true) <= 4);
    assert!(step(true, true, true) <= 5);
}

#[test]
fn one_result_of_an_update_is_enough() {
    // Each result is made from the old values of all.
    let (values, gradient) = ([1.0, -2.0, 0.5, 3.0], [0.5, 1.5, -1.0, 2.0]);
    for device in common::devices() {
        let read = |picked: &[usize]| {
            let graph = Graph::new();
            let x = |name| graph.input(name, TensorType::f32([4]));
            let one = graph.full([], 1.0);
            let (ok, progress) = (graph.full_u32([], 1), graph.input("progress", TensorType::u32([2])));
            let controls = Controls { lr: one * 0.1, norm_sq: one, ok, progress };
            let common = Common { max_norm: 0.0, lr_factor: 1.0, weight_decay: 0.0 };
            let adam = Adam { common, decoupled: true, beta1: 0.9, beta2: 0.99, eps: 1e-3 };
            let mut all = adam.step(x("param"), [x("mean"), x("squares")], x("gradient"), &controls);
            all.push(Tally::count(progress, one, one, ok)[1].to_f32());
            let names = ["param", "mean", "squares", "report"];
            let outputs: Vec<(&str, Var<'_>)> = picked.iter().map(|i| (names[*i], all[*i])).collect();
            let plan = compile(&device, &graph, &outputs);
            let (values, gradient) = (floats(&values), floats(&gradient));
            let squares = floats(&[0.25; 4]);
            let progress = Tensor::u32([2], vec![7, 3]).expect("two numbers");
            let fed = [("param", &values), ("mean", &gradient), ("squares", &squares), ("gradient", &gradient)];
            let known = |name: &str| {
                plan.program().buffers.iter().any(|b| matches!(&b.origin, Origin::Input(n) if **n == *name))
            };
            let feed = fed.into_iter().chain([("progress", &progress)]).filter(|(name, _)| known(name));
            plan.run(&feed.fold(Feed::new(), |feed, (name, tensor)| feed.input(name, tensor))).expect("a run");
            picked.iter().map(|i| plan.read_blocking(names[*i]).expect("a result")).collect::<Vec<Tensor>>()
        };
        let together = read(&[0, 1, 2, 3]);
        assert_eq!(together[3].floats()[2..], [1.0, 8.0, 3.0], "{device}");
        for (i, want) in together.iter().enumerate() {
            assert_eq!(read(&[i])[0], *want, "result {i} on {device}");
        }
    }
}

#[test]
fn a_value_nobody_else_needs_is_computed_into_the_state() {
    let graph = Graph::new();
    let s = state(&graph, "s", 4);
    graph.assign(s, graph.input("x", TensorType::f32([4])).exp());
    let program = Program::build(&graph, &[], Options::default()).expect("a plan");
    assert_eq!(program.steps.len(), 1, "{program}");
}

/// The value lies in a buffer that holds more.
#[test]
fn a_state_takes_a_part_of_what_is_computed() {
    for start in [0, 64] {
        let x: Vec<f32> = (0..128).map(|i| i as f32).collect();
        let got = after(&[("s", &[1.0, 2.0]), ("x", &x)], &["rest"], &|g| {
            let all = state(g, "x", 128) * 2.0;
            g.assign(state(g, "s", 2), all.slice(0, start, 2));
            vec![("rest", all.slice(0, 2, 126).sum(0))]
        });
        assert_eq!(got[0], [2.0 * start as f32, 2.0 * start as f32 + 2.0]);
        assert_eq!((&got[1], &got[2]), (&x, &vec![127.0 * 128.0 - 2.0]));
    }
}

/// An update in place that waits until the old value has been read needs no copy of the state.
#[test]
fn updates_wait_for_readers_of_the_old_value() {
    let graph = Graph::new();
    let (s, row) = (state(&graph, "s", 4), state(&graph, "row", 1));
    let new = s.reshape([4, 1]).write_rows(row.reshape([1, 1]), graph.full_u32([], 2)).reshape([4]);
    graph.assign(s, new);
    let old = s * 1.0;
    let program = Program::build(&graph, &[("old", old)], Options::default()).expect("a plan");
    // The place, the old value, the update.
    assert_eq!(program.steps.len(), 3, "{program}");
}

/// It cannot wait where what it needs changes, or where its own result is needed.
#[test]
fn updates_that_cannot_wait_are_made_at_once() {
    let states: [(&str, &[f32]); 2] = [("s", &[1.0, 2.0, 3.0]), ("row", &[7.0])];
    let got = after(&states, &["old"], &|g| {
        let (s, row) = (state(g, "s", 3), state(g, "row", 1));
        let new = s.reshape([3, 1]).write_rows(row.reshape([1, 1]), g.full_u32([], 1)).reshape([3]);
        g.assign(row, row * 2.0);
        g.assign(s, new);
        vec![("old", s * 10.0)]
    });
    assert_eq!(got, [vec![1.0, 7.0, 3.0], vec![14.0], vec![10.0, 20.0, 30.0]]);
    let got = after(&states, &["sum", "old"], &|g| {
        let (s, row) = (state(g, "s", 3), state(g, "row", 1));
        let new = s.reshape([3, 1]).write_rows(row.reshape([1, 1]), g.full_u32([], 1)).reshape([3]);
        g.assign(s, new);
        vec![("sum", new.sum(0)), ("old", s * 10.0)]
    });
    assert_eq!(got, [vec![1.0, 7.0, 3.0], vec![7.0], vec![11.0], vec![10.0, 20.0, 30.0]]);
}
