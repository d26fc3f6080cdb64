//! Running modules on given numbers.

use wgrad::nn::{ParamVars, Params};
use wgrad::{Device, Feed, Graph, Tensor, Var};

/// Numbers of about a standard deviation of 1, always the same.
pub fn noise(shape: &[usize], seed: u32) -> Tensor {
    let n = shape.iter().product::<usize>();
    let unit = |i: u32| {
        let mut h = i.wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        for shift in [16, 13, 16] {
            h = (h ^ (h >> shift)).wrapping_mul(0x045d_9f3b);
        }
        f64::from(h ^ (h >> 16)) / f64::from(u32::MAX) - 0.5
    };
    let values = (0..n as u32).map(|i| (2.0 * (unit(3 * i) + unit(3 * i + 1) + unit(3 * i + 2))) as f32).collect();
    Tensor::f32(shape, values).expect("as many elements as the shape has")
}

/// A mask of the entries that `f` says.
pub fn mask(shape: [usize; 2], f: impl Fn(usize, usize) -> bool) -> Tensor {
    let values = (0..shape[0] * shape[1]).map(|i| u32::from(f(i / shape[1], i % shape[1]))).collect();
    Tensor::u32(shape, values).expect("as many elements as the shape has")
}

/// Builds with `f`, runs, and reads what it returns.
pub fn run(
    device: &Device,
    params: &Params,
    inputs: &[(&str, &Tensor)],
    f: impl for<'g> Fn(&ParamVars<'g>, &[Var<'g>]) -> Vec<Var<'g>>,
) -> Vec<Tensor> {
    let graph = Graph::new();
    let vars: Vec<Var<'_>> = inputs.iter().map(|(name, t)| graph.input(name, t.ty())).collect();
    let out = f(&params.vars(&graph), &vars);
    let names: Vec<String> = (0..out.len()).map(|i| format!("out{i}")).collect();
    let outputs: Vec<(&str, Var<'_>)> = names.iter().map(String::as_str).zip(out).collect();
    let plan = device.compile_blocking(&graph, &outputs).unwrap_or_else(|e| panic!("{e}"));
    let store = params.store(device).unwrap_or_else(|e| panic!("{e}"));
    let mut feed = Feed::new().store(&store);
    for (name, tensor) in inputs {
        feed = feed.input(name, tensor);
    }
    plan.run(&feed).unwrap_or_else(|e| panic!("{e}"));
    names.iter().map(|name| plan.read_blocking(name).unwrap_or_else(|e| panic!("{e}"))).collect()
}

/// Within 2e-4 of each other.
pub fn assert_close(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 2e-4, "{what}: differs by {worst:e}");
}

/// Entry `i` of the first dimension.
pub fn entry(tensor: &Tensor, i: usize) -> Tensor {
    let mut shape = tensor.shape().clone();
    let each = tensor.data().len() / shape[0];
    shape.0[0] = 1;
    Tensor::f32(shape, tensor.floats()[i * each..(i + 1) * each].to_vec()).expect("one entry")
}
