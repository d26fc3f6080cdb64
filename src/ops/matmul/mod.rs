//! Batched matrix product. Operands may be any strided view, so transposes cost nothing.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let a = graph.constant(Tensor::f32([2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?);
//! let y = a.matmul(a.transpose(0, 1)); // [2, 3] times [3, 2]
//! let plan = Device::cpu().compile_blocking(&graph, &[("y", y)])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("y")?.floats(), [14.0, 32.0, 32.0, 77.0]);
//! # Ok(())
//! # }
//! ```

pub(crate) mod packed;

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::gemm::{Matrix, gemm, gemm_parallel};
use crate::kernels::{CpuCall, Kernel, Lower, Slice, par};
use crate::types::{DType, Layout, Operand, Real, Shape, TensorType};
use encase::ShaderType;
use glam::UVec4;

/// One output an invocation.
pub static SMALL: Kernel = kernel!("matmul/small");
/// Tiles in workgroup memory.
pub static TILED: Kernel = kernel!("matmul/tiled");

const WIDTH: usize = 64;
const TILE: usize = 32;
/// Rows of a panel of the CPU product where there are many matrices. Fixed, so that results do not depend on the number of
/// threads.
const PANEL: usize = 256;
/// Multiplications from which on a matrix is worth all threads, and how many such matrices are taken one after the other.
const LARGE: usize = 1 << 22;
const FEW: usize = 8;

/// `[.., m, k] x [.., k, n] -> [.., m, n]`, leading dimensions broadcast.
#[derive(Clone, Debug)]
struct Matmul;

#[derive(ShaderType)]
struct Meta {
    rows: u32,
    cols: u32,
    depth: u32,
    batches: u32,
    a_offset: u32,
    a_row: u32,
    a_col: u32,
    b_offset: u32,
    b_row: u32,
    b_col: u32,
    dims: UVec4,
    a_batch: UVec4,
    b_batch: UVec4,
}

/// Both operands seen as a flat batch of strided matrices.
pub(crate) struct Batches {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub dims: Vec<usize>,
    pub a_batch: Vec<usize>,
    pub b_batch: Vec<usize>,
    /// Strides of rows and depth, and of depth and columns.
    pub a: [usize; 2],
    pub b: [usize; 2],
}

fn split(shape: &Shape) -> (&[usize], [usize; 2]) {
    let (batch, matrix) = shape.split_at(shape.len() - 2);
    (batch, [matrix[0], matrix[1]])
}

impl Batches {
    fn new(a: (&Shape, &Layout), b: (&Shape, &Layout), out: &Shape) -> Self {
        let (a_dims, [m, k]) = split(a.0);
        let (b_dims, [_, n]) = split(b.0);
        let (dims, _) = split(out);
        let part = |shape: &[usize], l: &Layout| {
            let r = shape.len();
            Layout { offset: 0, strides: l.strides[..r].to_vec() }.broadcast(shape, dims)
        };
        let (la, lb) = (part(a_dims, a.1), part(b_dims, b.1));
        let (dims, mut strides) = Layout::collapse(dims, &[&la, &lb]);
        let b_batch = strides.pop().unwrap_or_default();
        let a_batch = strides.pop().unwrap_or_default();
        let tail = |l: &Layout| {
            let r = l.strides.len();
            [l.strides[r - 2], l.strides[r - 1]]
        };
        Batches { m, n, k, dims, a_batch, b_batch, a: tail(a.1), b: tail(b.1) }
    }

    fn count(&self) -> usize {
        self.dims.iter().product()
    }

    /// Offsets of batch entry `i` in both operands.
    fn offsets(&self, i: usize) -> (usize, usize) {
        let (mut rest, mut a, mut b) = (i, 0, 0);
        for d in (0..self.dims.len()).rev() {
            let x = rest % self.dims[d];
            rest /= self.dims[d];
            a += x * self.a_batch[d];
            b += x * self.b_batch[d];
        }
        (a, b)
    }
}

fn pack(values: &[usize], fill: u32) -> UVec4 {
    let mut v = UVec4::splat(fill);
    for (d, x) in values.iter().enumerate() {
        v[d] = *x as u32;
    }
    v
}

