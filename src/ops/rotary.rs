//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), optionally with the length extrapolation scale of xPos
//! (Sun et al. 2022, arXiv 2212.10554).
//!
//! ```
//! use wgrad::ops::rotary::Rotary;
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.constant(Tensor::f32([1, 1, 2, 2], vec![1.0, 0.0, 1.0, 0.0])?);
//! let at = graph.constant(Tensor::u32([2], vec![0, 1])?);
//! let y = x.rotary(at, &Rotary::default()); // a pair turns by 1 radian a position
//! let plan = Device::cpu().compile_blocking(&graph, &[("y", y)])?;
//! plan.run(&Feed::new())?;
//! let y = plan.read_blocking("y")?;
//! assert!(y.floats().iter().zip([1.0, 0.0, 1f32.cos(), 1f32.sin()]).all(|(a, b)| (a - b).abs() < 1e-6));
//! # Ok(())
//! # }
//! ```

use crate::error::{Error, Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, Slice, par};
use crate::types::{DType, Layout, Real, Shape, Tensor, TensorType};
use encase::ShaderType;
use glam::UVec4;

/// A pair of features an invocation.
pub static ROTARY: Kernel = kernel!("attention/rotary");

const WIDTH: usize = 64;
const RANK: usize = 8;

/// Features that are rotated, at most: the table of their frequencies is made with the graph.
const MOST: usize = 1 << 20;

/// Which features form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pairs {
    /// Features 2m and 2m + 1.
    #[default]
    Interleaved,
    /// Features m and m + dim/2.
    Half,
}

/// The scale of xPos: pair m at position p is multiplied by `((2m + 0.4 dim) / (1.4 dim))^((p - center) / scale_base)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct XPos {
    /// Position where the scale is 1.
    pub center: u32,
    /// Positions per power; the paper has 512.
    pub scale_base: f64,
    /// Divide instead of multiply. Queries multiply, keys divide.
    pub invert: bool,
}

/// How [`Var::rotary`] rotates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// Pairing of features.
    pub pairs: Pairs,
    /// Features that are rotated, from the first on; an even number. `None`: all. The rest passes through.
    pub dim: Option<usize>,
    /// Base of the frequencies: pair m turns by `theta^(-2m/dim)` radians a position.
    pub theta: f64,
    /// Scale by distance.
    pub xpos: Option<XPos>,
}

impl Default for Rotary {
    fn default() -> Self {
        Rotary { pairs: Pairs::default(), dim: None, theta: 10_000.0, xpos: None }
    }
}

impl Rotary {
    fn dim(&self, width: usize) -> usize {
        self.dim.unwrap_or(width)
    }

    /// Angle per position of pair `m` in radians.
    fn frequency(&self, m: usize, dim: usize) -> f64 {
        self.theta.powf(-2.0 * m as f64 / dim as f64)
    }

    /// What pair `m` of the xPos scale raises to the power.
    fn base(m: usize, dim: usize) -> f64 {
        (2.0 * m as f64 + 0.4 * dim as f64) / (1.4 * dim as f64)
    }

    /// What the kernel reads: turns per position as fractions of 2^64, high words then low words, then the bits of log2 of
    /// the xPos base.
    fn table(&self, dim: usize) -> Vec<u32> {
        let turns: Vec<u64> = (0..dim / 2)
            .map(|m| {
                let turns = self.frequency(m, dim) / std::f64::consts::TAU;
                ((turns - turns.floor()) * 2f64.powi(64)) as u64
            })
            .collect();
        let high = turns.iter().map(|t| (t >> 32) as u32);
        let low = turns.iter().map(|t| *t as u32);
        let base = (0..dim / 2).map(|m| (Self::base(m, dim).log2() as f32).to_bits());
        high.chain(low).chain(base).collect()
    }
}

/// Inputs: x `[.., n, d]`, positions u32 `[n]` or `[b, n]`, the table of [`Rotary::table`].
#[derive(Clone, Debug)]
struct Rotate {
    options: Rotary,
    reverse: bool,
}

#[derive(ShaderType)]
struct Meta {
    rows: u32,
    positions: u32,
    rows_per_batch: u32,
    per_batch: u32,
    width: u32,
    pairs: u32,
    interleaved: u32,
    reverse: u32,
    offset: u32,
    stride: u32,
    rank: u32,
    xpos: u32,
    center: f32,
    exponent: f32,
    dims: [UVec4; 2],
    strides: [UVec4; 2],
}

/// Rows of a strided tensor: merged leading dimensions and their strides.
fn leading(shape: &Shape, layout: &Layout) -> (Vec<usize>, Vec<usize>) {
    let last = shape.len() - 1;
    let lead = Layout { offset: 0, strides: layout.strides[..last].to_vec() };
    let (dims, mut strides) = Layout::collapse(&shape[..last], &[&lead]);
    (dims, strides.pop().unwrap_or_default())
}

