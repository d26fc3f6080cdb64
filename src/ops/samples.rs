//! Samples of every operation with awkward shapes. They stand in the operations' files; the generic checks (gradient
//! check in f64, GPU against CPU, repeatability, shader validation, browser) pick them up from [`all`].

use crate::error::Result;
use crate::graph::{Graph, Var};
use crate::types::{Tensor, TensorType};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the values of a sample's input are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// Floats around 0 in (-2, 2).
    Normal,
    /// Floats in (0.5, 2).
    Positive,
    /// Integers below the bound.
    Below(u32),
}

/// Builds the outputs of a sample from its inputs.
pub type Build = dyn for<'g> Fn(&'g Graph, &[Var<'g>]) -> Vec<Var<'g>> + Send + Sync;

/// One use of an operation.
pub struct Sample {
    /// Operation and case.
    pub name: String,
    /// Types of the inputs and how they are drawn.
    pub inputs: Vec<(TensorType, Draw)>,
    /// Builds the outputs.
    pub build: Box<Build>,
    /// Bound on |a - b| / max |b| between an executor in f32 and the oracle.
    pub tolerance: f64,
    /// Whether the gradient is defined and checked.
    pub differentiable: bool,
    /// Whether everything it computes is 0 but for rounding, as the difference of two ways to compute the same is.
    pub vanishing: bool,
}

impl Sample {
    /// A sample with float inputs in (-2, 2), checked with gradient.
    pub fn new<const N: usize>(
        name: impl Into<String>,
        shapes: [&[usize]; N],
        build: impl for<'g> Fn(&'g Graph, &[Var<'g>]) -> Vec<Var<'g>> + Send + Sync + 'static,
    ) -> Self {
        Sample {
            name: name.into(),
            inputs: shapes.iter().map(|s| (TensorType::f32(*s), Draw::Normal)).collect(),
            build: Box::new(build),
            tolerance: 2e-5,
            differentiable: true,
            vanishing: false,
        }
    }

    /// Draws input `index` from (0.5, 2).
    pub fn positive(mut self, index: usize) -> Self {
        self.inputs[index].1 = Draw::Positive;
        self
    }

    /// Adds an integer input with values below `bound`.
    pub fn below(mut self, shape: &[usize], bound: u32) -> Self {
        self.inputs.push((TensorType::u32(shape), Draw::Below(bound)));
        self
    }

    /// Sets the tolerance.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Says that all outputs and gradients are 0 but for rounding. The tolerance then counts in thousandths of 1.
    pub fn vanishing(mut self) -> Self {
        self.vanishing = true;
        self.tolerance(1e-2)
    }

    /// Leaves the gradient unchecked, where there is none.
    pub fn no_gradient(mut self) -> Self {
        self.differentiable = false;
        self
    }

    /// Values of all inputs, the same for the same seed.
    pub fn draw(&self, seed: u64) -> Result<Vec<Tensor>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        self.inputs.iter().map(|(ty, draw)| values(ty, *draw, &mut rng)).collect()
    }
}

/// A random tensor.
pub fn values(ty: &TensorType, draw: Draw, rng: &mut impl Rng) -> Result<Tensor> {
    let n = ty.numel();
    let mut unit = || rng.random::<f32>();
    match draw {
        Draw::Normal => Tensor::f32(ty.shape.clone(), (0..n).map(|_| (unit() + unit() - 1.0) * 2.0).collect()),
        Draw::Positive => Tensor::f32(ty.shape.clone(), (0..n).map(|_| 0.5 + 1.5 * unit()).collect()),
        Draw::Below(bound) => {
            let int = |u: f32| ((u * bound as f32) as u32).min(bound.saturating_sub(1));
            Tensor::u32(ty.shape.clone(), (0..n).map(|_| int(unit())).collect())
        }
    }
}

/// Samples of all operations.
pub fn all() -> Vec<Sample> {
    use crate::ops;
    [
        ops::elementwise::samples,
        ops::view::samples,
        ops::copy::samples,
        ops::matmul::samples,
        ops::optim::samples,
        ops::reduce::samples,
        ops::softmax::samples,
        ops::logsumexp::samples,
        ops::norm::samples,
        ops::cumsum::samples,
        ops::argmax::samples,
        ops::einsum::samples,
        ops::cross_entropy::samples,
        ops::sort::samples,
        ops::gather::samples,
        ops::rows::samples,
        ops::memory::samples,
        ops::select::along::samples,
        ops::select::top_k::samples,
        ops::select::sample::samples,
        ops::random::samples,
        ops::rotary::samples,
        ops::cache::samples,
        ops::bank::samples,
        ops::attention::samples,
        ops::route::soft_top_k::samples,
        ops::route::sinkhorn::samples,
        ops::route::cumulative_softmax::samples,
    ]
    .into_iter()
    .flat_map(|f| f())
    .collect()
}