impl Matmul {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (a, b) = (&call.inputs[0], &call.inputs[1]);
        let (Slice::Float(da), Slice::Float(db)) = (a.data, b.data) else {
            return;
        };
        let (da, db) = (&da[a.layout.offset.min(da.len())..], &db[b.layout.offset.min(db.len())..]);
        let batches = Batches::new((a.shape, a.layout), (b.shape, b.layout), call.outputs[0].shape);
        let (m, n, k) = (batches.m, batches.n, batches.k);
        let out = call.out(0);
        let per_batch = m.div_ceil(PANEL);
        // Pieces of the output: whole panels of one batch entry.
        let one = |panel: usize, rows: &mut [T]| {
            let (batch, first) = (panel / per_batch, panel % per_batch * PANEL);
            let (oa, ob) = batches.offsets(batch);
            let a = Matrix { data: &da[(oa + first * batches.a[0]).min(da.len())..], strides: batches.a };
            let b = Matrix { data: &db[ob.min(db.len())..], strides: batches.b };
            gemm(rows, n, k, a, b);
        };
        if m * n * k < 1 << 12 && batches.count() > 1 {
            // Tiny products: several to a piece.
            let group = ((1 << 14) / (m * n * k).max(1)).max(1);
            par::pieces(out, m * n * group, |start, piece| {
                let first = start / (m * n).max(1);
                for (i, entry) in piece.chunks_mut((m * n).max(1)).enumerate() {
                    for (p, rows) in entry.chunks_mut((PANEL * n).max(1)).enumerate() {
                        one((first + i) * per_batch + p, rows);
                    }
                }
            });
            return;
        }
        if m * n * k >= LARGE && batches.count() < FEW {
            for (batch, out) in out.chunks_mut((m * n).max(1)).enumerate() {
                let (oa, ob) = batches.offsets(batch);
                let a = Matrix { data: &da[oa.min(da.len())..], strides: batches.a };
                let b = Matrix { data: &db[ob.min(db.len())..], strides: batches.b };
                gemm_parallel(out, n, k, a, b);
            }
            return;
        }
        par::ragged(out, m * n, PANEL * n, one);
    }
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let (a, b) = (&inputs[0], &inputs[1]);
        a.require(DType::F32, "convert with to_f32")?;
        b.require(DType::F32, "convert with to_f32")?;
        if a.shape.len() < 2 || b.shape.len() < 2 {
            return Refusal::shape("both inputs need at least two dimensions; add one with unsqueeze");
        }
        let (a_dims, [m, k]) = split(&a.shape);
        let (b_dims, [k2, n]) = split(&b.shape);
        if k != k2 {
            return Refusal::shape(format!("inner extents differ: {k} and {k2}; transpose one operand?"));
        }
        let mut shape = Shape::from(a_dims).broadcast(&Shape::from(b_dims))?;
        if shape.len() > 4 {
            return Refusal::shape("at most four batch dimensions; merge them with reshape");
        }
        shape.0.extend([m, n]);
        Ok(vec![TensorType::f32(shape)])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let (a, b) = (cx.inputs[0], cx.inputs[1]);
        let da = g.matmul(b.transpose(-1, -2)).sum_to(a.shape());
        let db = a.transpose(-1, -2).matmul(g).sum_to(b.shape());
        vec![Some(da.into()), Some(db.into())]
    }

    fn strided(&self, _: usize) -> bool {
        true
    }

    fn operations(&self, inputs: &[Operand], outputs: &[Operand]) -> u64 {
        let depth = inputs[0].shape().last().copied().unwrap_or(0);
        2 * outputs[0].numel() as u64 * depth as u64
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (a, b) = (&cx.inputs[0], &cx.inputs[1]);
        let s = Batches::new((a.shape(), &a.layout), (b.shape(), &b.layout), cx.outputs[0].shape());
        if packed::lower(cx, &s)? {
            return Ok(());
        }
        let meta = Meta {
            rows: s.m as u32,
            cols: s.n as u32,
            depth: s.k as u32,
            batches: s.count() as u32,
            a_offset: cx.lead(a) as u32,
            a_row: s.a[0] as u32,
            a_col: s.a[1] as u32,
            b_offset: cx.lead(b) as u32,
            b_row: s.b[0] as u32,
            b_col: s.b[1] as u32,
            dims: pack(&s.dims, 1),
            a_batch: pack(&s.a_batch, 0),
            b_batch: pack(&s.b_batch, 0),
        };
        let count = s.count() * s.m * s.n;
        let small = count == 0 || s.m.min(s.n) < 8 || s.m * s.n * s.k < 1 << 13;
        let (kernel, groups) = if small {
            (&SMALL, count.div_ceil(WIDTH))
        } else {
            (&TILED, s.count() * s.m.div_ceil(TILE) * s.n.div_ceil(TILE))
        };
        cx.dispatch(kernel).input(0).input(1).output(0).uniform(&meta).workgroups(groups)
    }
}

impl<'g> Var<'g> {
    /// Matrix product `[.., m, k] x [.., k, n] -> [.., m, n]`; leading dimensions broadcast, at most four.
    #[track_caller]
    pub fn matmul(self, other: Var<'g>) -> Var<'g> {
        let (a, b) = (self.shape(), other.shape());
        if b.len() == 2 && a.len() > 2 && a[a.len() - 1] == b[0] {
            // One tall product instead of a batch that reads the same right side again and again.
            let rows = a[..a.len() - 1].iter().product::<usize>();
            let mut shape = a[..a.len() - 1].to_vec();
            shape.push(b[1]);
            return self.reshape([rows, b[0]]).op(Matmul, &[other]).reshape(shape);
        }
        self.op(Matmul, &[other])
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let shapes: [(&[usize], &[usize]); 16] = [
        (&[1, 1], &[1, 1]),
        (&[3, 0], &[0, 2]),
        (&[0, 3], &[3, 2]),
        (&[5, 7], &[7, 3]),
        (&[33, 31], &[31, 65]),
        (&[64, 64], &[64, 64]),
        (&[2, 37, 41], &[41, 35]),
        (&[2, 1, 13, 5], &[3, 5, 11]),
        (&[3, 40, 33], &[3, 33, 47]),
        (&[1, 300], &[300, 1]),
        (&[70_000, 1, 2], &[2, 1]),
        (&[129, 257], &[257, 65]),
        (&[70, 257], &[257, 9]),
        (&[9, 500], &[500, 131]),
        (&[3, 1, 17, 90], &[2, 90, 35]),
        (&[3, 12, 40], &[3, 40, 33]),
    ];
    let mut all: Vec<Sample> = shapes
        .into_iter()
        .map(|(a, b)| Sample::new(format!("matmul {a:?} {b:?}"), [a, b], |_, x| vec![x[0].matmul(x[1])]))
        .collect();
    all.push(Sample::new("matmul of transposes", [&[2, 33, 40], &[50, 33, 1, 3]], |_, x| {
        let (a, b) = (x[0].transpose(1, 2), x[1].slice(3, 1, 1).reshape([50, 33]).transpose(0, 1));
        vec![a.matmul(b), b.transpose(0, 1).matmul(a.transpose(-1, -2)), x[0].matmul(a)]
    }));
    all
}
