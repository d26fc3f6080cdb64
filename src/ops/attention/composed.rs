//! Attention from ordinary operations: with dropout of the probabilities, or any other work on them.

use super::Attention;
use crate::error::Where;
use crate::graph::{Graph, Var};
use std::ops::Range;

/// Part of the pairs of queries and keys.
pub(super) struct Pairs {
    /// All queries and all keys.
    pub whole: [usize; 2],
    /// Those of this part.
    pub queries: Range<usize>,
    /// As many keys, from the first on.
    pub keys: usize,
}

impl<'g> Var<'g> {
    /// [`attention`](Self::attention) by product, mask, softmax and product: it stores the scores, `probabilities`
    /// `[b, h, i, j]` may be changed on the way (dropout), and it has all derivatives. Returns `[b, h, i, dv]`.
    #[track_caller]
    pub fn attention_composed(
        self,
        keys: Var<'g>,
        values: Var<'g>,
        options: &Attention<'g>,
        probabilities: impl FnOnce(Var<'g>) -> Var<'g>,
    ) -> Var<'g> {
        let _at = self.graph().at(Where::caller());
        let (q, k) = (self.shape(), keys.shape());
        let known = q.len() == 4 && k.len() == 4 && values.rank() == 4;
        if !known || k[1] == 0 || q[1] % k[1] != 0 {
            // The fused operation says what is wrong.
            return self.attention(keys, values, options).out;
        }
        let [b, h, i, d] = [q[0], q[1], q[2], q[3]];
        let (hk, j) = (k[1], k[2]);
        let scale = options.scale.unwrap_or(1.0 / (d.max(1) as f64).sqrt());
        let grouped = self.reshape([b, hk, h / hk, i, d]);
        let scores = grouped.matmul(keys.unsqueeze(2).transpose(-1, -2)) * scale;
        let mut scores = scores.reshape([b, h, i, j]);
        let every = Pairs { whole: [i, j], queries: 0..i, keys: j };
        if let Some(hidden) = hidden(self.graph(), options, &every) {
            scores = hidden.select(f64::from(f32::MIN), scores);
        }
        let p = probabilities(scores.softmax(3)).reshape([b, hk, h / hk, i, j]);
        let out = p.matmul(values.unsqueeze(2));
        out.reshape([b, h, i, values.dim(-1)])
    }
}

/// Mask of the pairs that are not seen, to broadcast to `[b, h, queries, keys]`. All sums stay above 0: they are unsigned.
pub(super) fn hidden<'g>(graph: &'g Graph, options: &Attention<'g>, part: &Pairs) -> Option<Var<'g>> {
    let [i, j] = part.whole;
    let key = graph.iota([1, part.keys], 1);
    let query = graph.iota([part.queries.len(), 1], 0) + graph.full_u32([], part.queries.start as u32);
    let count = match options.valid {
        Some(count) => count.reshape([count.shape().numel(), 1, 1, 1]),
        None => graph.full_u32([], j as u32),
    };
    // Key c and query a at position p = count - i + a: everything is compared with i added.
    let key = key + graph.full_u32([], i as u32);
    let position = query + count;
    let window = options.window.filter(|w| *w > 0);
    let width = graph.full_u32([], window.unwrap_or(0) as u32);
    let mut hidden = Vec::new();
    if options.causal {
        hidden.push(key.gt(position));
    } else if window.is_some() {
        hidden.push(key.ge(position + width));
    }
    if window.is_some() {
        hidden.push((key + width).le(position));
    }
    if options.valid.is_some() {
        hidden.push(key.ge(count + graph.full_u32([], i as u32)));
    }
    if let Some(mask) = options.mask {
        let mask = mask.reshape([mask.dim(0), 1, 1, j]).slice(3, 0, part.keys);
        hidden.push(mask.eq(graph.full_u32([], 0)));
    }
    hidden.into_iter().reduce(|a, b| a.or(b))
}

/// One shape and its options.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    q: [usize; 4],
    k: [usize; 4],
    dv: usize,
    causal: bool,
    window: Option<usize>,
    /// Bound of the mask's values: 1 hides all, 2 hides half, 9 hides few.
    mask: Option<u32>,
    /// Bound of the runtime key counts, and whether there is one per batch entry.
    valid: Option<(u32, bool)>,
}

const PLAIN: Case = Case {
    name: "plain",
    q: [2, 3, 5, 7],
    k: [2, 3, 8, 7],
    dv: 7,
    causal: false,
    window: None,
    mask: None,
    valid: None,
};