impl Rotate {
    /// Cosine and sine, scaled, for every position and pair; in double precision, as angles are large.
    fn turns<T: Real>(&self, positions: &[u32], dim: usize) -> Vec<[T; 2]> {
        let pairs = dim / 2;
        let mut turns = vec![[T::ZERO; 2]; positions.len() * pairs];
        let sign = if self.reverse { -1.0 } else { 1.0 };
        let frequencies: Vec<f64> = (0..pairs).map(|m| self.options.frequency(m, dim)).collect();
        par::rows(
            &mut turns,
            pairs,
            32 * pairs,
            #[inline(always)]
            |i, row| {
                let p = f64::from(positions[i]);
                for (m, turn) in row.iter_mut().enumerate() {
                    let (sin, cos) = (p * frequencies[m]).sin_cos();
                    let scale = self.options.xpos.map_or(1.0, |x| {
                        let power = (p - f64::from(x.center)) / x.scale_base;
                        Rotary::base(m, dim).powf(if x.invert { -power } else { power })
                    });
                    *turn = [T::of(cos * scale), T::of(sign * sin * scale)];
                }
            },
        );
        turns
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let input = &call.inputs[0];
        let (rows, d) = input.shape.rows();
        let dim = self.options.dim(d);
        let (pairs, half) = (dim / 2, self.options.pairs == Pairs::Half);
        let positions = call.u(1);
        let turns = self.turns::<T>(positions, dim);
        let Slice::Float(data) = input.data else {
            return;
        };
        let n = input.shape[input.shape.len() - 2];
        let per_batch = call.inputs[1].shape.len() == 2;
        let rows_per_batch = rows.checked_div(input.shape[0]).unwrap_or(0).max(1);
        let (dims, strides) = leading(input.shape, input.layout);
        let offset = input.layout.offset;
        let step = input.layout.strides[input.shape.len() - 1];
        par::rows(
            call.out(0),
            d,
            2 * d,
            #[inline(always)]
            |row, y| {
                let (mut rest, mut at) = (row, offset);
                for k in (0..dims.len()).rev() {
                    at += rest % dims[k] * strides[k];
                    rest /= dims[k];
                }
                let batch = if per_batch { row / rows_per_batch } else { 0 };
                let first = (batch * n + row % n) * pairs;
                for (m, &[cos, sin]) in turns[first..first + pairs].iter().enumerate() {
                    let (a, b) = if half { (m, m + pairs) } else { (2 * m, 2 * m + 1) };
                    let (xa, xb) = (data[at + a * step], data[at + b * step]);
                    y[a] = xa * cos - xb * sin;
                    y[b] = xb * cos + xa * sin;
                }
                for (f, y) in y.iter_mut().enumerate().skip(dim) {
                    *y = data[at + f * step];
                }
            },
        );
    }
}

