//! Routing: soft selections of tokens.

pub mod sinkhorn;
