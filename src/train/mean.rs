//! Losses that are means: a sum, and what it is divided by.

use crate::graph::Var;

/// A loss as a sum over what counts, such as tokens that are predicted, and how many these are; see
/// [`TrainerBuilder::compile_mean`](super::TrainerBuilder::compile_mean).
#[derive(Clone, Copy)]
pub struct Mean<'g> {
    /// f32, one element.
    pub sum: Var<'g>,
    /// f32, one element, not below 0; it counts as constant.
    pub count: Var<'g>,
}

/// What a loss function says: a mean, or the parts of one.
pub(super) type Parts<'g> = (Var<'g>, Option<Var<'g>>);

/// A count to divide by: nothing counted gives a loss of 0, as the sum is.
pub(super) fn counted(count: Var<'_>) -> Var<'_> {
    let count = count.stop_gradient().reshape([]);
    count.eq(0.0).select(1.0, count)
}
