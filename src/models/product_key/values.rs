//! Reading values.

use crate::graph::Var;

/// `y[i] = sum_j weights[i, j] table[slots[i, j]]`: `[n, width]` of slots u32 and weights f32 `[n, m]`. The gradient of the
/// table is a list of rows.
fn weighted_gather<'g>(table: Var<'g>, slots: Var<'g>, weights: Var<'g>) -> Var<'g> {
    let (n, width) = (slots.dim(0), table.dim(1));
    (table.gather(slots) * weights.unsqueeze(2)).sum(1).reshape([n, width])
}

/// [`weighted_gather`] whose gradient reaches only the rows that `trainable` (u32 0/1 `[rows]`) marks, if it is given.
pub(super) fn read<'g>(table: Var<'g>, slots: Var<'g>, weights: Var<'g>, trainable: Option<Var<'g>>) -> Var<'g> {
    let Some(mask) = trainable else {
        return weighted_gather(table, slots, weights);
    };
    let rows = table.dim(0);
    let marked = mask.reshape([rows, 1]).gather(slots).reshape(slots.shape());
    // A hit that names no row is 0 and has no gradient.
    let marked = marked.gt(0).select(slots, rows as u32);
    let trained = weighted_gather(table, marked, weights.stop_gradient());
    weighted_gather(table.stop_gradient(), slots, weights) + (trained - trained.stop_gradient())
}
