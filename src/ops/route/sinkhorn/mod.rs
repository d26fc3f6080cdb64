//! Sinkhorn's iteration in the log domain (Sinkhorn 1964; Cuturi 2013, arXiv 1306.0895): scores of slots for tokens to an
//! assignment whose columns sum to 1.
//!
//! With potentials `v_0 = 0`, `u_t = logsumexp_j (R - v_{t-1})` and `v_t = logsumexp_i (R - u_t)` the result is
//! `P = exp(R - u_T - v_T)`. Only potentials are stored.
//!
//! ```
//! use wgrad::ops::route::sinkhorn::Sinkhorn;
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let scores = graph.constant(Tensor::f32([1, 2, 2], vec![2.0, 0.0, 1.0, 3.0])?);
//! let plan = scores.sinkhorn(&Sinkhorn { iterations: 50, ..Sinkhorn::default() }, None); // slots for tokens
//! let outputs = [("rows", plan.sum(2)), ("columns", plan.sum(1))];
//! let plan = Device::cpu().compile_blocking(&graph, &outputs)?;
//! plan.run(&Feed::new())?;
//! for name in ["rows", "columns"] {
//!     assert!(plan.read_blocking(name)?.floats().iter().all(|sum| (sum - 1.0).abs() < 1e-4));
//! }
//! # Ok(())
//! # }
//! ```

mod cpu;
mod gradient;

use crate::error::{Error, Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, Place};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

pub use gradient::{FLOW, GRADIENT};
/// Potentials of one side.
pub static POTENTIAL: Kernel = kernel!("route/sinkhorn_potential");
/// The plan from the last potentials.
pub static PLAN: Kernel = kernel!("route/sinkhorn_plan");

/// How the gradient of [`Var::sinkhorn`] is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SinkhornGradient {
    /// Of the iterations as they were run, from their potentials: exact, whatever their number. No second derivative.
    #[default]
    Unrolled,
    /// Of the limit of infinitely many iterations, from the plan alone, with so many steps of block Gauss-Seidel on its
    /// linear system.
    ///
    /// It is the gradient of what was computed only if the forward iterations have converged; they and these steps converge
    /// at one rate, the square of the second singular value of the plan with rows and columns scaled to sum to 1. As many
    /// steps as forward iterations are a fair choice. Plans near a permutation (scores of a deviation above about 10)
    /// converge too slowly: use [`Unrolled`](Self::Unrolled) there.
    Implicit {
        /// Steps on the linear system, at least 1.
        iterations: usize,
    },
}

/// Options of [`Var::sinkhorn`].
#[derive(Clone, Copy, Debug)]
pub struct Sinkhorn {
    /// Iterations, each over slots, then over tokens; at least 1.
    pub iterations: usize,
    /// The scores are divided by it; above 0.
    pub temperature: f64,
    /// Site of standard Gumbel noise that is added to the scores before that; `None`: no noise.
    pub gumbel: Option<u32>,
    /// Gradient.
    pub gradient: SinkhornGradient,
}

impl Default for Sinkhorn {
    /// Eight iterations at temperature 1 without noise, gradient of the iterations.
    fn default() -> Self {
        Sinkhorn { iterations: 8, temperature: 1.0, gumbel: None, gradient: SinkhornGradient::Unrolled }
    }
}

/// Extents of one call.
#[derive(Clone, Copy, Debug)]
struct Extents {
    batches: usize,
    slots: usize,
    tokens: usize,
}

impl Extents {
    fn new(scores: &[usize]) -> Self {
        let (rest, last) = scores.split_at(scores.len().saturating_sub(2));
        let [slots, tokens] = [0, 1].map(|i| last.get(i).copied().unwrap_or(1));
        Extents { batches: rest.iter().product(), slots, tokens }
    }
}

/// Inputs: scores `[.., n, m]`, then the mask of tokens `[.., m]` if there is one. Outputs: the plan, and the potentials of
/// slots `[.., T, n, 2]` and tokens `[.., T, m, 2]`, each a maximum and the logarithm of the rest.
#[derive(Clone, Debug)]
struct Forward {
    iterations: usize,
    masked: bool,
    gradient: SinkhornGradient,
}

/// Uniform of the kernels: see `shared/sinkhorn.wgsl`.
#[derive(Clone, Copy, Default, ShaderType)]
struct Meta {
    batches: u32,
    slots: u32,
    tokens: u32,
    steps: u32,
    by_slot: u32,
    slot_step: u32,
    token_step: u32,
    masked: u32,
    token_first: u32,
    with_cotangent: u32,
    with_values: u32,
}

/// Instead of a step: potentials of 0.
const NONE: u32 = u32::MAX;

