//! Quantised tables: rounding is as exact as documented, sums are those of the rounded rows, and plain tensors carry them.

use crate::common;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use wgrad::nn::{QuantTableType, Quantization};
use wgrad::{Feed, GpuOptions, Graph, Store, Tensor, TensorType, Var};

const BOTH: [Quantization; 2] = [Quantization::F16, Quantization::Int8];

/// Normally distributed values (Box and Muller).
fn normal(rows: usize, width: usize, seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || {
        let (u, v) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    };
    Tensor::f32([rows, width], (0..rows * width).map(|_| draw()).collect()).unwrap()
}

/// The figures of the documentation of [`Quantization`].
#[test]
fn errors_are_as_documented() {
    let (rows, width) = (16_384, 64);
    let table = normal(rows, width, 1);
    for (how, max, mean) in [(Quantization::F16, 1.96e-3, 1.5e-4), (Quantization::Int8, 2.0e-2, 5.1e-3)] {
        let ty = QuantTableType::new(how, rows, width).unwrap();
        let rounded = ty.dequantize(&ty.quantize(&table).unwrap()).unwrap();
        let errors: Vec<f64> =
            table.floats().iter().zip(rounded.floats()).map(|(a, b)| f64::from((a - b).abs())).collect();
        let worst = errors.iter().copied().fold(0.0, f64::max);
        let average = errors.iter().sum::<f64>() / errors.len() as f64;
        println!("{how:?}: max {worst:.2e}, mean {average:.2e}, {} bytes", ty.bytes());
        assert!(worst <= max && average <= mean, "{how:?}: {worst:e} {average:e}");
        for (row, out) in table.floats().chunks(width).zip(rounded.floats().chunks(width)) {
            let top = row.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            for (a, b) in row.iter().zip(out) {
                let bound = match how {
                    Quantization::F16 => (a.abs() * 2f32.powi(-11)).max(2f32.powi(-25)),
                    Quantization::Int8 => top / 254.0 * 1.00001,
                };
                assert!((a - b).abs() <= bound, "{how:?}: {a} became {b}");
            }
        }
    }
}

#[test]
fn every_half_is_unpacked() {
    let ty = QuantTableType::new(Quantization::F16, 1, 1 << 16).unwrap();
    let words: Vec<u32> = (0..1u32 << 15).map(|i| (2 * i) | ((2 * i + 1) << 16)).collect();
    let rows = wgrad::nn::QuantRows { words: Tensor::u32([1, 1 << 15], words).unwrap(), scales: None };
    for (bits, value) in ty.dequantize(&rows).unwrap().floats().iter().enumerate() {
        let want = half::f16::from_bits(bits as u16).to_f32();
        assert!(value.to_bits() == want.to_bits() || (value.is_nan() && want.is_nan()), "{bits:#x}: {value} {want}");
    }
}

