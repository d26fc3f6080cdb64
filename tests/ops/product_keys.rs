//! The best pairs are those of a stable top-k of all pairs, and weighted sums of rows are those of their composition.

use crate::common;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::nn::ShardedType;
use wgrad::ops::select::top_k::TopK;
use wgrad::types::DType;
use wgrad::{Device, Error, Feed, GpuOptions, Graph, Tensor, TensorType, Var};

/// The CPU executor, the GPU, and the GPU with the kernels meant for hardware.
fn devices() -> Vec<Device> {
    let hardware = common::fresh(GpuOptions { hardware_kernels: true, ..common::options() });
    common::devices().into_iter().chain(hardware).collect()
}

/// Sums and grid numbers of the `k` first pairs of all, by descending sum, then rows of the grid of sorted lists.
fn brute(x: &[f32], y: &[f32], k: usize) -> Vec<(f32, u32)> {
    let sorted = |s: &[f32]| {
        let mut order: Vec<usize> = (0..s.len()).collect();
        order.sort_by(|a, b| s[*b].total_cmp(&s[*a]));
        order
    };
    // -0 and 0 are equal for the library; the rows here hold no -0.
    let (xs, ys) = (sorted(x), sorted(y));
    let mut all: Vec<(f32, u32)> = Vec::new();
    for i in &xs {
        all.extend(ys.iter().map(|j| (x[*i] + y[*j], (i * y.len() + j) as u32)));
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.truncate(k);
    all
}

/// Rows of `n` scores that are hard to order.
fn adversarial(n: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f32>> {
    let mut pick = |from: &[f32]| -> Vec<f32> { (0..n).map(|_| from[rng.random_range(0..from.len())]).collect() };
    vec![
        vec![0.75; n],
        vec![f32::NEG_INFINITY; n],
        pick(&[0.0, 1.0, 2.0]),
        pick(&[1024.0, 1.0, 1.0 - 2f32.powi(-24), 1.0 + 2f32.powi(-23)]),
        pick(&[f32::NEG_INFINITY, 0.0, -5.0]),
        pick(&[3e38, -3e38, 1e38]),
        (0..n).map(|i| i as f32).collect(),
        (0..n).map(|i| 0.0 - (i / 3) as f32).collect(),
        (0..n).map(|_| (rng.random::<f32>() * 4.0).floor()).collect(),
        (0..n).map(|_| rng.random::<f32>() - 0.5).collect(),
        (0..n).map(|_| (rng.random::<f32>() - 0.5) * 1e4).collect(),
    ]
}

#[test]
fn pairs_are_those_of_all_pairs() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for device in devices() {
        for (m, n, ks) in [
            (1, 1, &[1][..]),
            (1, 7, &[1, 7]),
            (5, 4, &[1, 3, 4, 20]),
            (16, 16, &[1, 8, 16, 200]),
            (128, 128, &[1, 32, 128]),
            (300, 260, &[64, 255, 256, 340]),
            (600, 500, &[400]),
        ] {
            let (xs, ys) = (adversarial(m, &mut rng), adversarial(n, &mut rng));
            let pairs: Vec<(&Vec<f32>, &Vec<f32>)> = xs.iter().flat_map(|x| ys.iter().map(move |y| (x, y))).collect();
            let rows = pairs.len();
            let tensor =
                |rows: Vec<&Vec<f32>>, n| Tensor::f32([pairs.len(), n], rows.into_iter().flatten().copied().collect());
            let x = tensor(pairs.iter().map(|p| p.0).collect(), m).unwrap();
            let y = tensor(pairs.iter().map(|p| p.1).collect(), n).unwrap();
            for &k in ks {
                let graph = Graph::new();
                let [a, b] = [("x", m), ("y", n)].map(|(name, n)| graph.input(name, TensorType::f32([rows, n])));
                let top = a.product_top_k(b, k);
                let plan = device.compile_blocking(&graph, &[("v", top.values), ("i", top.indices)]).unwrap();
                let feed = Feed::new().input("x", &x).input("y", &y);
                plan.run(&feed).unwrap();
                let [values, indices] = ["v", "i"].map(|name| plan.read_blocking(name).unwrap());
                plan.run(&feed).unwrap();
                let again = ["v", "i"].map(|name| plan.read_blocking(name).unwrap());
                assert!([&values, &indices] == [&again[0], &again[1]], "two runs give the same bits");
                for (row, (x, y)) in pairs.iter().enumerate() {
                    let want = brute(x, y, k);
                    let at = |i: usize| (values.floats()[row * k + i], indices.ints()[row * k + i]);
                    let got: Vec<(f32, u32)> = (0..k).map(at).collect();
                    assert_eq!(got, want, "row {row} of [{m}, {n}], k {k} on {device}");
                }
            }
        }
    }
}

#[test]
fn nan_stays_within_the_table() {
    let k = 9;
    for device in devices() {
        let graph = Graph::new();
        let [x, y] = ["x", "y"].map(|name| graph.input(name, TensorType::f32([4, 6])));
        let top = x.product_top_k(y, k);
        let plan = device.compile_blocking(&graph, &[("i", top.indices)]).unwrap();
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let rows = [[nan; 6], [inf, -inf, nan, 0.0, 1.0, inf], [-inf; 6], [nan, -inf, -inf, inf, 2.0, 3.0]].concat();
        let turned: Vec<f32> = rows.iter().rev().copied().collect();
        let [a, b] = [rows, turned].map(|rows| Tensor::f32([4, 6], rows).unwrap());
        plan.run(&Feed::new().input("x", &a).input("y", &b)).unwrap();
        for row in plan.read_blocking("i").unwrap().ints().chunks(k) {
            let mut seen = row.to_vec();
            seen.sort_unstable();
            seen.dedup();
            assert!(seen.len() == k && seen.iter().all(|i| *i < 36), "{row:?} on {device}");
        }
    }
}

/// Gradient of the sums against that of all sums and one top-k.
#[test]
fn gradients_are_those_of_all_pairs() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for device in devices() {
        for (m, n, k) in [(40, 50, 33), (500, 400, 390)] {
            let graph = Graph::new();
            let [x, y] = [("x", m), ("y", n)].map(|(name, n)| graph.input(name, TensorType::f32([3, n])));
            let all = (x.reshape([3, m, 1]) + y.reshape([3, 1, n])).reshape([3, m * n]).top_k(k);
            fn loss(t: TopK<'_>) -> Var<'_> {
                (t.values * t.values.sin()).sum_all()
            }
            fn grads<'g>(graph: &'g Graph, loss: Var<'g>, wrt: &[Var<'g>]) -> Vec<Var<'g>> {
                graph.grad(loss, wrt).iter().filter_map(|g| g.dense()).collect()
            }
            let pairs = x.product_top_k(y, k);
            let (got, want) = (grads(&graph, loss(pairs), &[x, y]), grads(&graph, loss(all), &[x, y]));
            let outputs = [("0", got[0]), ("1", want[0]), ("2", got[1]), ("3", want[1])];
            let plan = device.compile_blocking(&graph, &outputs).unwrap();
            let mut random = |n: usize| Tensor::f32([3, n], (0..3 * n).map(|_| rng.random()).collect()).unwrap();
            plan.run(&Feed::new().input("x", &random(m)).input("y", &random(n))).unwrap();
            for pair in [["0", "1"], ["2", "3"]] {
                let [got, want] = pair.map(|name| plan.read_blocking(name).unwrap());
                for (a, b) in got.floats().iter().zip(want.floats()) {
                    assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{a} {b} on {device}");
                }
            }
        }
    }
}

