//! Tables in pieces compute what whole tables do.

use crate::common;
use wgrad::graph::Gradient;
use wgrad::nn::{Sharded, ShardedType};
use wgrad::types::DType;
use wgrad::{Device, Error, Feed, Graph, Store, Tensor, TensorType, Var};

fn wave(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor::f32(shape, (0..n).map(|i| (i as f32 * 12.9898).sin()).collect()).expect("a tensor")
}

/// Rows `from` of the table `wave([.., width])`.
fn piece(from: std::ops::Range<usize>, width: usize) -> wgrad::Result<Tensor> {
    let data = (from.start * width..from.end * width).map(|i| (i as f32 * 12.9898).sin()).collect();
    Tensor::f32([from.len(), width], data)
}

fn ids(values: &[u32]) -> Tensor {
    Tensor::u32([values.len()], values.to_vec()).expect("a tensor")
}

#[test]
fn cut() {
    let shapes = |ty: &ShardedType| ty.shards().map(|t| t.shape[0]).collect::<Vec<_>>();
    let table = |rows, width, bytes| ShardedType::with_limit(DType::F32, rows, width, bytes).expect("fits");
    assert_eq!(shapes(&table(10, 2, 32)), [4, 4, 2]);
    assert_eq!(shapes(&table(8, 2, 32)), [4, 4]);
    assert_eq!(shapes(&table(3, 2, 1 << 20)), [3]);
    assert_eq!(shapes(&table(0, 2, 32)), [0]);
    assert_eq!(shapes(&table(7, 0, 32)), [7]);
    assert_eq!(shapes(&ShardedType::new(DType::F32, 1_000_000, 512).expect("fits")), {
        let mut all = vec![65_536; 15];
        all.push(1_000_000 - 15 * 65_536);
        all
    });
    assert!(matches!(ShardedType::with_limit(DType::F32, 2, 9, 32), Err(Error::Limit { .. })));
    assert!(ShardedType::new(DType::F32, 1 << 33, 1).is_err());
}

/// Rows, scores, sums, and the gradients of rows and scores, of a table whole or cut.
fn uses<'g>(graph: &'g Graph, table: Option<&ShardedType>, rows: usize, width: usize) -> Vec<Var<'g>> {
    let whole = ShardedType::new(DType::F32, rows, width).expect("fits");
    let ty = table.unwrap_or(&whole);
    let t = ty.input(graph, if table.is_some() { "cut" } else { "whole" });
    let indices = graph.input("ids", TensorType::u32([9]));
    let queries = graph.input("queries", TensorType::f32([3, width]));
    let found = t.gather(indices);
    let scores = t.score(queries);
    let sums = Sharded::scatter_add(ty, found.tanh(), indices);
    let loss = (found.square() * 0.3).sum_all() + scores.tanh().sum_all();
    let mut wrt = t.shards().to_vec();
    wrt.push(queries);
    let grads: Vec<Var<'g>> = graph.grad(loss, &wrt).iter().filter_map(Gradient::dense).collect();
    let (query_grad, table_grads) = grads.split_last().expect("a gradient of the queries");
    let joined = |v: &[Var<'g>]| v[0].concat(&v[1..], 0);
    vec![found, scores, joined(sums.shards()), joined(table_grads), *query_grad]
}

