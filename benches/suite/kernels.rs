//! Single operations.

use crate::work::{Case, graph};
use wgrad::ops::attention::Attention;
use wgrad::ops::route::sinkhorn::Sinkhorn;
use wgrad::ops::route::soft_top_k::SoftTopK;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend([256, 512, 1024, 2048].map(|n| matmul(n, n, n)));
    all.push(batched_matmul(32, 256, 64, 256));
    // Weight gradients of many tokens, and a projection of many tokens to few features.
    all.push(matmul(512, 16_384, 64));
    all.push(matmul(16_384, 512, 64));
    all.extend([(1024, 256), (64, 65_536)].map(|(rows, n)| top_k(rows, n, 32)));
    all.push(top_k(16, 65_536, 32_768).large());
    all.extend([(1024, 256), (1024, 1024), (64, 65_536)].map(|(rows, n)| softmax(rows, n)));
    all.extend([(1024, 1024), (16_384, 256)].map(|(rows, n)| layer_norm(rows, n)));
    all.extend([false, true].map(|grad| gather(65_536, 128, 4096, grad)));
    all.extend([false, true].map(|grad| weighted_gather(65_536, 128, 4096, 8, grad)));
    all.extend([false, true].map(|grad| weighted_gather(65_536, 512, 4096, 32, grad).large()));
    all.push(elementwise_chain(1 << 20));
    all.extend([false, true].map(|grad| attention(4, 8, 256, 64, grad)));
    all.extend([false, true].map(|grad| soft_top_k(8, 32_768, 1024, Some(50), grad)));
    all.extend([false, true].map(|grad| soft_top_k(8, 32_768, 1024, None, grad)));
    all.extend([false, true].map(|grad| sinkhorn(8, 512, 512, 8, grad)));
    all
}

fn matmul(m: usize, k: usize, n: usize) -> Case {
    let build = graph(move |s| vec![s.floats([m, k]).matmul(s.floats([k, n]))]);
    let case = Case::new("matmul", &[m, k, n], build).counts(m * k + k * n + m * n, 2 * m * k * n);
    if m * k * n > 1 << 31 { case.large() } else { case }
}

fn batched_matmul(b: usize, m: usize, k: usize, n: usize) -> Case {
    let build = graph(move |s| vec![s.floats([b, m, k]).matmul(s.floats([b, k, n]))]);
    Case::new("batched_matmul", &[b, m, k, n], build).counts(b * (m * k + k * n + m * n), 2 * b * m * k * n)
}

fn top_k(rows: usize, n: usize, k: usize) -> Case {
    let build = graph(move |s| {
        let top = s.floats([rows, n]).top_k(k);
        vec![top.values, top.indices]
    });
    Case::new("top_k", &[rows, n, k], build).counts(rows * (n + 2 * k), rows * n)
}

fn softmax(rows: usize, n: usize) -> Case {
    let build = graph(move |s| vec![s.floats([rows, n]).softmax(1)]);
    Case::new("softmax", &[rows, n], build).counts(2 * rows * n, 5 * rows * n)
}

fn layer_norm(rows: usize, n: usize) -> Case {
    let build = graph(move |s| vec![s.floats([rows, n]).layer_norm(s.floats([n]), s.floats([n]), 1e-5)]);
    Case::new("layer_norm", &[rows, n], build).counts(2 * rows * n, 8 * rows * n)
}

/// Rows of a table; with the dense gradient of the table.
fn gather(rows: usize, width: usize, hits: usize, grad: bool) -> Case {
    let build = graph(move |s| {
        let table = s.floats([rows, width]);
        let y = table.gather(s.indices([hits], rows));
        if grad { s.backward(y, &[table]) } else { vec![y] }
    });
    let forward = 2 * hits * width + hits;
    if grad {
        let elements = forward + (hits + rows) * width + hits;
        return Case::new("gather_grad", &[rows, width, hits], build).counts(elements, hits * width);
    }
    Case::new("gather", &[rows, width, hits], build).counts(forward, 0)
}

