//! The modules of conditional routing in plain code, one sequence at a time.

use crate::plain::{Rows, attend, dot, gelu, layer_norm, linear, rms_norm, rotate, soft_top_k, unit};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use wgrad::models::conditional::{AttentionConfig, CoordinateDescentRouterConfig, Similarity};
use wgrad::ops::attention::local::Tail;

/// A sequence and what a call says of it.
#[derive(Clone, Copy)]
pub struct Sequence<'a> {
    pub tokens: &'a Rows,
    pub mask: Option<&'a [bool]>,
    /// How many of the routed tokens count.
    pub count: Option<usize>,
}

/// A routed token: its place (the length of the sequence if it does not count), score, whether it exists.
type Routed = Vec<(usize, f64, bool)>;

/// What a head attends to: token, score if there is one, whether it exists, position.
type Context = Vec<(Vec<f64>, Option<f64>, bool, usize)>;

/// Parameters, and the soft scores of the first evaluation. A straight-through score is `1 + soft - first soft`: 1 at first,
/// with the soft score's derivative, so that finite differences of later evaluations are the gradient.
pub struct Oracle {
    pub values: BTreeMap<String, Vec<f64>>,
    pub dim: usize,
    first: RefCell<Vec<f64>>,
    next: Cell<usize>,
}

impl Sequence<'_> {
    /// Whether it is not routed.
    fn is_whole(&self, k: usize, c: &CoordinateDescentRouterConfig) -> bool {
        let n = self.tokens.len();
        self.count.is_none() && (n < k || n == k && !c.route_equal)
    }
}

/// The routers of a call: of queries, of keys.
pub type Routers<'a> = [&'a CoordinateDescentRouterConfig; 2];

impl Oracle {
    pub fn new(values: BTreeMap<String, Vec<f64>>, dim: usize) -> Self {
        Oracle { values, dim, first: RefCell::default(), next: Cell::new(0) }
    }

    /// Begins an evaluation.
    pub fn rewind(&self) {
        self.next.set(0);
    }

    fn value(&self, name: &str) -> &[f64] {
        self.values.get(name).unwrap_or_else(|| panic!("no parameter {name}"))
    }

    /// 1 with the derivative of `soft`.
    fn straight_through(&self, soft: f64) -> f64 {
        let (mut first, i) = (self.first.borrow_mut(), self.next.get());
        self.next.set(i + 1);
        if i == first.len() {
            first.push(soft);
        }
        1.0 + soft - first[i]
    }

    fn scores(&self, x: &Rows, token: &[f64], c: &CoordinateDescentRouterConfig) -> Vec<f64> {
        let cosine = |x: &Vec<f64>| dot(&unit(x), &unit(token));
        let score = |x: &Vec<f64>| match c.similarity {
            Similarity::Dot => dot(x, token),
            Similarity::Cosine { scale } => scale * cosine(x),
            Similarity::UnitCosine => (self.dim as f64).sqrt() * cosine(x),
        };
        x.iter().map(score).collect()
    }

    /// Routes `k` tokens of a sequence by one routing token.
    fn route(&self, s: Sequence<'_>, token: &[f64], c: &CoordinateDescentRouterConfig, k: usize) -> Routed {
        let n = s.tokens.len();
        let scores = self.scores(s.tokens, token, c);
        let (blocks, width) = match c.route_block_size {
            Some(width) if n >= width => (n / width, width),
            _ => (1, n),
        };
        let k = k.div_ceil(blocks).min(width);
        let counted = s.count.map_or(k, |count| count.div_ceil(blocks).min(k));
        let mut routed = Vec::new();
        for from in (0..blocks).map(|block| block * width) {
            let scores = &scores[from..from + width];
            let exists: Vec<bool> = (0..width).map(|i| s.mask.is_none_or(|mask| mask[from + i])).collect();
            let soft = soft_top_k(scores, (counted as f64 * c.fetch_k_ratio).min(width as f64), &c.how, &exists);
            let mut order: Vec<usize> = (0..width).collect();
            let rank = |i: usize| if exists[i] { scores[i] } else { f64::NEG_INFINITY };
            order.sort_by(|i, j| rank(*j).total_cmp(&rank(*i)).then(i.cmp(j)));
            for (place, i) in order.into_iter().take(k).enumerate() {
                routed.push(match (place < counted, exists[i], c.straight_through) {
                    (false, ..) => (n, 0.0, false),
                    (true, true, true) => (from + i, self.straight_through(soft[i]), true),
                    (true, false, true) => (from + i, 0.0, false),
                    (true, exists, false) => (from + i, soft[i], exists),
                });
            }
        }
        routed
    }

