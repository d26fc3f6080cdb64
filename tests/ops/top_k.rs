//! Top-k equals a full sort, bit for bit, on rows that are hard to order.

use crate::common;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;
use wgrad::{Device, Feed, GpuOptions, Graph, Tensor, TensorType, Var};

/// The first `k` in order: masked entries last, before them NaN, before them numbers by descending value; ties by index.
fn order(row: &[f32], mask: Option<&[u32]>, k: usize) -> Vec<u32> {
    let class = |i: u32| match mask {
        Some(m) if m[i as usize] == 0 => 2,
        _ => u32::from(row[i as usize].is_nan()),
    };
    let compare = |a: &u32, b: &u32| {
        let by_value = || match class(*a) {
            0 => row[*b as usize].partial_cmp(&row[*a as usize]).unwrap_or(Ordering::Equal),
            _ => Ordering::Equal,
        };
        class(*a).cmp(&class(*b)).then_with(by_value).then(a.cmp(b))
    };
    let mut all: Vec<u32> = (0..row.len() as u32).collect();
    // Only what is compared is sorted: rows are long.
    if k < all.len() {
        all.select_nth_unstable_by(k, compare);
        all.truncate(k);
    }
    all.sort_by(compare);
    all
}

/// Values and indices of one top-k of `[rows, n]`.
fn top_k(device: &Device, x: &[f32], mask: Option<&[u32]>, n: usize, k: usize) -> (Vec<f32>, Vec<u32>) {
    let shape = [x.len() / n, n];
    let graph = Graph::new();
    let input = graph.input("x", TensorType::f32(shape));
    let top = match mask {
        Some(_) => input.top_k_masked(k, graph.input("mask", TensorType::u32(shape))),
        None => input.top_k(k),
    };
    let plan = device.compile_blocking(&graph, &[("values", top.values), ("indices", top.indices)]).unwrap();
    let (x, mask) = (Tensor::f32(shape, x.to_vec()).unwrap(), mask.map(|m| Tensor::u32(shape, m.to_vec()).unwrap()));
    let mut feed = Feed::new().input("x", &x);
    if let Some(mask) = &mask {
        feed = feed.input("mask", mask);
    }
    plan.run(&feed).unwrap();
    let read = |name| plan.read_blocking(name).unwrap();
    let first = (read("values"), read("indices"));
    plan.run(&feed).unwrap();
    let bits = |t: &Tensor| t.floats().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&first.0), bits(&read("values")), "two runs give the same bits");
    assert_eq!(first.1, read("indices"));
    (first.0.floats().to_vec(), first.1.ints().to_vec())
}

fn check(device: &Device, x: &[f32], mask: Option<&[u32]>, n: usize, k: usize) {
    let (values, indices) = top_k(device, x, mask, n, k);
    for (r, row) in x.chunks(n).enumerate() {
        let mask = mask.map(|m| &m[r * n..][..n]);
        let got = &indices[r * k..][..k];
        assert_eq!(got, order(row, mask, k), "row {r} of {n}, k {k} on {device}");
        for (i, value) in got.iter().zip(&values[r * k..][..k]) {
            let i = *i as usize;
            let want = if mask.is_some_and(|m| m[i] == 0) { f32::MIN } else { row[i] };
            let same = value.to_bits() == want.to_bits() || (value.is_nan() && want.is_nan());
            assert!(same, "row {r}: {value} at {i}, not {want} on {device}");
        }
    }
}