/// Weighted sums of rows; with the dense gradients of the table and the weights.
fn weighted_gather(rows: usize, width: usize, sums: usize, per: usize, grad: bool) -> Case {
    let build = graph(move |s| {
        let (table, weights) = (s.floats([rows, width]), s.floats([sums, per]));
        let y = table.weighted_gather(s.indices([sums, per], rows), weights);
        if grad { s.backward(y, &[table, weights]) } else { vec![y] }
    });
    let hits = sums * per;
    let forward = (hits + sums) * width + 2 * hits;
    if grad {
        // The rows once more for the weights, and the table's gradient is written.
        let elements = 2 * forward + hits + rows * width;
        return Case::new("weighted_gather_grad", &[rows, width, sums, per], build).counts(elements, 6 * hits * width);
    }
    Case::new("weighted_gather", &[rows, width, sums, per], build).counts(forward, 2 * hits * width)
}

fn elementwise_chain(n: usize) -> Case {
    let build = graph(move |s| {
        let x = s.floats([n]);
        vec![(x * 0.9 + 0.1).relu().exp() * x]
    });
    Case::new("elementwise_chain", &[n], build).counts(2 * n, 5 * n)
}

fn attention(b: usize, h: usize, n: usize, d: usize, grad: bool) -> Case {
    let build = graph(move |s| {
        let [q, k, v] = [0; 3].map(|_| s.floats([b, h, n, d]));
        let y = q.attention(k, v, &Attention::default()).out;
        if grad { s.backward(y, &[q, k, v]) } else { vec![y] }
    });
    let (elements, flops) = (4 * b * h * n * d, 4 * b * h * n * n * d);
    match grad {
        // Scores again, and four more products.
        true => Case::new("attention_grad", &[b, h, n, d], build).counts(9 * elements / 4, 7 * flops / 2),
        false => Case::new("attention", &[b, h, n, d], build).counts(elements, flops),
    }
}

/// Coordinate descent with so many iterations, or its fixed point, which peers have to iterate for.
fn soft_top_k(rows: usize, n: usize, k: usize, iterations: Option<usize>, grad: bool) -> Case {
    let how = match iterations {
        Some(t) => SoftTopK::iterations(t, 0.1),
        None => SoftTopK::exact(0.1),
    };
    let build = graph(move |s| {
        let scores = s.floats([rows, n]);
        let y = scores.soft_top_k(k, &how, None);
        if grad { s.backward(y, &[scores]) } else { vec![y] }
    });
    let op = match (iterations, grad) {
        (Some(_), false) => "soft_top_k",
        (Some(_), true) => "soft_top_k_grad",
        (None, false) => "soft_top_k_exact",
        (None, true) => "soft_top_k_exact_grad",
    };
    // An exponential, an addition, a comparison and a multiplication for each score and iteration.
    let each = 4 * iterations.unwrap_or(1) * if grad { 2 } else { 1 };
    let elements = if grad { 5 } else { 2 };
    Case::new(op, &[rows, n, k, iterations.unwrap_or(50)], build).counts(elements * rows * n, each * rows * n)
}

fn sinkhorn(b: usize, n: usize, m: usize, iterations: usize, grad: bool) -> Case {
    let build = graph(move |s| {
        let scores = s.floats([b, n, m]);
        let y = scores.sinkhorn(&Sinkhorn { iterations, ..Sinkhorn::default() }, None);
        if grad { s.backward(y, &[scores]) } else { vec![y] }
    });
    let passes = 2 * iterations * if grad { 3 } else { 1 };
    let (op, elements) = if grad { ("sinkhorn_grad", 5) } else { ("sinkhorn", 2) };
    Case::new(op, &[b, n, m, iterations], build).counts(elements * b * n * m, 4 * passes * b * n * m)
}