#[test]
fn cut_is_whole() {
    let (rows, width) = (23, 5);
    let indices = ids(&[3, 22, 0, 3, 8, 7, 23, u32::MAX, 15]);
    for device in common::devices() {
        for per in [1, 4, 8, 23] {
            let graph = Graph::new();
            let ty = ShardedType::with_limit(DType::F32, rows, width, per * width as u64 * 4).expect("fits");
            let (cut, whole) = (uses(&graph, Some(&ty), rows, width), uses(&graph, None, rows, width));
            let names: Vec<String> = (0..10).map(|i| i.to_string()).collect();
            let outputs: Vec<(&str, Var<'_>)> =
                names.iter().map(String::as_str).zip(cut.into_iter().chain(whole)).collect();
            let plan = device.compile_blocking(&graph, &outputs).unwrap_or_else(|e| panic!("{e}"));
            let (table, queries) = (wave(&[rows, width]), wave(&[3, width]));
            let mut pieces = Vec::new();
            for (name, t) in ty.named("cut") {
                let first = pieces.len() * per as usize;
                pieces.push((name, piece(first..first + t.shape[0], width).expect("a piece")));
            }
            let mut feed = Feed::new().input("whole.0", &table).input("queries", &queries).input("ids", &indices);
            for (name, t) in &pieces {
                feed = feed.input(name, t);
            }
            plan.run(&feed).unwrap_or_else(|e| panic!("{e}"));
            for i in 0..5 {
                let got = [i, i + 5].map(|i| plan.read_blocking(&names[i]).expect("an output"));
                // Gradients of the queries add the pieces up in another order.
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
                assert_eq!(got[0].shape(), got[1].shape());
                assert!(got[0].floats().iter().zip(got[1].floats()).all(close), "{device}, {per} rows, output {i}");
            }
        }
    }
}

#[test]
fn states_are_set_piece_by_piece() {
    for device in common::devices() {
        let store = Store::new(&device);
        let ty = ShardedType::with_limit(DType::F32, 10, 3, 48).expect("fits");
        ty.set(&store, "table", |rows| piece(rows, 3)).unwrap_or_else(|e| panic!("{e}"));
        let graph = Graph::new();
        let found = ty.state(&graph, "table").gather(graph.input("ids", TensorType::u32([3])));
        let plan = device.compile_blocking(&graph, &[("found", found)]).expect("compiles");
        plan.run(&Feed::new().store(&store).input("ids", &ids(&[9, 0, 4]))).expect("runs");
        let whole = wave(&[10, 3]);
        let want: Vec<f32> = [9, 0, 4].iter().flat_map(|r| whole.floats()[r * 3..r * 3 + 3].to_vec()).collect();
        assert_eq!(plan.read_blocking("found").expect("reads").floats(), want);
        let short = ty.set(&store, "table", |_| piece(0..2, 3));
        assert!(matches!(short, Err(Error::Name { .. })), "two rows where four belong");
    }
}

#[test]
fn refusals_are_located() {
    let ty = ShardedType::with_limit(DType::F32, 10, 3, 48).expect("fits");
    let graph = Graph::new();
    let values = graph.input("v", TensorType::f32([4, 2]));
    Sharded::scatter_add(&ty, values, graph.input("i", TensorType::u32([4])));
    let message = graph.error().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("f32[4, 3]") && message.contains("sharded.rs"), "{message}");
    let graph = Graph::new();
    ty.input(&graph, "t").gather(graph.input("i", TensorType::f32([4])));
    assert!(matches!(graph.error(), Some(Error::Dtype { .. })));
}

/// A million rows, 256 MB: more than one portable binding holds.
#[test]
fn more_than_a_binding() {
    let (rows, width) = (1_000_003, 64);
    let ty = ShardedType::new(DType::F32, rows, width).expect("fits");
    assert_eq!(ty.shards().len(), 2);
    let devices = common::fresh(wgrad::GpuOptions { portable_limits: true, ..common::options() });
    for device in devices.into_iter().chain([Device::cpu()]) {
        let store = Store::new(&device);
        ty.set(&store, "table", |rows| piece(rows, width)).unwrap_or_else(|e| panic!("{e}"));
        let graph = Graph::new();
        let table = ty.state(&graph, "table");
        let found = table.gather(graph.input("ids", TensorType::u32([4])));
        let scores = table.score(graph.input("q", TensorType::f32([1, width])));
        let at = scores.reshape([rows, 1]).gather(graph.input("ids", TensorType::u32([4])));
        let plan = device.compile_blocking(&graph, &[("found", found), ("at", at)]).expect("compiles");
        let at = [0, 524_288, 1_000_002, 524_287];
        let q = wave(&[1, width]);
        plan.run(&Feed::new().store(&store).input("ids", &ids(&at)).input("q", &q)).unwrap_or_else(|e| panic!("{e}"));
        let want: Vec<Tensor> = at.iter().map(|r| piece(*r as usize..*r as usize + 1, width).expect("a row")).collect();
        assert_eq!(
            plan.read_blocking("found").expect("reads").floats(),
            want.iter().flat_map(|t| t.floats().to_vec()).collect::<Vec<_>>()
        );
        let dots = plan.read_blocking("at").expect("reads");
        for (row, got) in want.iter().zip(dots.floats()) {
            let dot: f32 = row.floats().iter().zip(q.floats()).map(|(a, b)| a * b).sum();
            assert!((dot - got).abs() < 1e-3, "{dot} {got}");
        }
    }
}
