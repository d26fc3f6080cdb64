//! Weighted sums of rows of tables far larger than a cache, and their gradients: the CPU copies such rows together first.

use crate::common;
use common::modules::{noise, run};
use wgrad::nn::{Init, Params, QuantTableType, Quantization};
use wgrad::{Feed, Graph, Result, Store, Tensor};

const ROWS: usize = 1 << 16;
const WIDTH: usize = 96;
const SUMS: usize = 300;
const PER: usize = 131;

fn indices() -> Vec<u32> {
    let draw = |i: u32| i.wrapping_mul(2_654_435_761) >> 11;
    // Some rows do not exist, some are hit twice in a sum.
    let fold = |i: u32| if i.is_multiple_of(97) { i % 5 } else { i % (ROWS as u32 + 300) };
    (0..(SUMS * PER) as u32).map(draw).map(fold).collect()
}

#[test]
fn sums_of_far_rows() -> Result<()> {
    let indices = indices();
    let (weights, mut all) = (noise(&[SUMS, PER], 1), Vec::new());
    let ids = Tensor::u32([SUMS, PER], indices.clone())?;
    let table = noise(&[ROWS, WIDTH], 2);
    for device in common::devices() {
        // Whole, and in pieces.
        for limit in [128 << 20, 3 << 22] {
            let mut params = Params::new(0);
            params.add("table", [ROWS, WIDTH], Init::Zeros);
            params.set("table", table.clone())?;
            params.limit(limit);
            let once = || {
                run(&device, &params, &[("ids", &ids), ("weights", &weights)], |p, x| {
                    let y = p.sharded("table").weighted_gather(x[0], x[1]);
                    let grads = p.graph().grad((y * y).sum_all(), &[x[1]]);
                    std::iter::once(y).chain(grads[0].dense()).collect()
                })
            };
            let got = once();
            assert_eq!(got, once(), "{device}: repeatable");
            if device.as_gpu().is_none() {
                for threads in [1, 2, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                    assert_eq!(got, pool.install(once), "{threads} threads");
                }
            }
            all.push(got);
        }
        let [.., whole, cut] = &all[..] else { unreachable!() };
        assert_eq!(whole[1].shape(), cut[1].shape());
        let row = |hit: usize| table.floats().chunks(WIDTH).nth(indices[hit] as usize);
        for sum in 0..SUMS {
            let mut want = [0.0; WIDTH];
            for hit in sum * PER..(sum + 1) * PER {
                let weight = f64::from(weights.floats()[hit]);
                let add = |(w, v): (&mut f64, &f32)| *w += weight * f64::from(*v);
                want.iter_mut().zip(row(hit).unwrap_or(&[])).for_each(add);
            }
            for got in [whole, cut] {
                let close =
                    |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 2e-3, "{device}, sum {sum}: {a} for {b}");
                got[0].floats()[sum * WIDTH..].iter().zip(want).for_each(|(a, b)| close(*a, b));
                for hit in sum * PER..(sum + 1) * PER {
                    let product: f64 =
                        row(hit).map_or(0.0, |r| r.iter().zip(want).map(|(v, y)| f64::from(*v) * 2.0 * y).sum());
                    close(got[1].floats()[hit], product);
                }
            }
        }
    }
    // The CPU adds up in the same order whatever the pieces.
    assert_eq!(all[0], all[1]);
    Ok(())
}

/// From rounded tables what their rounded values give.
#[test]
fn sums_of_far_rounded_rows() -> Result<()> {
    let (table, weights, vectors) = (noise(&[ROWS, WIDTH], 3), noise(&[SUMS, PER], 4), noise(&[SUMS, WIDTH], 5));
    let ids = Tensor::u32([SUMS, PER], indices())?;
    for how in [Quantization::F16, Quantization::Int8] {
        let ty = QuantTableType::new(how, ROWS, WIDTH)?;
        let rounded = ty.dequantize(&ty.quantize(&table)?)?;
        for device in common::devices() {
            let store = Store::new(&device);
            ty.set(&store, "table", |rows| {
                Tensor::f32([rows.len(), WIDTH], table.floats()[rows.start * WIDTH..rows.end * WIDTH].to_vec())
            })?;
            let graph = Graph::new();
            let packed = ty.state(&graph, "table");
            let inputs = [("whole", &rounded), ("ids", &ids), ("weights", &weights), ("vectors", &vectors)];
            let [whole, i, w, v] = inputs.map(|(name, t)| graph.input(name, t.ty()));
            let outputs = [
                ("sums", packed.weighted_gather(i, w)),
                ("same sums", whole.weighted_gather(i, w)),
                ("products", packed.gather_dot(i, v)),
                ("same products", whole.gather_dot(i, v)),
            ];
            let plan = device.compile_blocking(&graph, &outputs)?;
            plan.run(&inputs.iter().fold(Feed::new().store(&store), |feed, (name, t)| feed.input(name, t)))?;
            for name in ["sums", "products"] {
                let [got, want] = [plan.read_blocking(name)?, plan.read_blocking(&format!("same {name}"))?];
                for (a, b) in got.floats().iter().zip(want.floats()) {
                    assert!((a - b).abs() < 2e-3, "{device}, {how:?}, {name}: {a} for {b}");
                }
            }
        }
    }
    Ok(())
}
