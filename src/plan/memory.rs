//! Slots: buffers shared by values, at different times in the same bytes, at the same time side by side. The largest go first
//! (Pisarchyk and Lee 2020, arXiv 2001.03288), each to where the least is added.
//!
//! WebGPU takes a whole buffer as written or as read within a dispatch, so a value that is written stands in another slot
//! than what is bound beside it; everything else may be neighbours.

use rustc_hash::{FxHashMap, FxHashSet};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Bytes between places in a slot: the portable alignment of bindings.
const ALIGN: u64 = 256;
/// Slots do not grow beyond this for a neighbour's sake: every device has buffers twice as large.
const SHARED: u64 = 128 << 20;

/// When a value lives.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub key: usize,
    pub bytes: u64,
    pub first: usize,
    pub last: usize,
    pub used: bool,
}

impl Life {
    pub fn touch(&mut self, at: usize) {
        self.first = self.first.min(at);
        self.last = self.last.max(at);
    }
}

/// Pairs of values that may not be neighbours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Apart(FxHashSet<(usize, usize)>);

impl Apart {
    /// Keeps a value that is written apart from one that is bound beside it.
    pub fn keep(&mut self, written: usize, beside: usize) {
        if written != beside {
            self.0.insert((written.min(beside), written.max(beside)));
        }
    }

    fn are(&self, a: usize, b: usize) -> bool {
        self.0.contains(&(a.min(b), a.max(b)))
    }
}

/// Where a value lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Number of the slot.
    pub slot: usize,
    /// Bytes before it, a multiple of 256.
    pub offset: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "slot{}", self.slot)?;
        if self.offset > 0 { write!(f, "+{}", self.offset) } else { Ok(()) }
    }
}

/// Places of values in slots.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    /// Place of each value.
    pub of: FxHashMap<usize, Place>,
    /// Bytes of each slot.
    pub bytes: Vec<u64>,
    /// Bytes of all slots together.
    pub peak: u64,
    /// Bytes that live at the same time, at the most: no placement needs less.
    pub least: u64,
    /// Bytes if no memory were shared.
    pub unshared: u64,
}

/// Values of one slot with the bytes before each.
type Residents<'a> = Vec<(&'a Life, u64)>;

/// What is placed first: the largest of these.
type Rank = fn(&Life) -> (u64, usize);

/// Puts values into slots so that no two that live at the same time share bytes, and none that are to be apart share a slot.
/// No order is best for every plan: the best result of some is taken.
pub(crate) fn assign_slots(lives: &[Life], apart: &Apart, reuse: bool) -> Slots {
    let least = most_alive(lives);
    const ORDERS: [Rank; 4] = [
        |l| (l.bytes, usize::MAX - l.first),
        |l| (l.bytes, l.last - l.first),
        |l| (l.bytes, l.last),
        |l| (l.bytes.saturating_mul((l.last - l.first) as u64 + 1), 0),
    ];
    let mut best: Option<Slots> = None;
    for rank in ORDERS.iter().take(if reuse { ORDERS.len() } else { 1 }) {
        let mut order: Vec<&Life> = lives.iter().collect();
        order.sort_by_cached_key(|l| (Reverse(rank(l)), l.key));
        let slots = in_order(&order, apart, reuse);
        if best.as_ref().is_none_or(|b| slots.peak < b.peak) {
            best = Some(slots);
        }
        if best.as_ref().is_some_and(|b| b.peak <= least) {
            break;
        }
    }
    let unshared = lives.iter().map(|l| l.bytes).sum();
    Slots { least, unshared, ..best.unwrap_or_default() }
}

/// Puts one value after the other to where the least is added.
fn in_order(order: &[&Life], apart: &Apart, reuse: bool) -> Slots {
    let mut slots = Slots::default();
    let mut residents: Vec<Residents<'_>> = Vec::new();
    for &life in order {
        let bytes = life.bytes.max(4);
        let fitting = residents.iter().zip(&slots.bytes).enumerate().filter_map(|(slot, (residents, &size))| {
            let offset = gap(residents, life, apart)?;
            let (end, left) = (offset + bytes, size.saturating_sub(offset));
            (end <= size.max(SHARED)).then_some((end.saturating_sub(size), left, slot, offset))
        });
        // Growing by as much as the value has is no better than a slot of its own.
        let best = fitting.min().filter(|(grown, ..)| reuse && *grown < bytes);
        let place =
            best.map_or(Place { slot: residents.len(), offset: 0 }, |(_, _, slot, offset)| Place { slot, offset });
        if place.slot == residents.len() {
            residents.push(Vec::new());
            slots.bytes.push(0);
        }
        residents[place.slot].push((life, place.offset));
        slots.bytes[place.slot] = slots.bytes[place.slot].max(place.offset + bytes);
        slots.of.insert(life.key, place);
    }
    slots.peak = slots.bytes.iter().sum();
    slots
}

