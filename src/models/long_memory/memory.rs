//! The memory itself: rings of rows in a store, and what a run has added to them so far.

use super::config::RoutedMemoryConfig;
use crate::error::{Error, Result};
use crate::exec::Store;
use crate::graph::{Graph, Var};
use crate::models::parts::{expect, flat};
use crate::nn::{Bank, BankType, Storage, stored};
use crate::types::{Tensor, TensorType};

/// What is kept of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The normed input, `[D]`.
    Inputs,
    /// Its products with the routing tokens, `[r]`.
    Scores,
    /// Keys and values, `[h, 2, d]`.
    Finished,
}

impl Kept {
    fn name(self) -> &'static str {
        match self {
            Kept::Inputs => "inputs",
            Kept::Scores => "scores",
            Kept::Finished => "keys_values",
        }
    }
}

/// Tables of a memory of `batch` samples.
pub(super) fn tables(c: &RoutedMemoryConfig, batch: usize) -> Result<Vec<(Kept, BankType)>> {
    let rows = batch.saturating_mul(c.capacity);
    let table = |kept, width, storage| BankType::new(storage, rows, width, c.binding_bytes).map(|ty| (kept, ty));
    if batch == 0 {
        return Err(Error::argument("routed memory", "a batch of 0; expected at least 1"));
    }
    let mut all = Vec::new();
    if !c.finished || c.lookback.is_some() {
        all.push(table(Kept::Inputs, c.dim, c.storage)?);
    } else {
        all.push(table(Kept::Scores, c.routes, Storage::F32)?);
    }
    if c.finished {
        all.push(table(Kept::Finished, 2 * c.heads * c.dim_head, c.storage)?);
    }
    Ok(all)
}

/// Names and types of the states below `name`.
pub(super) fn states(c: &RoutedMemoryConfig, name: &str, batch: usize) -> Result<Vec<(String, TensorType)>> {
    let mut all = vec![(format!("{name}.written"), TensorType::u32([batch]))];
    for (kept, ty) in tables(c, batch)? {
        all.extend(ty.named(&format!("{name}.{}", kept.name())));
    }
    Ok(all)
}

/// Adds the states to a store, empty. Tables that are there keep their contents, which nothing sees any more.
pub(super) fn clear(c: &RoutedMemoryConfig, store: &Store, name: &str, batch: usize) -> Result<()> {
    for (kept, ty) in tables(c, batch)? {
        ty.add_to(store, &format!("{name}.{}", kept.name()))?;
    }
    store.set(&format!("{name}.written"), &Tensor::zeros(&TensorType::u32([batch])))
}

/// A ring of rows, and rows `[b, m, width]` of this run.
#[derive(Clone, Debug)]
struct Ring<'g> {
    kept: Kept,
    /// What there was before the run; none where a memory begins with it.
    bank: Option<Bank<'g>>,
    storage: Storage,
    pushed: Option<Var<'g>>,
}

/// What a run has pushed: m places of each sample, of which some hold an input.
#[derive(Clone, Copy, Debug)]
struct Pushed<'g> {
    /// How many inputs were pushed before the one at this place, u32 `[b, m]`.
    offset: Var<'g>,
    /// Places that hold an input, u32 0/1 `[b, m]`.
    counted: Var<'g>,
    /// Inputs, u32 `[b, 1]`.
    total: Var<'g>,
}

/// The memory of `b` samples in a graph: rings of N inputs as they were before the run, and the inputs pushed since. Reading
/// sees both, so that blocks of one run are as if each were a run of its own. [`commit`](Self::commit) keeps it.
///
/// `written` counts the inputs of each sample: up to N as they are, from then on modulo N plus N, so that it never overflows.
#[derive(Clone)]
pub struct LongMemory<'g> {
    graph: &'g Graph,
    batch: usize,
    capacity: usize,
    /// Slots of the rings: the capacity, or none where a memory begins with the run.
    slots: usize,
    written: Var<'g>,
    /// The state that `written` is from.
    state: Option<Var<'g>>,
    rings: Vec<Ring<'g>>,
    pushed: Option<Pushed<'g>>,
}

impl std::fmt::Debug for LongMemory<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let LongMemory { batch, capacity, slots, rings, .. } = self;
        f.debug_struct("LongMemory")
            .field("batch", batch)
            .field("capacity", capacity)
            .field("slots", slots)
            .field("rings", rings)
            .finish_non_exhaustive()
    }
}

