//! The four systems and what is built of them.

mod caches;
#[path = "../common/mod.rs"]
mod common;
mod conditional;
mod conditional_calls;
mod conditional_decoder;
mod conditional_learns;
mod conditional_scale;
mod infini;
mod long_memory;
mod mix;
mod pkm_transformer;
mod product_key;
mod product_key_training;
mod recurrent;
mod routed_decoder;
mod sharded_context;
