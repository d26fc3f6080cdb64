//! Conditional routing, CoLT5 (Ainslie et al. 2023, arXiv 2303.09752): all tokens go through a cheap light branch; a learned
//! router picks the tokens that an expensive heavy branch sees as well, and the results are added.
//!
//! Parameters carry the names of the PyTorch package `CoLT5-attention`, so its checkpoints load by name. Options are those of
//! its version 0.11.2 and, for routers and null tokens, 0.2.x; what is wrong there is right here. Routers of new models
//! start from defaults under which they learn; [`CoordinateDescentRouterConfig::reference`] has the package's own.
//!
//! ```
//! use wgrad::models::conditional::{ConditionalRoutedFeedForward, FeedForwardConfig};
//! use wgrad::{Graph, TensorType, nn::Params};
//! # fn main() -> wgrad::Result<()> {
//! let mut params = Params::new(1);
//! let layer = ConditionalRoutedFeedForward::new(&mut params, "layer", FeedForwardConfig::new(8, 3))?; // 3 heavy tokens
//! let graph = Graph::new();
//! let x = graph.input("x", TensorType::f32([2, 16, 8]));
//! let y = layer.forward(&params.vars(&graph), x, &layer.route());
//! assert_eq!(y.shape(), x.shape());
//! # Ok(())
//! # }
//! ```

mod attention;
mod autoregressive;
mod autoregressive_cache;
mod block;
mod branch;
mod cross_attention;
mod cumulative_softmax_router;
mod decoder;
mod descent_router;
mod feed_forward;
pub(super) mod heavy_attention;
mod image;
mod router;
mod rows;
mod sharded;
mod sinkhorn_router;
mod stream;
mod vit;

pub use attention::{AttentionConfig, AttentionRoute, ConditionalRoutedAttention};
pub use autoregressive::{AutoregressiveConfig, AutoregressiveRoute, ConditionalRoutedAutoregressiveAttention};
pub use autoregressive_cache::AutoregressiveCache;
pub use block::{BlockConfig, BlockRoute, ConditionalRoutedTransformerBlock};
pub use cross_attention::{ConditionalRoutedCrossAttention, CrossAttentionConfig, CrossRoute};
pub use cumulative_softmax_router::{CumulativeSoftmaxRouter, CumulativeSoftmaxRouterConfig};
pub use decoder::{RoutedDecoder, RoutedDecoderConfig};
pub use descent_router::{CoordinateDescentRouter, CoordinateDescentRouterConfig, Similarity, SourceAttention};
pub use feed_forward::{ConditionalRoutedFeedForward, FeedForwardConfig};
pub use heavy_attention::{Context, DescentKeys, HeavyAttention, HeavyAttentionConfig};
pub use image::{ConditionalRoutedImageAttention, ImageAttentionConfig};
pub use router::{Route, Routed, Router, RouterConfig};
pub use sinkhorn_router::{SinkhornRouter, SinkhornRouterConfig};
pub use stream::{RoutedStream, RoutedStreamPlans};
pub use vit::{ConditionalRoutedViT, ViTConfig};
