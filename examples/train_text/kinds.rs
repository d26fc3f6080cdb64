//! What options can be.

use clap::ValueEnum;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Memory {
    /// Infini-attention: what went by is compressed into a matrix
    Infini,
    /// Conditional routing: a router picks the earlier bytes that are attended to
    Routed,
    /// Block recurrence: state vectors go from segment to segment
    Recurrent,
    /// Product keys: a table of many slots in place of a feed-forward, of which each byte reads a few
    Pkm,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum On {
    Auto,
    Cpu,
    Gpu,
}

/// A count of which there must be one.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number from 1 on".into()),
        Ok(n) => Ok(n),
    }
}
