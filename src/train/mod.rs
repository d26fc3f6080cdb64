//! Training: optimizers, schedules, parameter groups, the trainer, and checkpoints.
//!
//! ```
//! use wgrad::nn::{Linear, Params};
//! use wgrad::train::{AdamW, Trainer};
//! use wgrad::{Device, Tensor, TensorType};
//! # fn main() -> wgrad::Result<()> {
//! let mut params = Params::new(1);
//! let layer = Linear::new(&mut params, "layer", 1, 1, true);
//! let mut trainer = Trainer::builder(&Device::cpu(), params, AdamW::default().lr(0.1)).compile_blocking(|graph, p| {
//!     let x = graph.input("x", TensorType::f32([2, 1]));
//!     (layer.forward(p, x) - x * 3.0).square().mean_all()
//! })?;
//! let x = Tensor::f32([2, 1], vec![1.0, 2.0])?;
//! trainer.step(&[("x", &x)])?;
//! let first = trainer.loss_blocking()?;
//! for _ in 0..20 {
//!     trainer.step(&[("x", &x)])?;
//! }
//! assert!(trainer.loss_blocking()? < first);
//! # Ok(())
//! # }
//! ```

mod build;
mod builder;
mod checkpoint;
mod file;
mod inspect;
mod mean;
mod optimizer;
mod ranks;
mod resume;
mod rounded;
mod rows;
mod schedule;
mod snapshot;
#[cfg(not(target_arch = "wasm32"))]
mod threads;
mod trainer;

pub use crate::ops::optim::Report;
pub use build::NotFinite;
pub use builder::TrainerBuilder;
pub use checkpoint::{Checkpoint, LoadOptions, Loaded, Stored};
pub use mean::Mean;
pub use optimizer::{Adam, AdamFamily, AdamW, Group, Optimizer, Sgd};
pub use ranks::Collective;
pub use rows::RowUpdates;
pub use schedule::Schedule;
pub use snapshot::Snapshot;
#[cfg(not(target_arch = "wasm32"))]
pub use threads::Threads;
pub use trainer::Trainer;
