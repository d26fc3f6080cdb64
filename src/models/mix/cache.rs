//! A layer whose texts are read token by token: what a token needs of those before it is in states.

use super::attention::Cached;
use super::layer::Layer;
use crate::error::Result;
use crate::graph::{Graph, Var};
use crate::models::long_memory::{Recalled, RoutedMemory};
use crate::models::parts::chosen;
use crate::nn::ParamVars;
use crate::types::TensorType;

/// How far the texts have come.
#[derive(Clone, Copy)]
pub(super) struct Place<'g> {
    /// Tokens in the current segment, u32 `[b]`.
    pub length: Var<'g>,
    /// Tokens in the segments before, u32 `[b]`.
    pub seen: Var<'g>,
}

/// Parts of a layer that have a cache.
const ATTENTION: &str = "attention";
const FEED_FORWARD: &str = "feed_forward";
/// Parts of what was picked from a memory.
const RECALLED: [&str; 3] = ["keys", "values", "mask"];
/// The inputs of the segment, which go into memories at its end.
const INPUTS: &str = "inputs";

/// Keeps what has changed.
fn keep<'g>(old: &[Var<'g>], new: &[Var<'g>]) {
    for (old, new) in old.iter().zip(new).filter(|(old, new)| old.value != new.value) {
        old.graph().assign(*old, *new);
    }
}

impl Layer {
    fn state_name(&self, part: &str, name: &str) -> String {
        format!("stream.{}.{part}.{name}", self.name)
    }

    /// The states of a part.
    fn cached<'g>(&self, g: &'g Graph, part: &str, types: Vec<(&'static str, TensorType)>) -> Vec<Var<'g>> {
        types.into_iter().map(|(name, ty)| g.state(&self.state_name(part, name), ty)).collect()
    }

    /// What was picked from a memory for the current segment.
    fn recalled<'g>(&self, g: &'g Graph, part: &str, memory: &RoutedMemory, batch: usize) -> Recalled<'g> {
        let [keys, values, mask] = memory.recalled_types(batch, self.inputs[0]);
        let state = |i: usize, ty| g.state(&self.state_name(part, &format!("recalled.{}", RECALLED[i])), ty);
        Recalled::from_parts([state(0, keys), state(1, values), state(2, mask)])
    }

    fn inputs_type(&self, batch: usize) -> TensorType {
        TensorType::f32([batch, self.inputs[0], self.inputs[1]])
    }

    /// Names and types of the states of `batch` texts. Fails if a memory is too large for its indices or bindings.
    pub fn stream_states(&self, batch: usize) -> Result<Vec<(String, TensorType)>> {
        let caches = [(ATTENTION, self.attention.face().cache(batch)), (FEED_FORWARD, self.feed_forward.cache(batch))];
        let mut all = Vec::new();
        for (part, types) in caches {
            all.extend(types.into_iter().map(|(name, ty)| (self.state_name(part, name), ty)));
        }
        for (part, memory) in self.memories() {
            let Some(memory) = memory else { continue };
            let types = RECALLED.into_iter().zip(memory.recalled_types(batch, self.inputs[0]));
            all.extend(types.map(|(name, ty)| (self.state_name(part, &format!("recalled.{name}")), ty)));
            all.extend(memory.states(&self.state_name(part, "memory"), batch)?);
        }
        if self.memories().iter().any(|(_, memory)| memory.is_some()) {
            all.push((self.state_name(INPUTS, "rows"), self.inputs_type(batch)));
        }
        Ok(all)
    }

    /// Reads the tokens `x` `[b, n, D]` that come next in their segment: `[b, n, D]`.
    #[track_caller]
    pub fn advance<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, at: Place<'g>) -> Var<'g> {
        let (g, b, attention) = (x.graph(), x.dim(0), self.attention.face());
        let [heavy, long] = self.memories().map(|(part, memory)| Some(self.recalled(g, part, memory?, b)));
        if heavy.is_some() || long.is_some() {
            let inputs = g.state(&self.state_name(INPUTS, "rows"), self.inputs_type(b));
            g.assign(inputs, inputs.write_rows(x, at.length));
        }
        let old = self.cached(g, ATTENTION, attention.cache(b));
        let cached = Cached { values: &old, length: at.length, seen: at.seen, recalled: heavy };
        let (found, new) = attention.forward_cached(p, x, &cached);
        keep(&old, &new);
        let mut y = x + found;
        if let (Some(layer), Some(recalled)) = (&self.long, &long) {
            y = y + layer.attend(p, x, None, recalled);
        }
        let old = self.cached(g, FEED_FORWARD, self.feed_forward.cache(b));
        let (found, new) = self.feed_forward.forward_cached(p, y, at.length, &old);
        keep(&old, &new);
        y + found
    }

    /// Ends the segments of the texts marked `full` (u32 0/1 `[b]`).
    #[track_caller]
    pub fn turn<'g>(&self, p: &ParamVars<'g>, at: Place<'g>, full: Var<'g>) {
        let (g, b, attention) = (full.graph(), full.dim(0), self.attention.face());
        let old = self.cached(g, ATTENTION, attention.cache(b));
        let cached = Cached { values: &old, length: at.length, seen: at.seen, recalled: None };
        keep(&old, &attention.turn(p, &cached, full));
        for (part, layer) in self.memories() {
            let Some(layer) = layer else { continue };
            let inputs = g.state(&self.state_name(INPUTS, "rows"), self.inputs_type(b));
            let memory = layer.memory(g, &self.state_name(part, "memory"), b);
            let memory = layer.push(p, &memory, inputs, Some(full * self.inputs[0] as u32));
            let (old, new) = (self.recalled(g, part, layer, b).parts(), layer.recall(p, &memory).parts());
            memory.commit();
            // Only of the texts that go on: what was picked for a segment stays for all of it.
            for (old, new) in old.into_iter().zip(new) {
                g.assign(old, chosen(full, new, old));
            }
        }
    }
}
