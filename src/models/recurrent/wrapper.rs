//! Training over texts longer than one call: memories and states go from segment to segment.

use super::memory::Memory;
use super::state::States;
use super::transformer::{BlockRecurrentTransformer, Carried};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::Store;
use crate::graph::{Graph, Mode, Var};
use crate::models::long_memory::LongMemory;
use crate::models::parts::{expect, refuse};
use crate::nn::ParamVars;
use crate::types::{Tensor, TensorType};

/// State: how many rows each text's memories have; 0 at the start of a text.
const COUNT: &str = "recurrent.count";
/// Site of the first segment's random numbers.
const SITE: u32 = 0x4252_0000;

/// Trains a model on segments of [`max_seq_len`](super::BlockRecurrentConfig::max_seq_len) tokens. Gradients cross the blocks of
/// a segment, not segments.
#[derive(Clone, Debug)]
pub struct RecurrentTrainerWrapper {
    model: BlockRecurrentTransformer,
    xl_memories_dropout: f64,
    state_dropout: f64,
}

impl RecurrentTrainerWrapper {
    /// Nothing is dropped.
    pub fn new(model: BlockRecurrentTransformer) -> Self {
        RecurrentTrainerWrapper { model, xl_memories_dropout: 0.0, state_dropout: 0.0 }
    }

    /// In training, forgets all memories before a segment with the first probability, and all states with the second. Long
    /// memories stay.
    ///
    /// # Errors
    /// [`Error::Argument`] for what is no probability.
    pub fn dropout(self, xl_memories: f64, states: f64) -> Result<Self> {
        for (what, p) in [("xl_memories", xl_memories), ("states", states)] {
            if !(0.0..=1.0).contains(&p) {
                let message = format!("{what}: {p} is no probability");
                return Err(Error::argument("RecurrentTrainerWrapper::dropout", message));
            }
        }
        Ok(RecurrentTrainerWrapper { xl_memories_dropout: xl_memories, state_dropout: states, ..self })
    }

    /// The model.
    pub fn model(&self) -> &BlockRecurrentTransformer {
        &self.model
    }

    /// What the next segment gets of what the last one left.
    fn kept<'g>(&self, g: &'g Graph, carried: Carried<'g>, mode: Mode, segment: u32) -> Carried<'g> {
        let keep = |p: f64, site: u32| {
            (mode == Mode::Train && p > 0.0).then(|| g.uniform([], SITE + 2 * segment + site).ge(p))
        };
        let mut carried = carried.detach();
        if let Some(keep) = keep(self.xl_memories_dropout, 0) {
            for memory in &mut carried.memories {
                *memory = memory.counted(keep * memory.count());
            }
        }
        if let Some(keep) = keep(self.state_dropout, 1) {
            for states in &mut carried.states {
                let all = g.full_u32([states.vectors.dim(0)], 1);
                states.written = Some(keep.and(states.written.unwrap_or(all)));
            }
        }
        carried
    }