fn cases() -> Vec<Case> {
    let base = PLAIN;
    #[rustfmt::skip]
    let all = vec![
        base,
        Case { name: "causal", causal: true, ..base },
        Case { name: "causal square", q: [1, 2, 67, 16], k: [1, 2, 67, 16], dv: 16, causal: true, ..base },
        Case { name: "causal long", q: [1, 1, 131, 5], k: [1, 1, 131, 5], dv: 3, causal: true, ..base },
        Case { name: "more queries than keys", q: [1, 2, 70, 4], k: [1, 2, 9, 4], dv: 5, causal: true, ..base },
        Case { name: "one key", k: [2, 3, 1, 7], causal: true, ..base },
        Case { name: "one query", q: [2, 4, 1, 8], k: [2, 4, 77, 8], dv: 8, causal: true, ..base },
        Case { name: "six queries", q: [1, 2, 6, 9], k: [1, 2, 45, 9], dv: 11, causal: true, ..base },
        Case { name: "twelve queries", q: [1, 2, 12, 8], k: [1, 2, 45, 8], dv: 70, causal: true, ..base },
        Case { name: "shared head", q: [2, 4, 9, 6], k: [2, 1, 37, 6], dv: 6, causal: true, ..base },
        Case { name: "grouped heads", q: [2, 6, 19, 6], k: [2, 2, 19, 6], dv: 4, ..base },
        Case { name: "wide", q: [1, 1, 18, 131], k: [1, 1, 35, 131], dv: 97, causal: true, ..base },
        Case { name: "very wide", q: [1, 1, 3, 256], k: [1, 1, 33, 256], dv: 256, ..base },
        Case { name: "window", q: [1, 2, 75, 4], k: [1, 2, 80, 4], dv: 4, window: Some(7), causal: true, ..base },
        Case { name: "window both ways", q: [1, 2, 40, 4], k: [1, 2, 40, 4], dv: 4, window: Some(5), ..base },
        Case { name: "mask", mask: Some(2), ..base },
        Case { name: "mask causal", q: [3, 2, 37, 4], k: [3, 2, 37, 4], dv: 4, causal: true, mask: Some(2), ..base },
        Case { name: "mask of everything", mask: Some(1), ..base },
        Case { name: "valid", q: [2, 2, 3, 4], k: [2, 2, 70, 4], dv: 4, causal: true, valid: Some((70, true)), ..base },
        Case { name: "valid for all", q: [2, 2, 1, 4], k: [2, 2, 70, 4], dv: 4, causal: true, valid: Some((90, false)), ..base },
        Case { name: "valid below the queries", q: [3, 1, 20, 4], k: [3, 1, 24, 4], dv: 4, causal: true, valid: Some((20, true)), ..base },
        Case { name: "valid uncausal, mask, window", q: [3, 2, 11, 4], k: [3, 2, 35, 4], dv: 4, window: Some(9), mask: Some(9), valid: Some((36, true)), ..base },
        // Large enough for scores to be stored on software drivers.
        Case { name: "stored, grouped heads", q: [2, 4, 20, 9], k: [2, 2, 28, 9], dv: 8, causal: true, ..base },
        Case { name: "stored, mask", q: [2, 2, 33, 8], k: [2, 2, 36, 8], dv: 11, mask: Some(2), ..base },
        Case { name: "stored, mask of everything", q: [1, 2, 40, 8], k: [1, 2, 56, 8], dv: 8, mask: Some(1), ..base },
        Case { name: "stored, valid", q: [2, 2, 31, 8], k: [2, 2, 40, 8], dv: 8, causal: true, mask: Some(9), valid: Some((40, true)), ..base },
        Case { name: "stored, window", q: [1, 4, 26, 8], k: [1, 4, 48, 8], dv: 9, window: Some(40), ..base },
        Case { name: "one of everything", q: [1, 1, 1, 1], k: [1, 1, 1, 1], dv: 1, causal: true, ..base },
        Case { name: "no keys", k: [2, 3, 0, 7], ..base },
        Case { name: "no queries", q: [2, 3, 0, 7], causal: true, ..base },
    ];
    all
}

impl Case {
    fn options<'g>(&self, inputs: &[Var<'g>]) -> Attention<'g> {
        let mut rest = inputs[3..].iter().copied();
        Attention {
            scale: (self.dv == 4).then_some(0.7),
            causal: self.causal,
            window: self.window,
            mask: self.mask.and_then(|_| rest.next()),
            valid: self.valid.and_then(|_| rest.next()),
        }
    }

    fn sample(
        self,
        name: &str,
        build: impl for<'g> Fn(&[Var<'g>], &Attention<'g>) -> Vec<Var<'g>> + Send + Sync + 'static,
    ) -> crate::ops::samples::Sample {
        let [b, hk, j, _] = self.k;
        let sample = crate::ops::samples::Sample::new(
            format!("{name} {}", self.name),
            [&self.q, &self.k, &[b, hk, j, self.dv]],
            move |_, x| build(x, &self.options(x)),
        );
        let sample = match self.mask {
            Some(bound) => sample.below(&[b, j], bound),
            None => sample,
        };
        match self.valid {
            Some((bound, true)) => sample.below(&[b], bound),
            Some((bound, false)) => sample.below(&[], bound),
            None => sample,
        }
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    let mut all = Vec::new();
    for case in cases() {
        all.push(case.sample("attention", |x, options| {
            let y = x[0].attention(x[1], x[2], options);
            // Queries that see nothing have the lowest logsumexp: keep its sums away from the comparison's scale.
            vec![y.out, y.logsumexp.maximum(-100.0)]
        }));
        if case.k[2] > 0 {
            let same = case.sample("composed attention equals", |x, options| {
                let y = x[0].attention(x[1], x[2], options).out;
                vec![y - x[0].attention_composed(x[1], x[2], options, |p| p)]
            });
            all.push(same.vanishing());
        }
    }
    let views = [&[2usize, 9, 3, 2, 5][..]];
    all.push(crate::ops::samples::Sample::new("attention of views", views, |_, x| {
        let part = |n| x[0].select_index(2, n).permute(&[0, 2, 1, 3]);
        let options = Attention { causal: true, ..Attention::default() };
        let y = part(0).attention(part(1), part(2), &options).out;
        vec![y.permute(&[0, 2, 1, 3]).reshape([2, 9, 10])]
    }));
    all
}
