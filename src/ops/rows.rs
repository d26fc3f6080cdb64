//! Gathering and scattering rows.

use crate::graph::Var;
use crate::types::Tensor;

impl<'g> Var<'g> {
    /// Sums rows `[count, width]` into a table `[rows, width]` at `indices` (u32 `[count]`).
    #[track_caller]
    pub fn scatter_add(self, indices: Var<'g>, rows: usize) -> Var<'g> {
        let numbers = (0..rows as u32).collect();
        let Ok(numbers) = Tensor::u32([rows, 1], numbers) else {
            return self;
        };
        let hot = self.graph().constant(numbers).eq(indices).to_f32();
        hot.matmul(self)
    }
}
