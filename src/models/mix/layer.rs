//! One layer: attention, a long memory beside it if asked for, feed-forward.

use super::attention::{Kind, Past};
use super::config::{LayerConfig, MemoryConfig};
use super::feed_forward::FeedForward;
use crate::error::Result;
use crate::graph::{Graph, Var};
use crate::models::long_memory::{LongMemory, Lookback, RoutedMemory, RoutedMemoryConfig};
use crate::nn::{ParamVars, Params, Storage};
use crate::types::TensorType;

/// Inputs that routing tokens look back at if nothing is said.
const LOOKBACK: usize = 64;

/// Parameters below `layers.{i}`: `attention.*`, `long_memory.*`, `feed_forward.*`.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) attention: Kind,
    pub(super) long: Option<RoutedMemory>,
    pub(super) feed_forward: FeedForward,
    /// What its states are named after.
    pub(super) name: String,
    /// Extents of the inputs of a segment.
    pub(super) inputs: [usize; 2],
}

/// What a layer carries: see [`Attention::carries`](super::attention::Attention::carries), and memories of its inputs.
#[derive(Clone, Default)]
pub(super) struct LayerCarried<'g> {
    pub values: Vec<Var<'g>>,
    /// That of the attention.
    heavy: Option<LongMemory<'g>>,
    long: Option<LongMemory<'g>>,
}

impl Layer {
    /// Adds the parameters.
    pub fn new(params: &mut Params, i: usize, config: &MemoryConfig, layer: &LayerConfig) -> Result<Self> {
        let part = |part: &str| format!("layers.{i}.{part}");
        let attention = Kind::new(params, &part("attention"), config, &layer.attention)?;
        let long = match &layer.long_memory {
            None => None,
            Some(long) => {
                let latest = long.lookback.unwrap_or(LOOKBACK).min(long.memories);
                let (heads, dim_head) = (config.heads, config.dim_head());
                let options = RoutedMemoryConfig {
                    heads,
                    dim_head,
                    lookback: (latest > 0).then_some(Lookback { latest, heads, dim_head }),
                    storage: if long.half { Storage::F16 } else { Storage::F32 },
                    ..RoutedMemoryConfig::new(config.dim, long.memories, long.selected)
                };
                Some(RoutedMemory::new(params, &part("long_memory"), options)?)
            }
        };
        let feed_forward = FeedForward::new(params, &part("feed_forward"), config, &layer.feed_forward)?;
        let inputs = [config.segment, config.dim];
        Ok(Layer { attention, long, feed_forward, name: format!("layers.{i}"), inputs })
    }

    /// Memories of its inputs: that of the attention, and the one beside it.
    pub(super) fn memories(&self) -> [(&'static str, Option<&RoutedMemory>); 2] {
        [("heavy", self.attention.face().memory()), ("long", self.long.as_ref())]
    }

    fn values(&self, batch: usize) -> Vec<(String, TensorType)> {
        let carries = self.attention.face().carries(batch).into_iter();
        carries.map(|(part, ty)| (format!("mix.{}.{part}", self.name), ty)).collect()
    }

    /// Names and types of its states.
    pub fn states(&self, batch: usize) -> Result<Vec<(String, TensorType)>> {
        let mut all = self.values(batch);
        for (part, memory) in self.memories() {
            if let Some(memory) = memory {
                all.extend(memory.states(&format!("mix.{}.{part}", self.name), batch)?);
            }
        }
        Ok(all)
    }

    /// The start of `batch` texts.
    pub fn fresh<'g>(&self, g: &'g Graph, batch: usize) -> LayerCarried<'g> {
        let [heavy, long] = self.memories().map(|(_, memory)| memory.map(|memory| memory.fresh(g, batch)));
        LayerCarried { values: Vec::new(), heavy, long }
    }

    /// What the states hold; texts marked in `begin` (u32 0/1 `[b]`) start anew.
    pub fn state<'g>(&self, g: &'g Graph, batch: usize, begin: Option<Var<'g>>) -> LayerCarried<'g> {
        let values = self.values(batch).into_iter().map(|(name, ty)| g.state(&name, ty)).collect();
        let [heavy, long] = self.memories().map(|(part, memory)| {
            let memory = memory?.memory(g, &format!("mix.{}.{part}", self.name), batch);
            Some(begin.map_or(memory.clone(), |begin| memory.begin(begin)))
        });
        LayerCarried { values, heavy, long }
    }

    /// Keeps `new` in the states that `old` is from.
    pub fn keep<'g>(&self, old: &LayerCarried<'g>, new: &LayerCarried<'g>) {
        for (old, new) in old.values.iter().zip(&new.values) {
            old.graph().assign(*old, grown(*new, *old));
        }
        new.heavy.iter().chain(&new.long).for_each(LongMemory::commit);
    }

    /// A segment `x` `[b, n, D]`, n at most its length, and what the next one gets. `seen`: tokens before it, u32 `[b]`, where
    /// texts differ in that.
    #[track_caller]
    pub fn forward<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        carried: &LayerCarried<'g>,
        seen: Option<Var<'g>>,
    ) -> (Var<'g>, LayerCarried<'g>) {
        let past = Past { values: &carried.values, seen, memory: carried.heavy.as_ref() };
        let (found, values) = self.attention.face().forward(p, x, past);
        let mut y = x + found;
        if let (Some(layer), Some(memory)) = (&self.long, &carried.long) {
            y = y + layer.forward(p, x, memory);
        }
        let push = |layer: Option<&RoutedMemory>, memory: &Option<LongMemory<'g>>| {
            Some(layer?.push(p, memory.as_ref()?, x, None))
        };
        let heavy = push(self.attention.face().memory(), &carried.heavy);
        let long = push(self.long.as_ref(), &carried.long);
        (y + self.feed_forward.forward(p, y), LayerCarried { values, heavy, long })
    }
}

/// `x` with zeros in front of its rows, the last dimension but one, up to those of `like`.
fn grown<'g>(x: Var<'g>, like: Var<'g>) -> Var<'g> {
    let axis = x.rank().saturating_sub(2);
    match like.dim(axis as isize).saturating_sub(x.dim(axis as isize)) {
        0 => x,
        more => x.pad(axis, more, 0),
    }
}