/// Sums, products and gradients from a quantised table in pieces are those of its rounded values.
#[test]
fn sums_are_those_of_rounded_rows() {
    let hardware = common::fresh(GpuOptions { hardware_kernels: true, ..common::options() });
    for device in common::devices().into_iter().chain(hardware) {
        let sizes = [1, 2, 3, 5, 8, 67].map(|width| (width, 9, 6)).into_iter().chain([(48, 5, 8), (64, 1100, 8)]);
        let cases = sizes.flat_map(|size| BOTH.map(|how| [4, 23].map(|per| (how, size, per)))).flatten();
        for (how, (width, n, k), per) in cases {
            let rows = 23;
            let words = QuantTableType::new(how, 1, width).unwrap().words().width();
            let ty = QuantTableType::with_limit(how, rows, width, (per * words * 4) as u64).unwrap();
            let table = normal(rows, width, 2);
            let store = Store::new(&device);
            let part = |range: std::ops::Range<usize>| {
                let data = table.floats()[range.start * width..range.end * width].to_vec();
                Tensor::f32([range.len(), width], data)
            };
            ty.set(&store, "t", part).unwrap();
            let rounded = ty.dequantize(&ty.quantize(&table).unwrap()).unwrap();

            let graph = Graph::new();
            let (quant, whole) = (ty.state(&graph, "t"), graph.input("rounded", rounded.ty()));
            let (i, w) = (graph.input("i", TensorType::u32([n, k])), graph.input("w", TensorType::f32([n, k])));
            fn grad<'g>(y: Var<'g>, w: Var<'g>) -> Var<'g> {
                w.graph().grad((y * y.sin()).sum_all(), &[w])[0].dense().unwrap()
            }
            let (a, b) = (quant.weighted_gather(i, w), whole.weighted_gather(i, w));
            let v = w.sum(1).expand([n, width]);
            let (c, d) = (quant.gather_dot(i, v), whole.gather_dot(i, v));
            let all = [a, b, grad(a, w), grad(b, w), c, d, grad(c, w), grad(d, w)];
            let names: Vec<String> = (0..8).map(|i| i.to_string()).collect();
            let outputs: Vec<(&str, Var<'_>)> = names.iter().map(String::as_str).zip(all).collect();
            let plan = device.compile_blocking(&graph, &outputs).unwrap();
            let indices = Tensor::u32([n, k], (0..(n * k) as u32).map(|i| i * 7 % 25).collect()).unwrap();
            let weights = normal(n, k, 3);
            let feed = Feed::new().store(&store).input("rounded", &rounded).input("i", &indices).input("w", &weights);
            plan.run(&feed).unwrap();
            for i in (0..8).step_by(2) {
                let [got, want] = [i, i + 1].map(|i| plan.read_blocking(&names[i]).unwrap());
                let top = want.floats().iter().fold(1.0f32, |a, b| a.max(b.abs()));
                for (a, b) in got.floats().iter().zip(want.floats()) {
                    assert!((a - b).abs() <= 2e-5 * top, "{a} {b}: {how:?} {width} {per}, output {i} on {device}");
                }
            }
        }
    }
}

#[test]
fn tables_are_saved_as_plain_tensors() {
    for device in common::devices() {
        for how in BOTH {
            let (rows, width) = (13, 6);
            let ty = QuantTableType::with_limit(how, rows, width, 64).unwrap();
            let table = normal(rows, width, 4);
            let store = Store::new(&device);
            let part = |r: std::ops::Range<usize>| {
                Tensor::f32([r.len(), width], table.floats()[r.start * width..r.end * width].to_vec())
            };
            ty.set(&store, "t", part).unwrap();
            let read: Vec<(String, Tensor)> = ty
                .named("t")
                .into_iter()
                .map(|(name, _)| (name.clone(), store.read_blocking(&name).unwrap()))
                .collect();
            let views = read.iter().map(|(name, tensor)| {
                let dtype = if tensor.ints().is_empty() { Dtype::F32 } else { Dtype::U32 };
                (name, TensorView::new(dtype, tensor.shape().to_vec(), tensor.data().bytes()).unwrap())
            });
            let file = serialize(views, None).unwrap();

            let file = SafeTensors::deserialize(&file).unwrap();
            let other = Store::new(&device);
            for (name, ty) in ty.named("t") {
                let view = file.tensor(&name).unwrap();
                let words: Vec<u32> =
                    view.data().chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
                let tensor = match view.dtype() {
                    Dtype::U32 => Tensor::u32(ty.shape, words),
                    _ => Tensor::f32(ty.shape, words.into_iter().map(f32::from_bits).collect()),
                };
                other.set(&name, &tensor.unwrap()).unwrap();
            }
            for (name, tensor) in &read {
                assert_eq!(other.read_blocking(name).unwrap(), *tensor);
            }
        }
    }
}

#[test]
fn what_cannot_be_rounded_is_refused() {
    for (how, value) in
        [(Quantization::F16, 65_520.0), (Quantization::F16, f32::NAN), (Quantization::Int8, f32::INFINITY)]
    {
        let ty = QuantTableType::new(how, 2, 3).unwrap();
        let rows = Tensor::f32([2, 3], vec![1.0, 2.0, 3.0, 4.0, value, 6.0]).unwrap();
        let message = ty.quantize(&rows).unwrap_err().to_string();
        assert!(message.contains("row 1"), "{message}");
        assert!(ty.quantize(&Tensor::f32([3, 2], vec![0.0; 6]).unwrap()).is_err());
    }
    // Rows of zeros have no unit.
    let ty = QuantTableType::new(Quantization::Int8, 1, 3).unwrap();
    let zeros = Tensor::f32([1, 3], vec![0.0, -0.0, 0.0]).unwrap();
    assert_eq!(ty.dequantize(&ty.quantize(&zeros).unwrap()).unwrap().floats(), [0.0; 3]);
}
