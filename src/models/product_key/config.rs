//! Options of the layer.

use crate::error::{Error, Result};
use crate::models::parts::within;
use crate::ops::route::soft_top_k::{DifferentiableTopK, SoftTopK};

/// What a pair of sub-keys scores.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum KeyScore {
    /// The sum of both products with the query's halves, as in the paper.
    #[default]
    Sum,
    /// The product of two marginals: soft top-k scores (coordinate descent) of each half, `√topk` in all, so that the
    /// products over all pairs add up to `topk`. Gates are the products, divided by their sum unless
    /// [`non_competitive_gates`](ProductKeyConfig::non_competitive_gates) is set. Gradients reach all sub-keys, not only
    /// those selected. The package's author wished for this and did not build it.
    Product(SoftTopK),
}

/// Options of a [`ProductKeyMemory`](super::ProductKeyMemory); defaults are those of the package, version 0.3.0.
#[derive(Clone, Debug, PartialEq)]
pub struct ProductKeyConfig {
    /// Features of a token.
    pub dim: usize,
    /// Heads: each has sub-keys of its own, all share the values.
    pub heads: usize,
    /// Sub-keys of each half; the memory has the square of it as slots.
    pub num_keys: usize,
    /// Slots that a head reads for a token; at most `num_keys`.
    pub topk: usize,
    /// Features of half a query, and of a sub-key.
    pub dim_head: usize,
    /// Dropout of the input.
    pub input_dropout: f64,
    /// Dropout of the normalised queries.
    pub query_dropout: f64,
    /// Dropout of what was read.
    pub value_dropout: f64,
    /// Dropout of the gates.
    pub attn_dropout: f64,
    /// LayerNorm of half queries. If not set: batch norm over the `dim_head` features, of the tokens that
    /// [`Lookup::input_mask`](super::Lookup::input_mask) leaves, as the 2019 paper has it (the package's own is of no use).
    pub use_layernorm: bool,
    /// LayerNorm of the input.
    pub pre_layernorm: bool,
    /// Selects sub-keys by a top-k that passes gradient to all of them; the package's is
    /// [`DifferentiableTopK::default`].
    pub differentiable_topk: Option<DifferentiableTopK>,
    /// Values have `dim_head` features; what the heads read stands side by side and is mixed by a linear map.
    pub concat_values_and_combine: bool,
    /// With `concat_values_and_combine`: values are summed without their gates, so that addressing learns nothing. All
    /// versions of the package do that; for their checkpoints.
    pub drop_gates: bool,
    /// LayerNorm of the output (Shen et al. 2023, arXiv 2302.06461).
    pub norm_output: bool,
    /// Gates are ReLU of the scores instead of their softmax (Csordás et al. 2023, arXiv 2310.10837).
    pub non_competitive_gates: bool,
    /// What a pair of sub-keys scores.
    pub score: KeyScore,
}

impl ProductKeyConfig {
    /// The package's defaults for a width: 4 heads, 128² slots, 32 of them read by a head, sub-keys of 128 features.
    pub fn new(dim: usize) -> Self {
        ProductKeyConfig {
            dim,
            heads: 4,
            num_keys: 128,
            topk: 32,
            dim_head: 128,
            input_dropout: 0.0,
            query_dropout: 0.0,
            value_dropout: 0.0,
            attn_dropout: 0.0,
            use_layernorm: true,
            pre_layernorm: false,
            differentiable_topk: None,
            concat_values_and_combine: false,
            drop_gates: false,
            norm_output: false,
            non_competitive_gates: false,
            score: KeyScore::Sum,
        }
    }

    /// Slots of the memory: rows of the table of values.
    pub fn slots(&self) -> usize {
        self.num_keys * self.num_keys
    }

    /// Features of a value.
    pub fn width(&self) -> usize {
        if self.concat_values_and_combine { self.dim_head } else { self.dim }
    }

    /// Refuses values no layer can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str, message: String| Err(Error::argument(format!("ProductKeyConfig::{what}"), message));
        for (what, value) in [
            ("dim", self.dim),
            ("heads", self.heads),
            ("num_keys", self.num_keys),
            ("topk", self.topk),
            ("dim_head", self.dim_head),
        ] {
            if value == 0 {
                return refuse(what, "is 0; expected at least 1".into());
            }
        }
        if self.num_keys > 65_535 {
            return refuse("num_keys", format!("is {}; slots are numbered by u32, so at most 65535", self.num_keys));
        }
        if self.topk > self.num_keys {
            let message = format!("is {}, more than the {} sub-keys of a half; lower it", self.topk, self.num_keys);
            return refuse("topk", message);
        }
        for (what, p) in [
            ("input_dropout", self.input_dropout),
            ("query_dropout", self.query_dropout),
            ("value_dropout", self.value_dropout),
            ("attn_dropout", self.attn_dropout),
        ] {
            if !(0.0..1.0).contains(&p) {
                return refuse(what, format!("{p} is no probability below 1"));
            }
        }
        let half = self.heads.saturating_mul(2).saturating_mul(self.dim_head);
        within("ProductKeyConfig: to_queries.weight", &[half, self.dim])?;
        within("ProductKeyConfig: keys", &[half, self.num_keys])?;
        within("ProductKeyConfig: what a token reads", &[self.heads, self.topk, self.width()])?;
        if self.drop_gates && !self.concat_values_and_combine {
            return refuse("drop_gates", "only versions with concat_values_and_combine drop gates; set both".into());
        }
        if self.differentiable_topk.is_some() && self.score != KeyScore::Sum {
            let message = "the product of marginals is differentiable already; use one of both";
            return refuse("differentiable_topk", message.into());
        }
        Ok(())
    }
}
