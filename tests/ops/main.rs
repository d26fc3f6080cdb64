//! Operations beyond what the samples check: properties, adversarial rows, options.

#[path = "../common/mod.rs"]
mod common;
mod local_attention;
mod product_keys;
mod quant_table;
mod random;
mod routers;
mod sampling;
mod sharded;
mod sinkhorn;
mod soft_top_k;
mod sums;
mod top_k;
