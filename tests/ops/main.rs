//! Operations beyond what the samples check: properties, adversarial rows, options.

#[path = "../common/mod.rs"]
mod common;
mod descent;
mod descent_attention;
mod edges;
mod far_gather;
mod local_attention;
mod product_keys;
mod quant_table;
mod random;
mod routers;
mod sampling;
mod sharded;
mod sinkhorn;
mod soft_top_k;
mod soft_top_k_long;
mod sums;
mod threads;
mod top_k;