impl Meta {
    fn new(e: &Extents, steps: usize, masked: bool) -> Self {
        Meta {
            batches: e.batches as u32,
            slots: e.slots as u32,
            tokens: e.tokens as u32,
            steps: steps as u32,
            masked: u32::from(masked),
            ..Meta::default()
        }
    }

    /// Lanes for a line, and workgroups for all.
    fn grid(&self, cx: &Lower<'_>) -> (f64, usize) {
        let by_slot = self.by_slot == 1;
        let (count, n) = if by_slot { (self.slots, self.tokens) } else { (self.tokens, self.slots) };
        let lines = self.batches as usize * count as usize;
        // Lines of tokens lie side by side in memory: neighbours read them together, if there are enough to fill a device.
        let alone = n <= 16 || (cx.caps.software && lines >= 8) || (!by_slot && lines >= 8192);
        if alone { (1.0, lines.div_ceil(64)) } else { (64.0, lines) }
    }
}

impl Forward {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        cpu::forward(self.iterations, self.masked, call);
    }
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "sinkhorn"
    }

    fn outputs(&self) -> usize {
        3
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        inputs[0].require(DType::F32, "convert with to_f32")?;
        let shape = &inputs[0].shape;
        let Some((rest, &[slots, tokens])) = shape.split_last_chunk::<2>() else {
            return Refusal::shape("scores are [.., slots, tokens]");
        };
        if let Some(mask) = inputs.get(1) {
            let want = TensorType::u32([rest, &[tokens]].concat());
            if *mask != want {
                return Refusal::shape(format!("the mask of tokens is {want}, got {mask}"));
            }
        }
        let potentials = |n: usize| TensorType::f32([rest, &[self.iterations, n, 2]].concat());
        Ok(vec![inputs[0].clone(), potentials(slots), potentials(tokens)])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let mut grads = cx.none();
        let Some(g) = cx.cotangents[0] else {
            return grads;
        };
        let gradient = match self.gradient {
            SinkhornGradient::Unrolled => gradient::unrolled(self, cx, g),
            SinkhornGradient::Implicit { iterations } => gradient::implicit(cx.outputs[0], g, iterations),
        };
        grads[0] = Some(gradient.into());
        grads
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let e = Extents::new(cx.inputs[0].shape());
        let n = e.batches * e.slots * e.tokens;
        if n == 0 {
            return Ok(());
        }
        let mask = usize::from(self.masked);
        let base = Meta::new(&e, self.iterations, self.masked);
        for step in 0..self.iterations as u32 {
            let slots = Meta { by_slot: 1, slot_step: step, token_step: step.checked_sub(1).unwrap_or(NONE), ..base };
            let tokens = Meta { by_slot: 0, slot_step: step, token_step: step, ..base };
            for (meta, other, own) in [(slots, 2, 1), (tokens, 1, 2)] {
                let (lanes, groups) = meta.grid(cx);
                cx.dispatch(&POTENTIAL)
                    .constant("LANES", lanes)
                    .input(0)
                    .input(mask)
                    .read_from(Place::Output(other))
                    .output(own)
                    .uniform(&meta)
                    .workgroups(groups)?;
            }
        }
        cx.dispatch(&PLAN)
            .input(0)
            .input(mask)
            .read_from(Place::Output(1))
            .read_from(Place::Output(2))
            .output(0)
            .uniform(&base)
            .workgroups(n.div_ceil(64))
    }
}

