//! The coordinate descent from elementary operations: for second derivatives, and to check the kernels against.

use super::Start;
use super::rows::{SMALLEST, bounded};
use crate::graph::Var;

/// All iterations unrolled. Scores must be numbers.
pub fn unrolled<'g>(s: Var<'g>, k: Var<'g>, mask: Option<Var<'g>>, schedule: &[f32], start: Start) -> Var<'g> {
    let last = s.rank() - 1;
    let lowest = f64::from(f32::MIN);
    let masked = |x: Var<'g>, value: f64| mask.map_or(x, |m| x.keep_where(m, value));
    let any = mask.map(|m| m.to_f32().sum(last).gt(0.0));
    let valid = masked(s.graph().full(s.shape(), 1.0), 0.0).sum(last).maximum(1.0);
    let k = if k.rank() == last { k.unsqueeze(last) } else { k };
    let (log_k, s) = (k.maximum(SMALLEST).ln(), bounded(s));
    let (epsilons, end) = schedule.split_at(schedule.len() - 1);
    let mut low = s.graph().full([], 0.0);
    for (t, e) in epsilons.iter().map(|e| f64::from(*e)).enumerate() {
        let sums = match (t, start) {
            (0, Start::Scores) => valid.ln(),
            _ => masked(low.minimum(s) / e, lowest).logsumexp(last),
        };
        let a = (log_k - sums) * e;
        low = -any.map_or(a, |any| a.keep_where(any, 0.0));
    }
    let y = ((s - low).minimum(0.0) / f64::from(end[0])).exp();
    masked(k.gt(0.0).select(y, 0.0), 0.0)
}
