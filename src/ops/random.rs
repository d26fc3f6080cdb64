//! Random numbers from a counter-based generator: Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw 2011,
//! "Parallel random numbers: as easy as 1, 2, 3"). No state: every number is a function of seed, step, site and index.
//!
//! The seed (64 bits) of the run keys a first block of counter (step, site). That block is a bijection, so for one seed
//! every pair of step and site has a key of its own; elements 2 j and 2 j + 1 are the block of counter (j, 0) under
//! that key. The site is chosen by the caller, never by a node's number: adding a node elsewhere changes no mask. Bits,
//! uniforms and dropout masks are the same on every executor; normal and Gumbel numbers within rounding of ln, sin and cos.
//!
//! Where several ranks share a batch ([`Feed::rank`](crate::Feed::rank)), the first axis of what is drawn counts as that of the
//! batch: each rank gets its part of what one process draws for the whole batch. A scalar is the same on all.
//!
//! ```
//! use wgrad::{Device, Feed, Graph};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.uniform([4], 1); // site 1
//! let plan = Device::cpu().compile_blocking(&graph, &[("x", x)])?;
//! let mut draw = |step, seed| -> wgrad::Result<_> {
//!     plan.run(&Feed::new().step(step, seed))?;
//!     plan.read_blocking("x")
//! };
//! let first = draw(0, 7)?;
//! assert!(draw(1, 7)? != first && draw(0, 7)? == first); // a function of seed, step and site
//! # Ok(())
//! # }
//! ```

use crate::error::{Error, Refusal, Result, Where};
use crate::graph::{Cotangent, Graph, Mode, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, SliceMut, par};
use crate::types::{DType, Real, Shape, TensorType};
use encase::ShaderType;
use std::sync::Arc;

/// Two numbers an invocation.
pub static RANDOM: Kernel = kernel!("random/random");

const WIDTH: usize = 64;
/// Numbers of one piece of work on the CPU; even, so that no pair is cut.
const PIECE: usize = 1 << 12;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Bits = 0,
    Uniform = 1,
    Normal = 2,
    Gumbel = 3,
}

/// Random numbers of one site.
#[derive(Clone, Debug)]
struct Random {
    kind: Kind,
    shape: Shape,
    site: u32,
}

#[derive(ShaderType)]
struct Meta {
    n: u32,
    site: u32,
    split: u32,
}

/// One block of Threefry-2x32-20.
pub fn threefry2x32(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
    let keys = [key[0], key[1], key[0] ^ key[1] ^ 0x1bd1_1bda];
    let mut x = counter[0].wrapping_add(keys[0]);
    let mut y = counter[1].wrapping_add(keys[1]);
    for block in 0..5 {
        for r in ROTATIONS[block % 2] {
            x = x.wrapping_add(y);
            y = y.rotate_left(r) ^ x;
        }
        x = x.wrapping_add(keys[(block + 1) % 3]);
        y = y.wrapping_add(keys[(block + 2) % 3]).wrapping_add(block as u32 + 1);
    }
    [x, y]
}

/// Uniform in [0, 1): multiples of 2^-24.
fn unit<T: Real>(bits: u32) -> T {
    T::of(f64::from(bits >> 8) / f64::from(1u32 << 24))
}

/// -ln u for u uniform in (0, 1): odd multiples of 2^-24, exact in single precision.
fn minus_log<T: Real>(bits: u32) -> T {
    let u = T::of((f64::from(bits >> 9) + 0.5) / f64::from(1u32 << 23));
    -u.ln()
}

impl Kind {
    fn pair<T: Real>(self, [x, y]: [u32; 2]) -> [T; 2] {
        match self {
            Kind::Bits | Kind::Uniform => [unit(x), unit(y)],
            Kind::Normal => {
                // Box and Muller 1958.
                let radius = (T::of(2.0) * minus_log(x)).sqrt();
                let angle = T::of(std::f64::consts::TAU) * (unit::<T>(y) - T::of(0.5));
                [radius * angle.cos(), radius * angle.sin()]
            }
            Kind::Gumbel => [x, y].map(|bits| -minus_log::<T>(bits).ln()),
        }
    }
}

impl Random {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let seed = [call.seed as u32, (call.seed >> 32) as u32];
        let key = threefry2x32(seed, [call.step, self.site]);
        let first = self.split() * call.rank;
        match &mut call.outputs[0].data {
            SliceMut::Float(out) => fill(out, key, first, |bits| self.kind.pair(bits)),
            SliceMut::Int(out) => fill(out, key, first, |bits| bits),
        }
    }

    /// Whether the first axis is shared out among ranks: all but a scalar has one.
    fn split(&self) -> u32 {
        u32::from(!self.shape.is_empty())
    }
}

/// Numbers of the stream from that of `rank` on, where every rank has as many as `out`.
fn fill<E: Copy + Send>(out: &mut [E], key: [u32; 2], rank: u32, f: impl Fn([u32; 2]) -> [E; 2] + Sync) {
    let first = rank.wrapping_mul(out.len() as u32);
    let block = |at: u32| f(threefry2x32(key, [at >> 1, 0]));
    par::pieces(
        out,
        PIECE,
        #[inline(always)]
        |start, piece| {
            for (j, pair) in piece.chunks_mut(2).enumerate() {
                let at = first.wrapping_add((start + 2 * j) as u32);
                let made = if at & 1 == 0 { block(at) } else { [block(at)[1], block(at.wrapping_add(1))[0]] };
                pair.copy_from_slice(&made[..pair.len()]);
            }
        },
    );
}