impl Op for Rotate {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let (x, positions) = (&inputs[0], &inputs[1]);
        x.require(DType::F32, "convert with to_f32")?;
        positions.require(DType::U32, "positions are u32")?;
        if x.shape.len() < 2 {
            return Refusal::shape("needs [.., n, d]");
        }
        let (rank, d) = (x.shape.len(), x.shape[x.shape.len() - 1]);
        let dim = self.options.dim(d);
        if !dim.is_multiple_of(2) || dim > d {
            return Refusal::shape(format!("{dim} of {d} features cannot be rotated: set an even dim of at most {d}"));
        }
        let n = x.shape[rank - 2];
        let shared = positions.shape[..] == [n];
        let per_batch = rank > 2 && positions.shape[..] == [x.shape[0], n];
        if !shared && !per_batch {
            return Refusal::shape(format!(
                "positions have shape [n] or, from three dimensions on, [batch, n]; got {} for {}",
                positions.shape, x.shape
            ));
        }
        Ok(vec![x.clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        // A scaled rotation: its transpose turns the other way and scales alike.
        let back = Rotate { reverse: !self.reverse, ..self.clone() };
        let grad = g.op(back, &cx.inputs[1..]);
        vec![Some(grad.into()), None, None]
    }

    fn strided(&self, index: usize) -> bool {
        index == 0
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let x = &cx.inputs[0];
        let (rows, d) = x.shape().rows();
        let (dims, strides) = leading(x.shape(), &x.layout);
        if dims.len() > RANK {
            return Err(crate::Error::Limit {
                limit: "dimensions of rotary".into(),
                needed: dims.len() as u64,
                available: RANK as u64,
                hint: "merge dimensions with reshape".into(),
            });
        }
        let pack = |values: &[usize], fill: u32| {
            let mut v = [UVec4::splat(fill); 2];
            for (k, x) in values.iter().enumerate() {
                v[k / 4][k % 4] = *x as u32;
            }
            v
        };
        let pairs = self.options.dim(d) / 2;
        let xpos = self.options.xpos;
        let meta = Meta {
            rows: rows as u32,
            positions: x.shape()[x.shape().len() - 2] as u32,
            rows_per_batch: rows.checked_div(x.shape()[0]).unwrap_or(0).max(1) as u32,
            per_batch: u32::from(cx.inputs[1].shape().len() == 2),
            width: d as u32,
            pairs: pairs as u32,
            interleaved: u32::from(self.options.pairs == Pairs::Interleaved),
            reverse: u32::from(self.reverse),
            offset: cx.lead(x) as u32,
            stride: x.layout.strides[x.shape().len() - 1] as u32,
            rank: dims.len() as u32,
            xpos: u32::from(xpos.is_some()),
            center: xpos.map_or(0.0, |x| x.center as f32),
            exponent: xpos.map_or(0.0, |x| (if x.invert { -1.0 } else { 1.0 } / x.scale_base) as f32),
            dims: pack(&dims, 1),
            strides: pack(&strides, 0),
        };
        cx.dispatch(&ROTARY)
            .input(0)
            .input(1)
            .input(2)
            .output(0)
            .uniform(&meta)
            .workgroups((rows * (d - pairs)).div_ceil(WIDTH))
    }
}

impl<'g> Var<'g> {
    /// Rotary embedding of `self` `[.., n, d]` at `positions` (u32 `[n]`, or `[batch, n]` where batch is the first
    /// dimension): pair m of features at position p is turned by `p theta^(-2m/dim)` radians.
    ///
    /// Positions are runtime values, any u32. Angles are exact on every executor (fixed point on the GPU, double precision
    /// on the CPU), so the result is as good at a million as at one: within 3e-7 of the largest feature. xPos scales are
    /// within 2e-6 relative for positions within 8 `scale_base` of the center. References that multiply position and
    /// frequency in f32 are themselves off by up to 6e-8 times the angle.
    #[track_caller]
    pub fn rotary(self, positions: Var<'g>, options: &Rotary) -> Var<'g> {
        // No table for more features than there are: they are refused below.
        let dim = options.dim(self.dim(-1)).min(self.dim(-1)) / 2 * 2;
        if dim > MOST {
            let message = format!("{dim} features are rotated; expected at most {MOST}: set dim");
            self.graph().fail(Error::argument("rotary", message));
            return self;
        }
        let table = options.table(dim);
        let shape = [table.len()];
        let table = match Tensor::u32(shape, table) {
            Ok(table) => self.graph().constant(table),
            Err(error) => {
                self.graph().fail(error);
                return self;
            }
        };
        let op = Rotate { options: *options, reverse: false };
        self.op(op, &[positions, table])
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let half = Rotary { pairs: Pairs::Half, ..Rotary::default() };
    let xpos = |invert| Rotary { xpos: Some(XPos { center: 50, scale_base: 512.0, invert }), ..half };
    let partial = |pairs| Rotary { pairs, dim: Some(6), theta: 500.0, xpos: None };
    // Shape, shape of the positions, their bound.
    type Case = (&'static str, &'static [usize], &'static [usize], u32, Rotary);
    let cases: [Case; 10] = [
        ("interleaved", &[2, 3, 7, 10], &[7], 20, Rotary::default()),
        ("half", &[2, 3, 7, 14], &[7], 20, half),
        ("of a matrix", &[5, 2], &[5], 100, half),
        ("per batch", &[3, 2, 5, 8], &[3, 5], 1_000, half),
        ("far away", &[2, 64, 64], &[64], 1_000_000, half),
        ("very far", &[1, 33, 32], &[33], u32::MAX, Rotary::default()),
        ("partial", &[2, 5, 9], &[5], 30, partial(Pairs::Half)),
        ("partial", &[2, 5, 9], &[2, 5], 30, partial(Pairs::Interleaved)),
        ("of nothing", &[2, 0, 4], &[0], 1, half),
        ("long", &[66_000, 2], &[66_000], 66_000, half),
    ];
    let mut all: Vec<Sample> = cases
        .into_iter()
        .map(|(name, shape, positions, bound, options)| {
            Sample::new(format!("rotary {name} {shape:?} {positions:?}"), [shape], move |_, x| {
                vec![x[0].rotary(x[1], &options)]
            })
            .below(positions, bound)
            .tolerance(1e-6)
        })
        .collect();
    for invert in [false, true] {
        let options = xpos(invert);
        all.push(
            Sample::new(format!("rotary xpos {invert}"), [&[2, 3, 9, 12]], move |_, x| {
                vec![x[0].rotary(x[1], &options)]
            })
            .below(&[9], 100)
            .tolerance(5e-6),
        );
    }
    all.push(
        Sample::new("rotary of views", [&[2, 5, 3, 8]], move |_, x| {
            let y = x[0].permute(&[2, 0, 1, 3]).slice(0, 1, 2);
            vec![y.rotary(x[1], &half), x[0].transpose(2, 3).rotary(x[2], &Rotary { dim: Some(2), ..half })]
        })
        .below(&[5], 100)
        .below(&[8], 100),
    );
    all
}
