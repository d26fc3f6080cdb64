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
    slots
}
