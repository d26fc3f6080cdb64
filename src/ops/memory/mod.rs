//! Product-key memory (Lample et al. 2019, arXiv 1907.05242): choosing among pairs of keys, and weighted sums of the rows
//! of large tables, whole, in pieces or quantised.

pub(crate) mod gather_dot;
pub(crate) mod product_pairs;
pub mod product_top_k;
pub(crate) mod table;
pub mod tally_rows;
pub mod weighted_gather;

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    [gather_dot::samples, product_pairs::samples, product_top_k::samples, weighted_gather::samples, tally_rows::samples]
        .into_iter()
        .flat_map(|f| f())
        .collect()
}