#[test]
fn refusals_are_located() {
    let refused = |f: &dyn for<'g> Fn(&'g Graph) -> Var<'g>| {
        let graph = Graph::new();
        f(&graph);
        let error = graph.error().expect("refused");
        assert!(error.to_string().contains("product_keys.rs"), "{error}");
        error
    };
    refused(&|g| g.input("x", TensorType::f32([2, 3])).product_top_k(g.input("y", TensorType::f32([2, 3])), 0).values);
    refused(&|g| g.input("x", TensorType::f32([2, 3])).product_top_k(g.input("y", TensorType::f32([2, 3])), 10).values);
    refused(&|g| g.input("x", TensorType::f32([2, 3])).product_top_k(g.input("y", TensorType::f32([3, 3])), 2).values);
    let many = refused(&|g| {
        let x = g.input("x", TensorType::f32([1, 70_000]));
        x.product_top_k(x, 2).values
    });
    assert!(many.to_string().contains("70000 x 70000"), "{many}");
    let dtype = refused(&|g| {
        let w = g.input("w", TensorType::f32([3, 2]));
        g.input("t", TensorType::f32([5, 2])).weighted_gather(w, w)
    });
    assert!(matches!(dtype, Error::Dtype { .. }));
    refused(&|g| {
        let (i, w) = (g.input("i", TensorType::u32([3, 2])), g.input("w", TensorType::f32([3, 1])));
        g.input("t", TensorType::f32([5, 2])).weighted_gather(i, w)
    });
    refused(&|g| {
        let (i, w) = (g.input("i", TensorType::u32([3, 2])), g.input("w", TensorType::f32([3, 2])));
        g.input("t", TensorType::f32([5, 2])).weighted_gather_masked(i, w, g.input("m", TensorType::u32([4])))
    });
}

