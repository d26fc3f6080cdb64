//! Selection: the largest entries of rows, and taking and scattering along an axis.

pub mod along;
pub mod top_k;
mod top_k_cpu;