/// The narrowest place among those that live in a slot at the same time, or behind them; none if it must be apart from one.
fn gap(residents: &Residents<'_>, life: &Life, apart: &Apart) -> Option<u64> {
    let mut taken = Vec::new();
    for (other, offset) in residents.iter().filter(|(other, _)| life.last >= other.first && other.last >= life.first) {
        if apart.are(life.key, other.key) {
            return None;
        }
        taken.push((*offset, (offset + other.bytes.max(4)).next_multiple_of(ALIGN)));
    }
    taken.sort_unstable();
    let (mut best, mut end) = (None, 0);
    for (from, to) in taken {
        let width = from.saturating_sub(end);
        if width >= life.bytes.max(4) && best.is_none_or(|(narrowest, _)| width < narrowest) {
            best = Some((width, end));
        }
        end = end.max(to);
    }
    Some(best.map_or(end, |(_, offset)| offset))
}

/// The most bytes that live at the same time.
fn most_alive(lives: &[Life]) -> u64 {
    let changes: BinaryHeap<(usize, bool, u64)> =
        lives.iter().flat_map(|l| [(l.first, true, l.bytes), (l.last + 1, false, l.bytes)]).collect();
    let (mut alive, mut most) = (0, 0);
    // What ends before a step makes room for what begins with it.
    for (_, begins, bytes) in changes.into_sorted_vec() {
        alive = if begins { alive + bytes } else { alive - bytes };
        most = most.max(alive);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(key: usize, bytes: u64, first: usize, last: usize) -> Life {
        Life { key, bytes, first, last, used: true }
    }

    #[test]
    fn what_lives_at_once_bounds_the_slots_from_below() {
        // A chain, and a value that lives throughout.
        let lives = [life(0, 8, 0, 1), life(1, 8, 1, 2), life(2, 8, 2, 3), life(3, 4, 0, 3)];
        let slots = assign_slots(&lives, &Apart::default(), true);
        assert_eq!((slots.least, slots.peak, slots.unshared), (20, 20, 28));
        assert_eq!(assign_slots(&lives, &Apart::default(), false).peak, 28);
        assert_eq!(assign_slots(&lives, &Apart::default(), false).least, 20);
        assert_eq!(assign_slots(&[], &Apart::default(), true).least, 0);
    }

    #[test]
    fn values_stand_side_by_side_where_a_larger_one_was() {
        let lives = [life(0, 1024, 0, 1), life(1, 512, 2, 3), life(2, 512, 2, 3)];
        let slots = assign_slots(&lives, &Apart::default(), true);
        assert_eq!((slots.peak, slots.least), (1024, 1024));
        let mut apart = Apart::default();
        apart.keep(2, 1);
        assert_eq!(assign_slots(&lives, &apart, true).peak, 1536);
    }

    #[test]
    fn where_the_first_order_wastes_another_is_taken() {
        // By beginning alone, 1280 bytes: the last large one comes to stand where the small one would.
        let lives = [life(0, 512, 2, 3), life(1, 512, 1, 2), life(2, 256, 3, 5), life(3, 512, 4, 5)];
        let slots = assign_slots(&lives, &Apart::default(), true);
        assert_eq!((slots.peak, slots.least), (1024, 1024));
    }

    #[test]
    fn the_narrowest_place_that_is_wide_enough_is_taken() {
        let (a, b) = (life(0, 256, 0, 1), life(1, 256, 0, 1));
        let residents: Residents<'_> = vec![(&a, 512), (&b, 1024)];
        for (bytes, want) in [(200, 768), (256, 768), (257, 0), (512, 0), (513, 1280)] {
            assert_eq!(gap(&residents, &life(2, bytes, 1, 1), &Apart::default()), Some(want), "{bytes}");
        }
        assert_eq!(gap(&residents, &life(2, 600, 2, 3), &Apart::default()), Some(0), "nobody is left");
    }

    #[test]
    fn nothing_overlaps() {
        let mut state = 1u64;
        let mut draw = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % n
        };
        for _ in 0..50 {
            let lives: Vec<Life> = (0..60)
                .map(|key| {
                    let first = draw(40) as usize;
                    life(key, draw(3000), first, first + draw(12) as usize)
                })
                .collect();
            let mut apart = Apart::default();
            (0..60).for_each(|_| apart.keep(draw(60) as usize, draw(60) as usize));
            let slots = assign_slots(&lives, &apart, true);
            assert!(slots.least <= slots.peak && slots.peak <= slots.unshared + 4 * 60);
            for a in &lives {
                let place = slots.of[&a.key];
                assert!(place.offset.is_multiple_of(ALIGN) && place.offset + a.bytes <= slots.bytes[place.slot]);
                for b in lives.iter().filter(|b| b.key != a.key && b.first <= a.last && a.first <= b.last) {
                    let other = slots.of[&b.key];
                    let beside = place.offset + a.bytes <= other.offset || other.offset + b.bytes <= place.offset;
                    assert!(place.slot != other.slot || (beside && !apart.are(a.key, b.key)));
                }
            }
        }
    }
}