    /// Mean over the segments of the cross entropy of the next token, ids u32 `[b, s * max_seq_len + 1]`: all segments in one
    /// graph, as the package does it, and what the last one leaves. For texts of any length take
    /// [`segment_loss`](Self::segment_loss).
    #[track_caller]
    pub fn loss<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, mode: Mode) -> (Var<'g>, Carried<'g>) {
        let (g, length) = (ids.graph(), self.model.config().max_seq_len);
        let n = ids.dim(1).saturating_sub(1);
        self.check(ids, n > 0 && n.is_multiple_of(length), "a multiple of");
        let segments = (n / length).max(1);
        let (mut total, mut carried) = (g.full([], 0.0), Carried::default());
        for s in 0..segments {
            if s > 0 {
                carried = self.kept(g, carried, mode, s as u32);
            }
            let (loss, next) = self.model.loss(p, ids.slice(1, s * length, length + 1), &carried);
            (total, carried) = (total + loss, next);
        }
        (total * (1.0 / segments as f64), carried)
    }

    /// Refuses ids that are no whole segments.
    #[track_caller]
    fn check(&self, ids: Var<'_>, fits: bool, what: &str) {
        if !fits {
            let length = self.model.config().max_seq_len;
            let message = format!(
                "expected ids u32 [batch, n + 1] with n {what} max_seq_len {length}, got {}; cut or pad the text",
                ids.ty()
            );
            refuse(ids.graph(), "RecurrentTrainerWrapper", message);
        }
    }

    /// The states that [`segment_loss`](Self::segment_loss) keeps for `batch` texts. Zeros are the start of a text.
    pub fn states(&self, batch: usize) -> Vec<(String, TensorType)> {
        let c = self.model.config();
        let memory = TensorType::f32([batch, c.memory_rows(), c.dim_head]);
        let mut all = vec![(COUNT.to_owned(), TensorType::u32([batch]))];
        for i in 0..c.memories() {
            all.extend(["keys", "values"].map(|part| (format!("recurrent.memories.{i}.{part}"), memory.clone())));
        }
        for (i, bank) in self.model.state_containers().enumerate() {
            all.push((format!("recurrent.states.{i}"), bank.ty(batch)));
        }
        for (i, long) in self.model.long_memories() {
            // What is too large is refused when the loss is built.
            all.extend(long.states(&long_name(i), batch).unwrap_or_default());
        }
        all
    }

    /// A store with these states at the start of their texts, for plans outside a trainer.
    ///
    /// # Errors
    /// As [`Store::set_zeros`]; [`Error::Limit`] if a long memory has more rows than an index of 32 bits can name.
    pub fn store(&self, device: &Device, batch: usize) -> Result<Store> {
        let store = Store::new(device);
        for (name, ty) in self.states(batch) {
            store.set_zeros(&name, &ty)?;
        }
        for (i, long) in self.model.long_memories() {
            long.clear(&store, &long_name(i), batch)?;
        }
        Ok(store)
    }

    /// Lets all texts of a store begin anew.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub fn restart(&self, store: &Store, batch: usize) -> Result<()> {
        for (i, long) in self.model.long_memories() {
            long.clear(store, &long_name(i), batch)?;
        }
        store.set(COUNT, &Tensor::zeros(&TensorType::u32([batch])))
    }

    /// Loss of the next segment of each text, ids u32 `[b, max_seq_len + 1]` of which the last is the first of the segment
    /// after. What it leaves replaces the graph's [`states`](Self::states) at the end of the run, so a plan replayed reads a
    /// text of any length, without allocating or reading back. Texts marked in `begin` (u32 0/1, `[b]`) start anew.
    ///
    /// ```no_run
    /// # use wgrad::{Device, Mode, Result, TensorType, models::recurrent::*, train::{AdamW, Trainer}};
    /// # fn f(device: &Device, model: BlockRecurrentTransformer) -> Result<()> {
    /// let (batch, length) = (4, model.config().max_seq_len);
    /// let params = model.init(1);
    /// let segments = RecurrentTrainerWrapper::new(model);
    /// let mut trainer = Trainer::builder(device, params, AdamW::default())
    ///     .carry(segments.states(batch)) // in the checkpoint too
    ///     .compile_blocking(|graph, p| {
    ///         let ids = graph.input("ids", TensorType::u32([batch, length + 1]));
    ///         segments.segment_loss(p, ids, None, Mode::Train)
    ///     })?;
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn segment_loss<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, begin: Option<Var<'g>>, mode: Mode) -> Var<'g> {
        let (g, b, c) = (ids.graph(), ids.dim(0), self.model.config());
        self.check(ids, ids.dim(1) == c.max_seq_len + 1, "of");
        let count = g.state(COUNT, TensorType::u32([b]));
        let mut rows = count;
        if let Some(begin) = begin {
            expect(g, "segment_loss: begin", begin, &TensorType::u32([b]));
            rows = begin.select(g.full_u32([b], 0), rows);
        }
        let mut states = self.states(b).into_iter().skip(1).map(|(name, ty)| g.state(&name, ty));
        let mut past = Carried::default();
        for _ in 0..c.memories() {
            if let (Some(keys), Some(values)) = (states.next(), states.next()) {
                past.memories.push(Memory { keys, values, count: Some(rows) });
            }
        }
        let banks = states.by_ref().take(self.model.state_containers().count());
        past.states.extend(banks.map(|vectors| States { vectors, written: Some(rows.gt(0)) }));
        for (i, long) in self.model.long_memories() {
            let memory = long.memory(g, &long_name(i), b);
            past.long.push(begin.map_or(memory.clone(), |begin| memory.begin(begin)));
        }
        let (loss, next) = self.model.loss(p, ids, &self.kept(g, past.clone(), mode, 0));
        for (old, new) in past.memories.iter().zip(&next.memories) {
            g.assign(old.keys, grown(new.keys, c.memory_rows()));
            g.assign(old.values, grown(new.values, c.memory_rows()));
        }
        for (old, new) in past.states.iter().zip(&next.states) {
            g.assign(old.vectors, new.vectors);
        }
        next.long.iter().for_each(LongMemory::commit);
        // A model that remembers no keys still has states after a segment.
        g.assign(count, next.memories.first().map_or_else(|| g.full_u32([b], 1), Memory::count));
        loss
    }
}

/// Name of the states of a layer's long memory.
fn long_name(layer: usize) -> String {
    format!("recurrent.layers.{layer}.long")
}

/// `x` `[b, m, d]` with zeros in front up to `rows` rows.
fn grown(x: Var<'_>, rows: usize) -> Var<'_> {
    match rows.saturating_sub(x.dim(1)) {
        0 => x,
        more => x.pad(1, more, 0),
    }
}
