//! Table of vectors, one a token.

use super::{Init, ParamVars, Params};
use crate::graph::Var;

/// Row `ids[..]` of `weight [count, width]`, stored as `<name>.weight`; normal with variance 1 at first, as in PyTorch.
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

    /// `ids` (u32 `[..]`) to `[.., width]`; an id that is not below `count` gives zeros.
    #[track_caller]
    pub fn forward<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        params.get(&self.weight).gather(ids)
    }
}
