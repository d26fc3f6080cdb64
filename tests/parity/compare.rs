//! Compares what a module computed with its fixture.
#![allow(dead_code)] // What some modules need, the tables may not use yet.

use super::fixture::Case;
use std::collections::BTreeMap;
use wgrad::{DType, Error, Result, Tensor};

/// Tensors by the fixture's keys: `output.*`, `grad.param.*`, `grad.input.*`.
#[derive(Default)]
pub struct Outcome {
    pub tensors: BTreeMap<String, Tensor>,
    /// Selections whose order is free.
    pub sets: Vec<Set>,
}

/// A selection in any order: along `axis`, entries are compared in the order of their numbers in `by`.
#[derive(Clone)]
pub struct Set {
    /// Key of the integer output with the selected numbers, `[.., k]`.
    pub by: String,
    /// Keys of what goes with them: `[.., k]` or `[.., k, more]`.
    pub with: Vec<String>,
}

impl Outcome {
    /// Adds a computed tensor under a key of the fixture.
    pub fn add(&mut self, key: impl Into<String>, tensor: Tensor) {
        self.tensors.insert(key.into(), tensor);
    }
}

/// Error of one tensor in units of its bound, and relative to the largest reference value.
struct Distance {
    key: String,
    of_bound: f64,
    relative: f64,
}

/// One line: the worst tensor within the tolerance, or everything that is not.
pub fn judge(case: &Case, outcome: &Outcome, looseness: f64) -> std::result::Result<String, String> {
    let mut errors: Vec<Distance> = Vec::new();
    let mut problems: Vec<String> = Vec::new();
    let wanted = |k: &str| k.starts_with("output.") || k.starts_with("grad.");
    for (key, want) in case.tensors.iter().filter(|(k, _)| wanted(k)) {
        let Some(got) = outcome.tensors.get(key) else {
            problems.push(format!("{key} was not computed"));
            continue;
        };
        match distance(case, outcome, key, got, want, looseness) {
            Ok(error) if error.of_bound <= 1.0 => errors.push(error),
            Ok(e) => problems.push(format!(
                "{key} {} differs by {:.2e} of its largest value, {:.1} times the bound",
                want.ty(),
                e.relative,
                e.of_bound
            )),
            Err(e) => problems.push(format!("{key}: {e}")),
        }
    }
    for (key, got) in &outcome.tensors {
        // A gradient that the reference does not have at all: only zero is alike.
        if !case.has(key) && key.starts_with("grad.") && got.floats().iter().any(|v| *v != 0.0) {
            problems.push(format!("{key} is not zero; the reference has no such gradient"));
        }
    }
    if !problems.is_empty() {
        return Err(problems.join("; "));
    }
    let worst = errors.iter().max_by(|a, b| a.of_bound.total_cmp(&b.of_bound));
    Ok(worst.map_or_else(
        || "nothing to compare".to_owned(),
        |w| {
            format!(
                "{:.1e} relative, {:.2}% of the bound: {} ({} tensors)",
                w.relative,
                100.0 * w.of_bound,
                w.key,
                errors.len()
            )
        },
    ))
}

fn distance(
    case: &Case,
    outcome: &Outcome,
    key: &str,
    got: &Tensor,
    want: &Tensor,
    looseness: f64,
) -> Result<Distance> {
    if got.ty() != want.ty() {
        let message = format!("expected {}, got {}", want.ty(), got.ty());
        return Err(Error::argument("type", message));
    }
    let (mut got, mut want) = (got.clone(), want.clone());
    for set in &outcome.sets {
        if set.by == key || set.with.iter().any(|k| k == key) {
            let by = outcome.tensors.get(&set.by);
            let by = by.ok_or_else(|| Error::argument(&set.by, "was not computed"))?;
            got = permute(&got, &ranks(by), by)?;
            let by = case.tensor(&set.by)?;
            want = permute(&want, &ranks(by), by)?;
        }
    }
    let mask = match case.compare_mask.get(key) {
        Some(mask) => case.tensor(mask)?.ints(),
        None => &[],
    };
    // A mask [b, n] covers everything under [b, n, ..].
    let each = want.data().len() / mask.len().max(1);
    let counts = |i: usize| mask.is_empty() || mask[i / each.max(1)] != 0;
    if want.ty().dtype == DType::U32 {
        let pairs = got.ints().iter().zip(want.ints()).enumerate();
        let wrong = pairs.filter(|(i, (a, b))| counts(*i) && a != b).count();
        return match wrong {
            0 => Ok(Distance { key: key.to_owned(), of_bound: 0.0, relative: 0.0 }),
            n => Err(Error::argument("integers", format!("{n} of {} differ", want.ints().len()))),
        };
    }
    let (mut top, mut worst) = (0.0f64, 0.0f64);
    for (i, (a, b)) in got.floats().iter().zip(want.floats()).enumerate() {
        if counts(i) {
            let d = (f64::from(*a) - f64::from(*b)).abs();
            worst = if d.is_nan() { f64::INFINITY } else { worst.max(d) };
            top = top.max(f64::from(b.abs()));
        }
    }
    Ok(Distance {
        key: key.to_owned(),
        of_bound: worst / (looseness * (2e-6 + 5e-4 * top)),
        relative: if worst == 0.0 { 0.0 } else { worst / top.max(1e-30) },
    })
}

/// Per row of `[.., k]`, the places of its entries in rising order.
fn ranks(by: &Tensor) -> Vec<usize> {
    let k = by.shape().last().copied().unwrap_or(1).max(1);
    let mut order = Vec::with_capacity(by.ints().len());
    for row in by.ints().chunks(k) {
        let mut places: Vec<usize> = (0..row.len()).collect();
        places.sort_by_key(|i| row[*i]);
        order.extend(places);
    }
    order
}

/// Entry j of each row of the result is entry `order[j]` of `tensor`, `[.., k]` or `[.., k, more]`.
pub fn permute(tensor: &Tensor, order: &[usize], by: &Tensor) -> Result<Tensor> {
    let k = by.shape().last().copied().unwrap_or(1).max(1);
    let entries = order.len().max(1);
    if !tensor.data().len().is_multiple_of(entries) {
        let message = format!("{} does not go with a selection {}", tensor.ty(), by.ty());
        return Err(Error::argument("set", message));
    }
    let width = tensor.data().len() / entries;
    let source = (0..order.len()).flat_map(|i| {
        let entry = i / k * k + order[i];
        entry * width..(entry + 1) * width
    });
    match tensor.ty().dtype {
        DType::F32 => {
            let data = tensor.floats();
            Tensor::f32(tensor.shape(), source.map(|i| data[i]).collect())
        }
        DType::U32 => {
            let data = tensor.ints();
            Tensor::u32(tensor.shape(), source.map(|i| data[i]).collect())
        }
    }
}

/// The permutation that puts our selection's companions (`theirs`, in the reference's order) into our order.
pub fn matching(ours: &Tensor, theirs: &Tensor) -> Vec<usize> {
    let (ours, theirs) = (ranks(ours), (ranks(theirs), theirs));
    let k = theirs.1.shape().last().copied().unwrap_or(1).max(1);
    let mut order = vec![0; ours.len()];
    for (i, (mine, other)) in ours.iter().zip(&theirs.0).enumerate() {
        order[i / k * k + mine] = *other;
    }
    order
}
