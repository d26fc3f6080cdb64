// How an optimizer changes one row of a table; see optim/row_factors.wgsl.
struct RowUpdate {
    row: u32,
    // One past the last of its sorted hits; 0 where nothing changes.
    end: u32,
    // Learning rate.
    rate: f32,
    // The same with the correction of the first moment.
    pace: f32,
    // Correction of the second moment.
    correction: f32,
    // Factor on the gradient.
    clip: f32,
}
