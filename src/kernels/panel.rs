//! Matrix products of the browser's CPU executor: a twentieth of the code of the `gemm` crate, which serves natively.
//!
//! Panels of `k` by a tile are packed so that the inner loop reads both operands in order; it keeps a tile of sums in
//! registers. Each element is the sum over `k` from the first to the last, in blocks of [`DEPTH`].

use super::gemm::Matrix;
use crate::types::Real;

/// Rows and columns of a tile: eight vectors of four lanes are what WebAssembly's registers hold.
const ROWS: usize = 4;
const COLS: usize = 8;
/// Steps along the inner extent between two visits of a tile: a panel stays in the first-level cache.
const DEPTH: usize = 256;

/// `c = a b`, or `c += a b` where `add`; `c` is dense with rows of `n`.
pub fn product<T: Real>(c: &mut [T], n: usize, k: usize, a: Matrix<'_, T>, b: Matrix<'_, T>, add: bool) {
    let m = c.len() / n;
    let (mut left, mut right) = (Vec::new(), vec![[T::ZERO; COLS]; DEPTH.min(k)]);
    for from in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - from);
        pack(&mut left, a, [m, depth], from);
        for col in (0..n).step_by(COLS) {
            let cols = COLS.min(n - col);
            for (p, packed) in right.iter_mut().enumerate().take(depth) {
                let start = (from + p) * b.strides[0] + col * b.strides[1];
                *packed = [T::ZERO; COLS];
                for (j, x) in packed.iter_mut().enumerate().take(cols) {
                    *x = b.data[start + j * b.strides[1]];
                }
            }
            for (tile, left) in left.chunks(depth).enumerate() {
                let sums = tile_product(left, &right);
                let rows = c.chunks_mut(n).skip(tile * ROWS);
                for (row, sums) in rows.zip(sums) {
                    for (c, sum) in row[col..col + cols].iter_mut().zip(sums) {
                        *c = if add || from > 0 { *c + sum } else { sum };
                    }
                }
            }
        }
    }
}

/// Tiles of rows of `a`, columns `from..from + depth`, each step's values side by side.
fn pack<T: Real>(out: &mut Vec<[T; ROWS]>, a: Matrix<'_, T>, [m, depth]: [usize; 2], from: usize) {
    out.clear();
    for first in (0..m).step_by(ROWS) {
        for p in from..from + depth {
            let value =
                |i: usize| if first + i < m { a.data[(first + i) * a.strides[0] + p * a.strides[1]] } else { T::ZERO };
            out.push(std::array::from_fn(value));
        }
    }
}

/// The sums of one tile.
#[inline(never)]
fn tile_product<T: Real>(left: &[[T; ROWS]], right: &[[T; COLS]]) -> [[T; COLS]; ROWS] {
    #[cfg(target_arch = "wasm32")]
    if size_of::<T>() == size_of::<f32>() {
        return bytemuck::cast(vectors(bytemuck::cast_slice(left), bytemuck::cast_slice(right)));
    }
    let mut sums = [[T::ZERO; COLS]; ROWS];
    for (a, b) in left.iter().zip(right) {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += *a * *b;
            }
        }
    }
    sums
}

/// [`tile_product`] in single precision by vector instructions, which the compiler does not find when it builds for size.
#[cfg(target_arch = "wasm32")]
fn vectors(left: &[[f32; ROWS]], right: &[[f32; COLS]]) -> [f32; ROWS * COLS] {
    use std::arch::wasm32::{f32x4_add, f32x4_mul, f32x4_splat, v128};
    let mut sums: [[v128; 2]; ROWS] = [[f32x4_splat(0.0); 2]; ROWS];
    for (a, b) in left.iter().zip(right) {
        let b: [v128; 2] = bytemuck::cast(*b);
        for (sums, a) in sums.iter_mut().zip(a) {
            let a = f32x4_splat(*a);
            *sums = [f32x4_add(sums[0], f32x4_mul(a, b[0])), f32x4_add(sums[1], f32x4_mul(a, b[1]))];
        }
    }
    bytemuck::cast(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_awkward_sizes() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (4, 8, 256), (9, 17, 300), (13, 1, 513), (1, 33, 2)] {
            let a: Vec<f64> = (0..m * k).map(|i| f64::from(i as u32 % 17) - 8.0).collect();
            let b: Vec<f64> = (0..k * n).map(|i| f64::from(i as u32 % 13) - 6.0).collect();
            let mut c = vec![1.0; m * n];
            // The second operand lies transposed.
            let (left, right) = (Matrix { data: &a, strides: [k, 1] }, Matrix { data: &b, strides: [1, k] });
            product(&mut c, n, k, left, right, true);
            for i in 0..m {
                for j in 0..n {
                    let sum: f64 = (0..k).map(|p| a[i * k + p] * b[j * k + p]).sum();
                    assert_eq!(c[i * n + j], sum + 1.0);
                }
            }
        }
    }
}