/// Rows of `n` entries that are hard to order, one of each kind.
fn adversarial(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let nan = |payload: u32| f32::from_bits(0x7f80_0001 | payload);
    let mut pick = |from: &[f32]| -> Vec<f32> { (0..n).map(|_| from[rng.random_range(0..from.len())]).collect() };
    let one =
        |rest: f32, value: f32| -> Vec<f32> { (0..n).map(|i| if i == n * 2 / 3 { value } else { rest }).collect() };
    let denormal = |i: u32| f32::from_bits(i + 1);
    let rows = [
        vec![1.5; n],
        vec![f32::NAN; n],
        vec![-0.0; n],
        one(f32::NEG_INFINITY, -7.0),
        one(f32::MIN, -3e38),
        one(f32::NAN, f32::NEG_INFINITY),
        one(f32::INFINITY, f32::NAN),
        pick(&[3e38, -3e38]),
        pick(&[f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY]),
        pick(&[0.0, -0.0]),
        pick(&[0.0, -0.0, denormal(0), -denormal(0), f32::MIN_POSITIVE]),
        pick(&[nan(0), -nan(77), f32::NAN, -f32::NAN, 1.0, -1.0]),
        (0..n).map(|i| denormal(i as u32 / 2)).collect(),
        (0..n).map(|i| -denormal(i as u32)).collect(),
        (0..n).map(|i| i as f32).collect(),
        (0..n).map(|i| -(i as f32)).collect(),
        // Equal but for the lowest bits, and any bits at all.
        (0..n).map(|_| f32::from_bits(1.0f32.to_bits() + rng.random_range(0..4))).collect(),
        (0..n).map(|_| f32::from_bits(rng.random())).collect(),
        (0..n).map(|_| rng.random::<f32>() - 0.5).collect(),
    ];
    rows.concat()
}

#[test]
fn equals_a_full_sort() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    // The variants for hardware too.
    let hardware = common::fresh(GpuOptions { hardware_kernels: true, ..common::options() });
    for device in common::devices().into_iter().chain(hardware) {
        for (n, ks) in [
            (1, &[1][..]),
            (7, &[1, 3, 7]),
            (256, &[1, 100, 256]),
            (300, &[1, 256, 257, 299, 300]),
            (1_024, &[700, 1_023]),
            (3_000, &[2, 1_024, 1_025, 2_999, 3_000]),
            (16_500, &[1, 200, 5_000, 16_499, 16_500]),
        ] {
            let x = adversarial(n, &mut rng);
            let mask: Vec<u32> = (0..x.len()).map(|i| u32::from(i / n % 5 != 4 && rng.random::<f32>() < 0.4)).collect();
            for &k in ks {
                check(&device, &x, None, n, k);
                check(&device, &x, Some(&mask), n, k);
            }
            check(&device, &x, Some(&vec![0; x.len()]), n, ks[0]);
        }
        // Rows enough that each gets one workgroup, however long.
        let x: Vec<f32> = (0..4).flat_map(|_| adversarial(17_000, &mut rng)).collect();
        check(&device, &x, None, 17_000, 33);
    }
}

#[test]
fn a_million_rows() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let x: Vec<f32> = (0..8_000_000).map(|_| rng.random::<f32>()).collect();
    for device in common::devices() {
        check(&device, &x, None, 8, 2);
        check(&device, &x[..4_000_000], None, 4, 4);
    }
}

#[test]
fn four_million_entries() {
    const N: usize = 1 << 22;
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    // Many ties, also at the bound.
    let x: Vec<f32> = (0..N).map(|_| (rng.random::<f32>() * 1e5).floor()).collect();
    for device in common::devices() {
        check(&device, &x, None, N, 5_000);
        check(&device, &vec![2.0; N], None, N, 40);
        check(&device, &x[..N / 4], None, N / 16, 100);
        // So many that rows are sorted whole.
        check(&device, &x[..N / 4], None, N / 16, N / 17);
        check(&device, &x[..N / 4], None, N / 4, N / 4);
        check(&device, &x[..300 << 10], None, 300, 299);
    }
}