/// Values and gradients from a table cut into pieces are those of the whole.
#[test]
fn pieces_are_the_whole() {
    let (rows, width, n, k) = (23, 7, 9, 5);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let values =
        |count: usize, rng: &mut ChaCha8Rng| -> Vec<f32> { (0..count).map(|_| rng.random::<f32>() - 0.5).collect() };
    let table = values(rows * width, &mut rng);
    let weights = Tensor::f32([n, k], values(n * k, &mut rng)).unwrap();
    let indices = Tensor::u32([n, k], (0..n * k).map(|_| rng.random_range(0..rows as u32 + 2)).collect()).unwrap();
    for device in devices() {
        for per in [4, 11, 23] {
            let graph = Graph::new();
            let ty = ShardedType::with_limit(DType::F32, rows, width, (per * width * 4) as u64).unwrap();
            let cut = ty.input(&graph, "t");
            let (whole, w) = (cut.shards()[0].concat(&cut.shards()[1..], 0), graph.input("w", weights.ty()));
            let i = graph.input("i", indices.ty());
            fn parts<'g>(graph: &'g Graph, y: Var<'g>, wrt: &[Var<'g>]) -> Vec<Var<'g>> {
                let grads = graph.grad((y * y.sin()).sum_all(), wrt);
                let mut grads: Vec<Var<'g>> = grads.iter().filter_map(|g| g.dense()).collect();
                let w = grads.pop().unwrap();
                vec![y, w, grads[0].concat(&grads[1..], 0)]
            }
            let mut wrt = cut.shards().to_vec();
            wrt.push(w);
            let trained = graph.iota([rows], 0).lt(20);
            let got = [
                parts(&graph, cut.weighted_gather(i, w), &wrt),
                parts(&graph, cut.weighted_gather_masked(i, w, trained), &wrt),
            ];
            let want = [
                parts(&graph, whole.weighted_gather(i, w), &[whole, w]),
                parts(&graph, whole.weighted_gather_masked(i, w, trained), &[whole, w]),
            ];
            let names: Vec<String> = (0..12).map(|i| i.to_string()).collect();
            let vars = got.into_iter().chain(want).flatten();
            let outputs: Vec<(&str, Var<'_>)> = names.iter().map(String::as_str).zip(vars).collect();
            let plan = device.compile_blocking(&graph, &outputs).unwrap();
            let mut feed = Feed::new().input("w", &weights).input("i", &indices);
            let pieces: Vec<(String, Tensor)> = (ty.named("t").zip(table.chunks(per * width)))
                .map(|((name, ty), data)| (name, Tensor::f32(ty.shape, data.to_vec()).unwrap()))
                .collect();
            for (name, piece) in &pieces {
                feed = feed.input(name, piece);
            }
            plan.run(&feed).unwrap();
            for i in 0..6 {
                let [got, want] = [i, i + 6].map(|i| plan.read_blocking(&names[i]).unwrap());
                assert_eq!(got.shape(), want.shape());
                for (a, b) in got.floats().iter().zip(want.floats()) {
                    assert!((a - b).abs() <= 1e-5, "{a} {b}: output {i}, {per} rows a piece on {device}");
                }
            }
        }
    }
}
