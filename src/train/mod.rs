//! Training: optimizers, schedules, parameter groups, the trainer, and checkpoints.

mod build;
mod checkpoint;
mod file;
mod inspect;
mod optimizer;
mod resume;
mod rounded;
mod rows;
mod schedule;
mod snapshot;
mod trainer;

pub use crate::ops::optim::Report;
pub use build::NotFinite;
pub use checkpoint::{Checkpoint, LoadOptions, Loaded};
pub use optimizer::{Adam, AdamFamily, AdamW, Group, Optimizer, Sgd};
pub use rows::RowUpdates;
pub use schedule::Schedule;
pub use snapshot::Snapshot;
pub use trainer::{Trainer, TrainerBuilder};