#[test]
fn argmax_is_the_first_of_top_k() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for device in common::devices() {
        for n in [1, 9, 300, 70_000] {
            let x = adversarial(n, &mut rng);
            let shape = [x.len() / n, n];
            let graph = Graph::new();
            let input = graph.input("x", TensorType::f32(shape));
            let (along, across) = (input.argmax(1), input.transpose(0, 1).argmax(0));
            let plan = device.compile_blocking(&graph, &[("along", along), ("across", across)]).unwrap();
            plan.run(&Feed::new().input("x", &Tensor::f32(shape, x.clone()).unwrap())).unwrap();
            let want: Vec<u32> = x.chunks(n).map(|row| order(row, None, 1)[0]).collect();
            for name in ["along", "across"] {
                assert_eq!(plan.read_blocking(name).unwrap().ints(), want, "{name} {n} on {device}");
            }
        }
    }
}

#[test]
fn wrong_uses_are_refused() {
    let refused = |says: &str, build: &dyn Fn(&Graph)| {
        let graph = Graph::new();
        build(&graph);
        let error = graph.error().expect("a wrong use is refused").to_string();
        assert!(error.contains(says), "{error}");
    };
    fn x(g: &Graph) -> Var<'_> {
        g.full([3, 5], 0.0)
    }
    refused("k = 0; expected 1 to 5", &|g| {
        x(g).top_k(0);
    });
    refused("k = 6; expected 1 to 5", &|g| {
        x(g).top_k(6);
    });
    refused("expected 1 to 0", &|g| {
        g.full([3, 0], 0.0).top_k(1);
    });
    refused("dimension", &|g| {
        g.full([], 0.0).top_k(1);
    });
    refused("to_f32", &|g| {
        g.full_u32([3, 5], 0).top_k(1);
    });
    refused("mask", &|g| {
        x(g).top_k_masked(1, g.full_u32([5], 1));
    });
    refused("mask", &|g| {
        x(g).top_k_masked(1, g.full([3, 5], 1.0));
    });
    refused("axis 2", &|g| {
        x(g).take_along(g.full_u32([3, 5], 0), 2);
    });
    refused("axis -3", &|g| {
        x(g).take_along(g.full_u32([3, 5], 0), -3);
    });
    refused("but for axis 1", &|g| {
        x(g).take_along(g.full_u32([2, 5], 0), 1);
    });
    refused("to_u32", &|g| {
        x(g).take_along(g.full([3, 5], 0.0), 1);
    });
    refused("one index for each", &|g| {
        x(g).scatter_along(g.full_u32([3, 4], 0), 1, 7);
    });
    refused("over the limit", &|g| {
        x(g).scatter_along(g.full_u32([3, 5], 0), 1, 1 << 40);
    });
}

fn derivative<'g>(y: Var<'g>, x: Var<'g>) -> Var<'g> {
    match y.graph().grad(y, &[x]).remove(0).dense() {
        Some(gradient) => gradient,
        None => panic!("depends on x"),
    }
}

#[test]
fn second_derivatives_pass_through_the_choice() {
    let device = Device::cpu_f64();
    let graph = Graph::new();
    let ty = TensorType::f32([2, 5]);
    let (x, v) = (graph.input("x", ty.clone()), graph.input("v", ty));
    let top = x.top_k(3).values;
    let gradient = derivative((top * top * top).sum_all(), x);
    let hessian = derivative((gradient * v).sum_all(), x);
    let plan = device.compile_blocking(&graph, &[("hv", hessian)]).unwrap_or_else(|e| panic!("{e}"));
    let at = [0.5, -1.0, 2.0, 1.5, -0.25, -3.0, 4.0, 0.75, -2.0, 1.25];
    let direction = [1.0, 2.0, -0.5, 3.0, 0.25, -1.0, 0.5, 2.0, 1.5, -2.0];
    let feed = Feed::new().input_f64("x", &at).input_f64("v", &direction);
    plan.run(&feed).unwrap_or_else(|e| panic!("{e}"));
    // d2/dx2 of x^3 where x was chosen, else 0.
    let chosen = [true, false, true, true, false, false, true, true, false, true];
    let expected: Vec<f64> = (0..10).map(|i| if chosen[i] { 6.0 * at[i] * direction[i] } else { 0.0 }).collect();
    let found = plan.read_f64("hv").unwrap_or_else(|e| panic!("{e}"));
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}, expected {expected:?}");
}