    /// Heavy attention of queries at `positions` to one context a route.
    fn heavy(
        &self,
        a: &AttentionConfig,
        x: &Rows,
        scores: Option<&[f64]>,
        positions: &[usize],
        routes: &[Context],
    ) -> Rows {
        let value = |name: &str| self.value(&format!("heavy_attn.{name}"));
        let (h, d) = (a.heavy_heads, a.heavy_dim_head);
        let queries = linear(&rms_norm(x, value("norm.gamma")), value("to_q.weight"), self.dim);
        let turn = |t: &[f64], p: usize| if a.rotary_emb { rotate(t, p) } else { t.to_vec() };
        let times = |t: &[f64], s: f64| t.iter().map(|t| t * s).collect::<Vec<f64>>();
        let mut out = vec![vec![0.0; h * d]; x.len()];
        for head in 0..h {
            let context = &routes[head / (h / routes.len())];
            let tokens: Rows = context.iter().map(|c| c.0.clone()).collect();
            let weight = &value("to_kv.weight")[head * 2 * d * self.dim..(head + 1) * 2 * d * self.dim];
            let mut entries = Vec::new();
            if a.use_null_kv {
                let null = |i: usize| value("null_kv")[(i * h + head) * d..(i * h + head + 1) * d].to_vec();
                entries.push((null(0), null(1), true));
            }
            for (kv, (_, score, exists, position)) in
                linear(&rms_norm(&tokens, value("norm.gamma")), weight, self.dim).iter().zip(context)
            {
                let score = score.unwrap_or(1.0);
                let key = times(&kv[..d], if a.multiply_keys_by_score { score } else { 1.0 });
                entries.push((turn(&key, *position), times(&kv[d..], score), *exists));
            }
            for (i, query) in queries.iter().enumerate() {
                let query = times(&query[head * d..(head + 1) * d], scores.map_or(1.0, |s| s[i]));
                out[i][head * d..(head + 1) * d].copy_from_slice(&attend(&turn(&query, positions[i]), &entries));
            }
        }
        linear(&out, value("to_out.weight"), h * d)
    }

    /// What the heads attend to; `whole` without routing.
    fn contexts(&self, s: Sequence<'_>, c: &CoordinateDescentRouterConfig, k: usize, whole: bool) -> Vec<Context> {
        let (x, zeros) = (s.tokens, vec![0.0; self.dim]);
        if whole {
            let exists = |i: usize| s.mask.is_none_or(|mask| mask[i]);
            return vec![x.iter().enumerate().map(|(i, x)| (x.clone(), None, exists(i), i)).collect()];
        }
        let routed = |token: &[f64]| {
            let routed = self.route(s, token, c, k).into_iter();
            routed.map(|(i, score, exists)| (x.get(i).unwrap_or(&zeros).clone(), Some(score), exists, i)).collect()
        };
        self.value("kv_router.routing_token").chunks(self.dim).map(routed).collect()
    }

    /// The heavy branch: `queries` attend to `keys`; positions of queries begin at `start`.
    pub fn branch(
        &self,
        a: &AttentionConfig,
        c: Routers<'_>,
        queries: Sequence<'_>,
        keys: Sequence<'_>,
        start: usize,
    ) -> Rows {
        let (x, zeros) = (queries.tokens, vec![0.0; self.dim]);
        let (k_q, k_kv) = (a.num_heavy_tokens_q, a.num_heavy_tokens_kv);
        let whole_keys = keys.is_whole(k_kv, c[1]);
        if queries.is_whole(k_q, c[0]) {
            let positions: Vec<usize> = (start..start + x.len()).collect();
            return self.heavy(a, x, None, &positions, &self.contexts(keys, c[1], k_kv, whole_keys));
        }
        let routed = self.route(queries, self.value("q_router.routing_token"), c[0], k_q);
        let contexts = self.contexts(keys, c[1], k_kv, whole_keys);
        let tokens: Rows = routed.iter().map(|r| x.get(r.0).unwrap_or(&zeros).clone()).collect();
        let scores: Vec<f64> = routed.iter().map(|r| r.1).collect();
        let positions: Vec<usize> = routed.iter().map(|r| start + r.0).collect();
        let out = self.heavy(a, &tokens, a.multiply_queries_by_score.then_some(&scores), &positions, &contexts);
        let rest = if a.use_null_q_tokens { self.value("null_q_token").to_vec() } else { zeros };
        let mut all = vec![rest; x.len()];
        for ((i, score, _), out) in routed.iter().zip(&out).filter(|(r, _)| r.0 < x.len()) {
            all[*i] = out.iter().map(|o| o * score).collect();
        }
        all
    }