impl<'g> LongMemory<'g> {
    /// The states below `name`; without a name the memory begins with the run, and is not kept.
    #[track_caller]
    pub(super) fn new(c: &RoutedMemoryConfig, graph: &'g Graph, name: Option<&str>, batch: usize) -> Self {
        let tables = tables(c, batch).unwrap_or_else(|error| {
            graph.fail(error);
            Vec::new()
        });
        let ring = |(kept, ty): (Kept, BankType)| {
            let storage = if kept == Kept::Scores { Storage::F32 } else { c.storage };
            let bank = name.map(|name| ty.state(graph, &format!("{name}.{}", kept.name())));
            Ring { kept, bank, storage, pushed: None }
        };
        let state = name.map(|name| graph.state(&format!("{name}.written"), TensorType::u32([batch])));
        LongMemory {
            graph,
            batch,
            capacity: c.capacity,
            slots: if name.is_some() { c.capacity } else { 0 },
            written: state.unwrap_or_else(|| graph.full_u32([batch], 0)),
            state,
            rings: tables.into_iter().map(ring).collect(),
            pushed: None,
        }
    }

    /// The memory of which the samples marked in `begin` (u32 0/1 `[b]`) have forgotten what was stored.
    #[track_caller]
    pub fn begin(&self, begin: Var<'g>) -> Self {
        expect(self.graph, "routed memory: begin", begin, &TensorType::u32([self.batch]));
        LongMemory { written: begin.select(self.graph.full_u32([self.batch], 0), self.written), ..self.clone() }
    }

    /// Whether it has room for no input at all: it begins with this run, and nothing was pushed.
    pub(super) fn is_empty(&self) -> bool {
        self.slots == 0 && self.pushed.is_none()
    }

