//! Named parameters and the layers that own them, built from public operations only.

mod linear;
mod params;

pub use linear::Linear;
pub(crate) use params::Shard;
pub use params::{Init, Param, ParamVars, Params};
