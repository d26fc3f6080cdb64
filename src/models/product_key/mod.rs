//! Product-key memory (Lample et al. 2019, arXiv 1907.05242): a layer with millions of slots of which each token reads a few.
//! A query is cut into two halves, each is compared with `num_keys` sub-keys, and the best pairs of sub-keys name rows of a
//! table of `num_keys²` values.
//!
//! Parameters carry the names of the PyTorch package `product-key-memory`, so its checkpoints load by name
//! ([`OLDER_NAMES`] for those of 0.2.9 and before). Options are those of its versions 0.2.2 to 0.3.0; what is wrong there is
//! right here.
//!
//! ```
//! # use wgrad::{Device, Result, TensorType, graph::Mode, nn::Params, train::{AdamW, Trainer}};
//! use wgrad::models::product_key::{Lookup, ProductKeyConfig, ProductKeyMemory, VALUES, values_group};
//! # fn f() -> Result<()> {
//! let mut params = Params::new(1);
//! let config = ProductKeyConfig { num_keys: 64, topk: 8, ..ProductKeyConfig::new(32) };
//! let memory = ProductKeyMemory::new(&mut params, "memory", config)?;
//! // The values learn at a rate of 1e-2, and only rows that were read are updated.
//! let trainer = Trainer::builder(&Device::cpu(), params, AdamW::default().lr(1e-3))
//!     .group(VALUES, values_group(1e-3, 1e-2))
//!     .compile_blocking(|graph, p| {
//!         let x = graph.input("x", TensorType::f32([2, 16, 32]));
//!         (memory.forward(p, x, &Lookup::new(Mode::Train, 0)) - x).square().mean_all()
//!     })?;
//! # Ok(())
//! # }
//! # f().unwrap()
//! ```

mod address;
mod config;
mod finetune;
mod groups;
mod layer;
mod lookup;
mod norm;
mod stream;
mod transformer;
mod usage;

pub use config::{KeyScore, ProductKeyConfig};
pub use finetune::{choose_slots, tf_idf};
pub use groups::{OLDER_NAMES, VALUES, pkm_value_parameters, values_group};
pub use layer::ProductKeyMemory;
pub use lookup::{Lookup, NoiseScale, Recall};
pub use stream::{PkmStream, PkmStreamPlans};
pub use transformer::{PkmTransformer, PkmTransformerConfig, filter_thres};
pub use usage::{SlotUsage, Usage};
