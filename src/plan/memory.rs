//! Slots: buffers shared by values that do not live at the same time. Greedy by size (Pisarchyk and Lee 2020,
//! arXiv 2001.03288).

use rustc_hash::FxHashMap;

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

/// Places of values in slots.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    /// Slot of each value.
    pub of: FxHashMap<usize, usize>,
    /// Bytes of each slot.
    pub bytes: Vec<u64>,
    /// Bytes of all slots together.
    pub peak: u64,
    /// Bytes that live at the same time, at the most: no placement needs less.
    pub least: u64,
    /// Bytes if no memory were shared.
    pub unshared: u64,
}

/// Puts values into slots so that no two that live at the same time share one.
pub(crate) fn assign_slots(lives: &[Life], reuse: bool) -> Slots {
    let mut order: Vec<&Life> = lives.iter().collect();
    order.sort_unstable_by(|a, b| b.bytes.cmp(&a.bytes).then(a.first.cmp(&b.first)).then(a.key.cmp(&b.key)));
    let mut slots = Slots { unshared: lives.iter().map(|l| l.bytes).sum(), ..Slots::default() };
    let mut residents: Vec<Vec<(usize, usize)>> = Vec::new();
    for life in order {
        let free = |r: &Vec<(usize, usize)>| r.iter().all(|(first, last)| life.last < *first || *last < life.first);
        // Sizes fall, so the first free slot is large enough; the last one fits closest.
        let slot = if reuse { residents.iter().rposition(free) } else { None };
        let slot = slot.unwrap_or_else(|| {
            residents.push(Vec::new());
            slots.bytes.push(life.bytes.max(4));
            residents.len() - 1
        });
        residents[slot].push((life.first, life.last));
        slots.of.insert(life.key, slot);
    }
    slots.peak = slots.bytes.iter().sum();
    slots.least = most_alive(lives);
    slots
}

/// The most bytes that live at the same time.
fn most_alive(lives: &[Life]) -> u64 {
    let mut changes: Vec<(usize, bool, u64)> =
        lives.iter().flat_map(|l| [(l.first, true, l.bytes), (l.last + 1, false, l.bytes)]).collect();
    // What ends before a step makes room for what begins with it.
    changes.sort_unstable();
    let (mut alive, mut most) = (0, 0);
    for (_, begins, bytes) in changes {
        alive = if begins { alive + bytes } else { alive - bytes };
        most = most.max(alive);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_at_once_bounds_the_slots_from_below() {
        let life = |key, bytes, first, last| Life { key, bytes, first, last, used: true };
        // A chain, and a value that lives throughout.
        let lives = [life(0, 8, 0, 1), life(1, 8, 1, 2), life(2, 8, 2, 3), life(3, 4, 0, 3)];
        let slots = assign_slots(&lives, true);
        assert_eq!((slots.least, slots.peak, slots.unshared), (20, 20, 28));
        assert_eq!(assign_slots(&lives, false).least, 20);
        assert_eq!(assign_slots(&[], true).least, 0);
    }
}
