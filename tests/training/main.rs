//! Training: optimizers, rows, parameters in pieces, checkpoints.

mod checkpoint;
#[path = "../common/mod.rs"]
mod common;
mod data;
mod million_slots;
mod quantized_params;
mod ranks;
mod restore;
mod row_updates;
mod sharded_params;
mod train;
mod weighted_training;
