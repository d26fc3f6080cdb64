//! Mix and match: a decoder whose every layer says which attention and which feed-forward it uses, in one declarative
//! description ([`MemoryConfig`], JSON). Infini-attention, block recurrence, CoLT5's routing, product keys and routed
//! long-distance memories compose in one model.
//!
//! A text is read in segments of equal length; what a layer carries (keys, values, states, memories) is written once a segment.
//! No part looks ahead, within a segment either, and nothing grows with the length of a text.

mod attention;
mod cache;
mod config;
mod feed_forward;
mod infini;
mod layer;
mod recurrent;
mod routed;
mod router;
mod stream;
mod transformer;
mod window;

pub use crate::ops::select::Sampling;
pub use config::{AttentionKind, FeedForwardKind, LayerConfig, LongMemoryConfig, MemoryConfig};
pub use stream::{MemoryStream, MemoryStreamPlans};
pub use transformer::{Carried, MemoryTransformer};
