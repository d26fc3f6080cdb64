//! Mix and match: a decoder whose every layer says which attention and which feed-forward it uses, in one declarative
//! description ([`MemoryConfig`], JSON). Infini-attention, block recurrence, CoLT5's routing, product keys and routed
//! long-distance memories compose in one model.
//!
//! A text is read in segments of equal length; what a layer carries (keys, values, states, memories) is written once a segment.
//! No part looks ahead, within a segment either, and nothing grows with the length of a text.
//!
//! ```
//! use wgrad::models::{MemoryConfig, MemoryTransformer};
//! use wgrad::{Device, Feed, Graph, Tensor, TensorType};
//! # fn main() -> wgrad::Result<()> {
//! let model = MemoryTransformer::new(MemoryConfig::from_json(
//!     r#"{"num_tokens": 16, "dim": 8, "heads": 2, "segment": 4, "layers": [
//!         {"attention": {"kind": "infini"}},
//!         {"attention": {"kind": "local", "window": 4}, "feed_forward": {"kind": "product_key", "num_keys": 8}}
//!     ]}"#,
//! )?)?;
//! let (device, graph) = (Device::cpu(), Graph::new());
//! let ids = graph.input("ids", TensorType::u32([1, 10])); // three segments, the last one shorter
//! let params = model.init(1);
//! let (logits, _) = model.forward(&params.vars(&graph), ids, &model.fresh(&graph, 1));
//! let plan = device.compile_blocking(&graph, &[("logits", logits)])?;
//! plan.run(&Feed::new().store(&params.store(&device)?).input("ids", &Tensor::u32([1, 10], (0..10).collect())?))?;
//! assert_eq!(plan.read_blocking("logits")?.shape()[..], [1, 10, 16]);
//! # Ok(())
//! # }
//! ```

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
