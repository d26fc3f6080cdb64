//! An axis: where numbers lie on it, where it begins and ends, and which numbers are written along it.

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use std::ops::Range;

/// Numbers along an axis, in equal steps or in equal factors.
pub struct Axis {
    factors: bool,
    /// First and last place.
    ends: [f64; 2],
    pub ticks: Vec<f64>,
}

/// A number for a label.
pub fn label(value: f64) -> String {
    let short = |v: f64, unit| format!("{v:.2}").trim_end_matches('0').trim_end_matches('.').to_owned() + unit;
    match value.abs() {
        v if v >= 1e6 => short(value / 1e6, "M"),
        v if v >= 1e5 => short(value / 1e3, "k"),
        v if v >= 1e-2 || v == 0.0 => short(value, ""),
        _ => format!("{value:.0e}"),
    }
}

impl Axis {
    /// An axis for these numbers; `from` is one that has to be on it.
    pub fn of(factors: bool, values: impl Iterator<Item = f64>, from: Option<f64>) -> Axis {
        let values = values.filter(|v| v.is_finite() && (!factors || *v > 0.0)).chain(from);
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = if low > high { (1.0, 2.0) } else { (low, high) };
        let ticks = if factors { by_factors(low, high) } else { by_steps(low, high) };
        let (first, last) = (place(factors, low), place(factors, high));
        let room = (last - first).max(1e-9) * 0.06;
        Axis { factors, ends: [if from == Some(low) { first } else { first - room }, last + room], ticks }
    }

    /// An axis of so many names: 0, 1 and so on.
    pub fn of_names(count: usize) -> Axis {
        Axis { factors: false, ends: [-0.5, count as f64 - 0.5], ticks: (0..count).map(|i| i as f64).collect() }
    }
}

fn place(factors: bool, value: f64) -> f64 {
    if factors { value.max(1e-30).log10() } else { value }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (place(self.factors, *value) - self.ends[0]) / (self.ends[1] - self.ends[0]);
        (f64::from(from) + share * f64::from(to - from)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        let [from, to] = self.ends.map(|end| if self.factors { 10f64.powf(end) } else { end });
        from..to
    }
}

/// About six round numbers, a step apart.
fn by_steps(low: f64, high: f64) -> Vec<f64> {
    let wanted = (high - low).max(1e-9) / 6.0;
    let ten = 10f64.powf(wanted.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|f| f * ten).into_iter().find(|s| *s >= wanted).unwrap_or(wanted);
    let (first, last) = ((low / step).ceil() as i64, (high / step + 0.06).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Round numbers in every power of ten, three at least if there is room.
fn by_factors(low: f64, high: f64) -> Vec<f64> {
    let tens = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let of = |digits: &[f64]| -> Vec<f64> {
        let all = tens.clone().flat_map(|ten| digits.iter().map(move |d| d * 10f64.powi(ten)));
        all.filter(|v| (low * 0.99..=high * 1.01).contains(v)).collect()
    };
    let few = [&[1.0][..], &[1.0, 3.0], &[1.0, 2.0, 5.0]].into_iter().map(of).find(|ticks| ticks.len() >= 4);
    few.unwrap_or_else(|| of(&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0]))
}