    /// Local attention over windows of `w`.
    pub fn light(&self, a: &AttentionConfig, s: Sequence<'_>, w: usize, causal: bool) -> Rows {
        let value = |name: &str| self.value(&format!("light_attn.{name}"));
        let (n, h, d) = (s.tokens.len(), a.light_heads, a.light_dim_head);
        let x = layer_norm(s.tokens, value("norm.weight"), value("norm.bias"));
        let mut qkv = linear(&x, value("to_qkv.weight"), self.dim);
        qkv.resize(n.next_multiple_of(w), vec![0.0; 3 * h * d]);
        let sees = |i: usize, j: usize| {
            let near = if causal { (j / w == i / w || j / w + 1 == i / w) && j <= i } else { i.abs_diff(j) <= w };
            let tail = !causal && a.light_tail == Tail::Visible;
            near && (i / w).abs_diff(j / w) <= 1 && s.mask.map_or(j < n || tail, |mask| j < n && mask[j])
        };
        let mut out = vec![vec![0.0; h * d]; n];
        for (head, i) in (0..h).flat_map(|head| (0..n).map(move |i| (head, i))) {
            let part = |j: usize, which: usize| qkv[j][(which * h + head) * d..(which * h + head + 1) * d].to_vec();
            let seen: Vec<_> = (0..qkv.len()).filter(|j| sees(i, *j)).map(|j| (part(j, 1), part(j, 2), true)).collect();
            out[i][head * d..(head + 1) * d].copy_from_slice(&attend(&part(i, 0), &seen));
        }
        linear(&out, value("to_out.weight"), h * d)
    }

    /// Feed-forward below `name`.
    fn mlp(&self, name: &str, x: &Rows) -> Rows {
        let value = |part: &str| self.value(&format!("{name}.{part}"));
        let layer = |x: &Rows, i: &str| {
            let mut y = linear(x, value(&format!("{i}.weight")), x.first().map_or(1, Vec::len));
            let bias = value(&format!("{i}.bias"));
            y.iter_mut().for_each(|y| y.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
            y
        };
        let hidden = layer(&rms_norm(x, value("0.gamma")), "1");
        layer(&hidden.iter().map(|x| x.iter().map(|x| gelu(*x)).collect()).collect(), "3")
    }

    /// Conditional feed-forward.
    pub fn feed_forward(&self, c: &CoordinateDescentRouterConfig, k: usize, s: Sequence<'_>) -> Rows {
        let x = s.tokens;
        let mut out = self.mlp("light_ff", x);
        let routed = if s.is_whole(k, c) {
            (0..x.len()).map(|i| (i, 1.0, true)).collect()
        } else {
            self.route(s, self.value("router.routing_token"), c, k)
        };
        for (i, score, _) in routed.into_iter().filter(|r| r.0 < x.len()) {
            let heavy = self.mlp("heavy_ff", &vec![x[i].clone()]);
            out[i].iter_mut().zip(&heavy[0]).for_each(|(o, h)| *o += h * score);
        }
        out
    }

    /// Decoder attention with heavy windows of `w`.
    pub fn autoregressive(&self, a: &AttentionConfig, c: &CoordinateDescentRouterConfig, w: usize, x: &Rows) -> Rows {
        let n = x.len();
        let kv_router = CoordinateDescentRouterConfig { route_equal: false, ..c.clone() };
        let mut out = self.light(a, Sequence { tokens: x, mask: None, count: None }, a.light_window_size, true);
        let mut padded = x.clone();
        padded.resize(n.next_multiple_of(w), vec![0.0; self.dim]);
        for from in (w..padded.len()).step_by(w) {
            let window = padded[from..from + w].to_vec();
            let (exists, earlier): (Vec<bool>, Vec<bool>) =
                ((from..from + w).map(|i| i < n).collect(), (0..padded.len()).map(|i| i < from).collect());
            let mask = (n < padded.len()).then_some(&exists[..]);
            let queries = Sequence { tokens: &window, mask, count: None };
            let keys = Sequence { tokens: &padded, mask: Some(&earlier), count: None };
            let heavy = self.branch(a, [c, &kv_router], queries, keys, from);
            for (out, heavy) in out[from..].iter_mut().zip(&heavy) {
                out.iter_mut().zip(heavy).for_each(|(o, h)| *o += h);
            }
        }
        out
    }
}
