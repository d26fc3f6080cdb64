//! Table of vectors, one a token.

use super::{Init, ParamVars, Params};
use crate::graph::Var;

/// Row `ids[..]` of `weight [count, width]`, stored as `<name>.weight`; normal with variance 1 at first, as in PyTorch.
/// It may exceed one binding, see [`Params::limit`].
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: String,
}

impl Embedding {
    /// Adds the table.
    pub fn new(params: &mut Params, name: &str, count: usize, width: usize) -> Self {
        let weight = format!("{name}.weight");
        params.add(&weight, [count, width], Init::Normal { std: 1.0 });
        Embedding { weight }
    }

    /// Name of the table among the parameters: for its group, and so for
    /// [updates of touched rows only](crate::train::RowUpdates):
    ///
    /// ```
    /// # use wgrad::{Device, Result, nn::{Embedding, Params}, train::{AdamW, Group, RowUpdates, Trainer}};
    /// # fn f() -> Result<()> {
    /// let mut params = Params::new(1);
    /// let tokens = Embedding::new(&mut params, "tokens", 50_000, 64);
    /// params.get_mut(tokens.weight())?.group("tables");
    /// let trainer = Trainer::builder(&Device::cpu(), params, AdamW::default())
    ///     .group("tables", Group::default().rows(RowUpdates::PerRow));
    /// # Ok(())
    /// # }
    /// # f().unwrap()
    /// ```
    pub fn weight(&self) -> &str {
        &self.weight
    }

    /// `ids` (u32 `[..]`) to `[.., width]`; an id that is not below `count` gives zeros.
    #[track_caller]
    pub fn forward<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        params.sharded(&self.weight).gather(ids)
    }
}