impl<'g> Var<'g> {
    /// Sinkhorn's assignment of slots to tokens by scores `[.., n, m]` (slots by tokens): P of the same shape. Every column
    /// sums to 1; when the iteration has converged every row sums to the number of columns over n. `mask` u32 0/1 `[.., m]`
    /// leaves tokens out: their columns are 0. Any finite scores are allowed; one that is not makes its block `[n, m]`
    /// meaningless, and no other.
    ///
    /// An error if `iterations` is 0 or the temperature is not above 0.
    #[track_caller]
    pub fn sinkhorn(self, options: &Sinkhorn, mask: Option<Var<'g>>) -> Var<'g> {
        let (implicit, scale) = (SinkhornGradient::Implicit { iterations: 0 }, 1.0 / options.temperature);
        let message = if options.iterations == 0 || options.gradient == implicit {
            "needs at least one iteration".to_owned()
        } else if !(options.temperature > 0.0 && options.temperature.is_finite() && (scale as f32).is_finite()) {
            format!("expected a temperature above 0 with a finite inverse, got {}", options.temperature)
        } else {
            String::new()
        };
        if !message.is_empty() {
            self.graph().fail(Error::argument("sinkhorn", message));
            return self;
        }
        let mut scores = self;
        if let Some(site) = options.gumbel {
            scores = scores + self.graph().gumbel(self.shape(), site);
        }
        if options.temperature != 1.0 {
            scores = scores * scale;
        }
        let op = Forward { iterations: options.iterations, masked: mask.is_some(), gradient: options.gradient };
        scores.op(op, mask.as_slice())
    }

    /// `gumbel_sinkhorn` of CoLT5-attention 0.2.x (after Mena et al. 2018, arXiv 1802.08665), literally: the logarithm of the
    /// scores, which below 1e-20 count as 1e-20 and get no gradient, plus `noise` of the same shape
    /// ([`Graph::gumbel`](crate::Graph::gumbel)), then [`sinkhorn`](Self::sinkhorn) without a mask.
    #[track_caller]
    pub fn gumbel_sinkhorn(self, noise: Var<'g>, options: &Sinkhorn) -> Var<'g> {
        (self.maximum(1e-20).ln() + noise).sinkhorn(options, None)
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    let shapes: [(&[usize], usize); 11] = [
        (&[5, 9], 8),
        (&[2, 3, 4, 11], 3),
        (&[7, 7], 1),
        (&[9, 5], 4),
        (&[1, 6], 2),
        (&[6, 1], 2),
        (&[1, 1], 1),
        (&[3, 131], 5),
        (&[131, 3], 5),
        (&[0, 4], 2),
        (&[2, 3, 0], 2),
    ];
    for (shape, iterations) in shapes {
        let options = Sinkhorn { iterations, ..Sinkhorn::default() };
        all.push(Sample::new(format!("sinkhorn {shape:?} {iterations}"), [shape], move |_, x| {
            vec![x[0].sinkhorn(&options, None)]
        }));
        // 1 hides all tokens, 2 half of them, 9 few.
        for bound in [1, 2, 9] {
            let mut tokens = shape.to_vec();
            tokens.remove(shape.len() - 2);
            let sharp = Sinkhorn { temperature: 0.3, ..options };
            let sample = Sample::new(format!("sinkhorn mask {bound} {shape:?} {iterations}"), [shape], move |_, x| {
                vec![x[0].sinkhorn(&sharp, Some(x[1]))]
            });
            all.push(sample.below(&tokens, bound).tolerance(1e-4));
        }
    }
    let noisy = Sinkhorn { gumbel: Some(3), temperature: 0.7, ..Sinkhorn::default() };
    all.push(
        Sample::new("sinkhorn gumbel", [&[2, 4, 10]], move |_, x| vec![x[0].sinkhorn(&noisy, None)]).tolerance(2e-3),
    );
    let options = Sinkhorn { iterations: 6, temperature: 0.7, ..Sinkhorn::default() };
    let literal = Sample::new("gumbel_sinkhorn", [&[2, 4, 11], &[2, 4, 11]], move |_, x| {
        vec![x[0].gumbel_sinkhorn(x[1], &options)]
    });
    all.push(literal.tolerance(1e-4));
    // Converged: then the implicit gradient is that of the iterations, which the differences check.
    for shape in [&[3, 8][..], &[2, 6, 4], &[1, 5], &[5, 1]] {
        let gradient = SinkhornGradient::Implicit { iterations: 150 };
        let options = Sinkhorn { iterations: 150, gradient, ..Sinkhorn::default() };
        // A plan of one token is constant: the gradient is 0, of which a tolerance can only be absolute.
        let tolerance = if shape.ends_with(&[1]) { 1e-3 } else { 2e-5 };
        let sample = Sample::new(format!("sinkhorn implicit {shape:?}"), [shape], move |_, x| {
            vec![x[0].sinkhorn(&options, None)]
        });
        all.push(sample.tolerance(tolerance));
        let mut tokens = shape.to_vec();
        tokens.remove(shape.len() - 2);
        let sample = Sample::new(format!("sinkhorn implicit mask {shape:?}"), [shape], move |_, x| {
            vec![x[0].sinkhorn(&options, Some(x[1]))]
        });
        all.push(sample.below(&tokens, 3).tolerance(tolerance));
    }
    // Scores at the ends of the range, and rows of one value: columns sum to 1 none the less.
    let hard = Sample::new("sinkhorn of extreme scores", [&[6, 7]], |g, x| {
        let top = f64::from(f32::MAX);
        let high = x[0].gt(1.0).select(g.full([6, 7], top), x[0]);
        let both = x[0].lt(-1.0).select(g.full([6, 7], -top), high);
        let far = x[0] * 0.0 + 3e6;
        let options = Sinkhorn::default();
        vec![
            both.sinkhorn(&options, None),
            both.sinkhorn(&options, None).sum(0),
            far.sinkhorn(&options, None),
            (x[0] * 1e7).sinkhorn(&options, None).sum(0),
        ]
    });
    all.push(hard.no_gradient());
    all
}