    /// Number of samples.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Inputs that each sample has in memory, u32 `[b]`.
    pub fn valid(&self) -> Var<'g> {
        let total = self.pushed.map_or_else(|| self.graph.full_u32([self.batch, 1], 0), |p| p.total);
        (self.filled() + total).minimum(self.numbers()).reshape([self.batch])
    }

    fn numbers(&self) -> Var<'g> {
        self.graph.full_u32([], self.capacity as u32)
    }

    /// Slots in use, `[b, 1]`.
    fn filled(&self) -> Var<'g> {
        self.written.reshape([self.batch, 1]).minimum(self.numbers())
    }

    /// The slot that is written next, `[b, 1]`.
    fn next(&self) -> Var<'g> {
        self.written.reshape([self.batch, 1]).rem(self.capacity as u32)
    }

    /// Ages of what was stored that also count what was pushed since.
    fn aged(&self, age: Var<'g>) -> Var<'g> {
        self.pushed.map_or(age, |p| age + p.total)
    }

    /// Slots, then places of this run: age of each (the newest input is 1 old), and which can be seen; u32 `[b, N + m]`.
    pub(super) fn ages(&self) -> (Var<'g>, Var<'g>) {
        let (g, n) = (self.graph, self.capacity as u32);
        let stored = (self.slots > 0).then(|| {
            let slot = g.iota([self.batch, self.slots], 1);
            let age = (self.next() + (n - 1) - slot).rem(n) + 1;
            (self.aged(age), age.le(self.filled()))
        });
        let (age, exists) = self.with_pushed(stored);
        (age, exists.and(age.le(n)))
    }

    /// Indices (slots, then places of this run) with the oldest input first, u32 `[b, N + m]`; none where they are so already.
    /// Equal inputs have equal scores, and which of them is picked must not depend on where the ring begins.
    pub(super) fn oldest_first(&self) -> Option<Var<'g>> {
        let (g, b, n) = (self.graph, self.batch, self.slots);
        let slots = (n > 0).then(|| (self.next() + g.iota([b, n], 1)).rem(n as u32))?;
        Some(slots.concat(&[g.iota([b, self.places()], 1) + n as u32], 1))
    }

    /// Age and existence of what was stored, then of the places of this run.
    fn with_pushed(&self, stored: Option<(Var<'g>, Var<'g>)>) -> (Var<'g>, Var<'g>) {
        let pushed = self.pushed.map(|p| (p.total - p.offset, p.counted));
        match (stored, pushed) {
            (Some(a), Some(b)) => (a.0.concat(&[b.0], 1), a.1.concat(&[b.1], 1)),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => {
                let none = self.graph.full_u32([self.batch, 0], 0);
                (none, none)
            }
        }
    }

    /// Places of this run.
    fn places(&self) -> usize {
        self.pushed.map_or(0, |p| p.offset.dim(1))
    }

    fn ring(&self, kept: Kept) -> Option<&Ring<'g>> {
        self.rings.iter().find(|ring| ring.kept == kept)
    }

    /// What was kept of the inputs at `indices` u32 `[b, .., k]` (slots, then places of this run): `[b, .., k, width]`.
    pub(super) fn take(&self, kept: Kept, indices: Var<'g>) -> Option<Var<'g>> {
        let ring = self.ring(kept)?;
        let (b, n, m) = (self.batch, self.slots, self.places());
        let found = ring.bank.as_ref().map(|bank| bank.take(flat(indices, b, n, None)));
        // Wraps for slots, which then name no place.
        let own = || flat(indices - n as u32, b, m, None);
        let own = ring.pushed.map(|rows| rows.reshape([b * m, rows.dim(2)]).gather(own()));
        match (found, own) {
            (Some(found), Some(own)) => Some(found + own),
            (one, None) | (None, one) => one,
        }
    }

    /// The newest `count` inputs, unordered: rows `[b, count + m, D]`, and which of them count, u32 `[b, count + m]`.
    pub(super) fn latest(&self, count: usize) -> Option<(Var<'g>, Var<'g>)> {
        let (g, b, n) = (self.graph, self.batch, self.capacity as u32);
        let ring = self.ring(Kept::Inputs)?;
        let age = g.iota([b, count], 1) + 1;
        let stored = ring.bank.as_ref().map(|bank| {
            let slot = (self.next() + n - age).rem(n);
            bank.take(flat(slot, b, self.capacity, None))
        });
        let rows = both(stored, ring.pushed, 1)?;
        let (age, exists) = self.with_pushed(stored.map(|_| (self.aged(age), age.le(self.filled()))));
        Some((rows, exists.and(age.le(count as u32))))
    }

    /// Scores `[b, r, N + m]` for routing tokens `[1 or b, r, D]` of unit length; those kept, where inputs are not.
    pub(super) fn scores(&self, tokens: Var<'g>) -> Option<Var<'g>> {
        let (b, n) = (self.batch, self.slots);
        let (stored, pushed) = match (self.ring(Kept::Inputs), self.ring(Kept::Scores)) {
            (Some(ring), _) => {
                let rows = ring.pushed.map(|rows| rows.matmul(tokens.transpose(1, 2)));
                (ring.bank.as_ref().map(|bank| bank.scores(tokens, n)), rows)
            }
            (None, Some(ring)) => match ring.bank.as_ref().map(Bank::pieces) {
                Some([first, rest @ ..]) => (Some(first.concat(rest, 0)), ring.pushed),
                Some([]) => return None,
                None => (None, ring.pushed),
            },
            (None, None) => return None,
        };
        let stored = stored.map(|rows| rows.reshape([b, n, tokens.dim(1)]));
        Some(both(stored, pushed, 1)?.transpose(1, 2))
    }

    /// The memory with `n` more places; of the rows `[b, n, width]` that `of` gives, the first `counts` (u32 `[b]`) of each
    /// sample are inputs.
    pub(super) fn push(&self, n: usize, counts: Option<Var<'g>>, of: impl Fn(Kept) -> Var<'g>) -> Self {
        let (g, b) = (self.graph, self.batch);
        let counts = counts
            .map_or_else(|| g.full_u32([b, 1], n as u32), |c| c.reshape([b, 1]).minimum(g.full_u32([], n as u32)));
        let place = g.iota([b, n], 1);
        let counted = place.lt(counts);
        let pushed = match self.pushed {
            None => Pushed { offset: place, counted, total: counts },
            Some(p) => Pushed {
                offset: p.offset.concat(&[place + p.total], 1),
                counted: p.counted.concat(&[counted], 1),
                total: p.total + counts,
            },
        };
        let ring = |ring: &Ring<'g>| {
            let rows = of(ring.kept);
            let width = rows.dim(2);
            let rows = stored(rows.reshape([b * n, width]), ring.storage).reshape([b, n, width]);
            let rows = ring.pushed.map_or(rows, |before| before.concat(&[rows], 1));
            Ring { pushed: Some(rows), ..ring.clone() }
        };
        LongMemory { rings: self.rings.iter().map(ring).collect(), pushed: Some(pushed), ..self.clone() }
    }

    /// Keeps the memory for the next run; once in a graph. The tables are written in place, at the end of the run, if its gate
    /// is open: of each sample the newest N inputs pushed.
    #[track_caller]
    pub fn commit(&self) {
        let (Some(p), Some(state)) = (self.pushed, self.state) else { return };
        let (g, b, n) = (self.graph, self.batch, self.capacity as u32);
        let m = self.places();
        let slot = (self.next() + p.offset).rem(n);
        let newest = p.counted.and((p.total - p.offset).le(n));
        let place = newest.select(g.iota([b, m], 0) * n + slot, g.full_u32([], b as u32 * n));
        for ring in &self.rings {
            if let (Some(rows), Some(bank)) = (ring.pushed, &ring.bank) {
                bank.assign(rows.reshape([b * m, rows.dim(2)]), place.reshape([b * m]));
            }
        }
        let count = self.written.reshape([b, 1]) + p.total;
        let count = count.lt(2 * n).select(count, count.rem(n) + n);
        g.assign(state, count.reshape([b]));
    }
}

/// Both beside each other, or the one there is.
fn both<'g>(a: Option<Var<'g>>, b: Option<Var<'g>>, axis: usize) -> Option<Var<'g>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.concat(&[b], axis)),
        (one, None) | (None, one) => one,
    }
}