impl Op for Random {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Bits => "random_bits",
            Kind::Uniform => "uniform",
            Kind::Normal => "normal",
            Kind::Gumbel => "gumbel",
        }
    }

    fn infer(&self, _: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let dtype = if self.kind == Kind::Bits { DType::U32 } else { DType::F32 };
        Ok(vec![TensorType { dtype, shape: self.shape.clone() }])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.outputs[0].numel();
        let meta = Meta { n: n as u32, site: self.site, split: self.split() };
        cx.dispatch(&RANDOM)
            .constant("KIND", f64::from(self.kind as u32))
            .output(0)
            .uniform(&meta)
            .globals()
            .workgroups(n.div_ceil(2 * WIDTH))
    }
}

impl Graph {
    #[track_caller]
    fn random(&self, kind: Kind, shape: Shape, site: u32) -> Var<'_> {
        self.apply_at(Arc::new(Random { kind, shape, site }), &[], Where::caller())[0]
    }

    /// Random u32, all bits uniform. Different for every seed and step of a run and every `site`; two nodes with one
    /// site read the same stream.
    #[track_caller]
    pub fn random_bits(&self, shape: impl Into<Shape>, site: u32) -> Var<'_> {
        self.random(Kind::Bits, shape.into(), site)
    }

    /// Uniform f32 in [0, 1): multiples of 2^-24, from the bits of [`random_bits`](Self::random_bits).
    #[track_caller]
    pub fn uniform(&self, shape: impl Into<Shape>, site: u32) -> Var<'_> {
        self.random(Kind::Uniform, shape.into(), site)
    }

    /// Normal f32 with mean 0 and deviation 1 (Box and Muller 1958).
    #[track_caller]
    pub fn normal(&self, shape: impl Into<Shape>, site: u32) -> Var<'_> {
        self.random(Kind::Normal, shape.into(), site)
    }

    /// Standard Gumbel f32, `-ln(-ln u)`: the argmax of scores plus this noise is a draw from their softmax.
    #[track_caller]
    pub fn gumbel(&self, shape: impl Into<Shape>, site: u32) -> Var<'_> {
        self.random(Kind::Gumbel, shape.into(), site)
    }
}

impl<'g> Var<'g> {
    /// Dropout (Srivastava et al. 2014): in training each element of a float tensor is 0 with probability `p`, else
    /// `x / (1 - p)`; in evaluation, and for `p` = 0, the identity. The backward pass uses the same mask.
    ///
    /// Fails with [`Error::Argument`] unless 0 <= `p` < 1. The mask is a function of seed, step and `site`.
    #[track_caller]
    pub fn dropout(self, p: f64, site: u32, mode: Mode) -> Var<'g> {
        if !(0.0..1.0).contains(&p) {
            let message = format!("expected a probability in [0, 1), got {p}");
            self.graph().fail(Error::argument("dropout", message));
            return self;
        }
        if self.dtype() != DType::F32 {
            self.graph().fail(Error::Dtype {
                op: "dropout".into(),
                expected: DType::F32,
                got: self.dtype(),
                message: "convert with to_f32".into(),
                location: Where::caller(),
            });
            return self;
        }
        if p == 0.0 || mode == Mode::Eval {
            return self;
        }
        // Compared as integers, so that the mask does not depend on how p rounds.
        let bound = (p * 2f64.powi(32)).min(f64::from(u32::MAX)) as u32;
        let keep = self.graph().random_bits(self.shape(), site).ge(bound);
        keep.select(self * (1.0 / (1.0 - p)), 0.0)
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    // Zero tolerance: equal bits on every executor.
    let exact = |s: Sample| s.tolerance(0.0).no_gradient();
    for shape in [&[][..], &[0, 3], &[1], &[2, 5], &[129], &[70_001]] {
        let both = Sample::new(format!("uniform {shape:?}"), [], move |g, _| {
            vec![g.random_bits(shape, 5), g.uniform(shape, u32::MAX)]
        });
        all.push(exact(both));
    }
    // More than 65,535 workgroups.
    all.push(exact(Sample::new("random_bits", [], |g, _| vec![g.random_bits([8_400_001], 1)])));
    for n in [1, 5_003] {
        let rounded =
            Sample::new(format!("normal and gumbel {n}"), [], move |g, _| vec![g.normal([n], 3), g.gumbel([n], 4)]);
        // WGSL allows sine and cosine an absolute error of 2^-11.
        all.push(rounded.tolerance(5e-4).no_gradient());
    }
    all.push(Sample::new("dropout", [&[31, 7]], |_, x| {
        let y = x[0].dropout(0.3, 9, Mode::Train);
        vec![y, y.tanh().dropout(0.9, 10, Mode::Train), x[0].dropout(0.5, 9, Mode::Eval)]
    }));
    all
}
