//! Local attention of long sequences, against the oracle.

use crate::common;
use wgrad::check::sample::difference;
use wgrad::ops::attention::Attention;
use wgrad::ops::attention::descent::DescentAttention;
use wgrad::ops::attention::local::{LocalAttention, Tail};
use wgrad::plan::Program;
use wgrad::{Device, Feed, Graph, Options, Tensor, TensorType};

const LONG: usize = 32_768;

fn values(n: usize, seed: u32) -> Vec<f32> {
    let unit = |i: usize| (i as u32 ^ seed).wrapping_mul(2_654_435_761) as f32 / 4_294_967_296.0;
    (0..n).map(|i| 2.0 * unit(i + 1) - 1.0).collect()
}

/// Which keys a mask shows.
type Seen = fn(usize) -> bool;

/// Output and gradients of its weighted sum.
fn run(device: &Device, n: usize, options: LocalAttention<'static>, mask: Option<Seen>) -> Vec<Tensor> {
    let shape = [1, 1, n, 4];
    let graph = Graph::new();
    let [q, k, v, w] = ["q", "k", "v", "w"].map(|name| graph.input(name, TensorType::f32(shape)));
    let mask =
        mask.map(|seen| graph.constant(Tensor::u32([1, n], (0..n).map(|i| u32::from(seen(i))).collect()).unwrap()));
    let out = q.local_attention(k, v, &LocalAttention { mask, ..options });
    let gradients = graph.grad((out * w).sum_all(), &[q, k, v]);
    let gradients: Vec<_> = gradients.iter().map(|g| g.dense().unwrap()).collect();
    let outputs = [("out", out), ("dq", gradients[0]), ("dk", gradients[1]), ("dv", gradients[2])];
    let plan = device.compile_blocking(&graph, &outputs).unwrap();
    let tensors = [1, 2, 3, 4].map(|seed| Tensor::f32(shape, values(n * 4, seed * 7919)).unwrap());
    let feed = ["q", "k", "v", "w"].iter().zip(&tensors).fold(Feed::new(), |f, (name, t)| f.input(name, t));
    plan.run(&feed).unwrap();
    outputs.iter().map(|(name, _)| plan.read_blocking(name).unwrap()).collect()
}

#[test]
fn long_sequences() {
    // Long stretches are hidden: whole neighbourhoods of some queries.
    let some: Seen = |i| (i / 700) % 3 > 0;
    let cases = [(64, false, None), (128, true, None), (50, false, Some(some)), (129, true, Some(some))];
    for (window, causal, mask) in cases {
        let options = LocalAttention { window, causal, ..LocalAttention::default() };
        let want = run(&Device::cpu_f64(), LONG, options, mask);
        for device in common::devices() {
            for (got, want) in run(&device, LONG, options, mask).iter().zip(&want) {
                let d = difference(got, want);
                let masked = mask.is_some();
                assert!(d < 2e-5, "window {window}, causal {causal}, masked {masked} on {device}: {d:.1e}");
            }
        }
    }
}

/// A mask of everything hides the tail as well; without one the zeros of the tail take their share.
#[test]
fn the_tail_is_visible_without_a_mask_only() {
    for device in common::devices() {
        let n = 10;
        let options = |tail| LocalAttention { window: 4, tail, ..LocalAttention::default() };
        let [visible, masked] = [Tail::Visible, Tail::Masked].map(|tail| run(&device, n, options(tail), None));
        // Queries up to 7 are more than a window away from keys 12 on: they see none of the zeros at 10 and 11.
        let (a, b) = (visible[0].floats(), masked[0].floats());
        assert_eq!(a[..4 * 6], b[..4 * 6]);
        assert!((6..n).all(|p| a[4 * p..4 * p + 4] != b[4 * p..4 * p + 4]));
        let all: Seen = |_| true;
        let everything = run(&device, n, options(Tail::Visible), Some(all));
        for (a, b) in everything.iter().zip(&masked) {
            assert!(difference(a, b) < 1e-6, "{device}");
        }
        // Where the window divides the sequence there is no tail.
        let [visible, masked] = [Tail::Visible, Tail::Masked].map(|tail| run(&device, 12, options(tail), None));
        assert_eq!(visible, masked);
    }
}

#[test]
fn impossible_options_are_errors() {
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([1, 2, 8, 4]));
    x.local_attention(x, x, &LocalAttention::default());
    assert!(graph.error().is_some_and(|e| e.to_string().contains("window")));
    let graph = Graph::new();
    let [x, longer] = [8, 9].map(|n| graph.input(&n.to_string(), TensorType::f32([1, 2, n, 4])));
    x.local_attention(longer, longer, &LocalAttention { window: 3, ..LocalAttention::default() });
    assert!(graph.error().is_some_and(|e| e.to_string().contains("as many keys")));
}

/// Coordinate-descent attention in parts keeps a few parts' scores at a time, in the gradient too.
#[test]
fn parts_of_descent_attention_take_turns() {
    let n = 256;
    let peak = |rows| {
        let graph = Graph::new();
        let [q, k, v] = ["q", "k", "v"].map(|name| graph.input(name, TensorType::f32([1, 2, n, 4])));
        let attention = Attention { causal: true, ..Attention::default() };
        let options = DescentAttention { attention, k: 4.0.into(), rows, ..DescentAttention::default() };
        let out = q.descent_attention(k, v, &options);
        let gradients = graph.grad((out * out).sum_all(), &[q, k, v]);
        let gradients: Vec<_> = gradients.iter().map(|g| g.dense().unwrap()).collect();
        let outputs = [("out", out), ("dq", gradients[0]), ("dk", gradients[1]), ("dv", gradients[2])];
        Program::build(&graph, &outputs, Options::default()).unwrap().slots(None).peak
    };
    let (whole, parts) = (peak(None), peak(Some(16)));
    assert!(parts * 4 < whole, "{parts} bytes in parts, {whole} at once");
}
