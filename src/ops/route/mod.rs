//! Operations that route tokens: which of them take part, and how much.

pub mod cumulative_softmax;
pub mod sinkhorn;
pub mod soft_top_k;
