//! Matrix products: natively a safe door to the `gemm` crate, the only unsafe code of the CPU executor; in the browser
//! a portable one.

use crate::types::Real;

/// A strided matrix operand: element (i, j) is `data[i * strides[0] + j * strides[1]]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    /// Elements from (0, 0) on.
    pub data: &'a [T],
    /// Row and column strides.
    pub strides: [usize; 2],
}

impl<T> Matrix<'_, T> {
    fn covers(&self, rows: usize, cols: usize) -> bool {
        if rows == 0 || cols == 0 {
            return true;
        }
        let along = |n: usize, stride: usize| (n - 1).checked_mul(stride);
        let last = along(rows, self.strides[0]).zip(along(cols, self.strides[1]));
        last.and_then(|(row, col)| row.checked_add(col)).is_some_and(|last| last < self.data.len())
    }
}

/// `c = a b` on all threads, otherwise as [`gemm()`]: threads share what is packed, and each tile of `c` is one thread's, so
/// that its sums do not depend on their number.
pub fn gemm_parallel<T: Real>(c: &mut [T], n: usize, k: usize, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    product(c, n, k, a, b, false, true);
}

/// `c = a b` on one thread, `c` dense with rows of `n`, `k` the inner extent. Rows are as many as `c` holds.
pub fn gemm<T: Real>(c: &mut [T], n: usize, k: usize, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    product(c, n, k, a, b, false, false);
}

/// `c += a b`, otherwise as [`gemm()`].
pub fn gemm_add<T: Real>(c: &mut [T], n: usize, k: usize, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    product(c, n, k, a, b, true, false);
}

fn product<T: Real>(c: &mut [T], n: usize, k: usize, a: Matrix<'_, T>, b: Matrix<'_, T>, add: bool, parallel: bool) {
    let m = c.len().checked_div(n).unwrap_or(0);
    if m == 0 {
        return;
    }
    if k == 0 {
        if !add {
            c.fill(T::ZERO);
        }
        return;
    }
    assert!(a.covers(m, k) && b.covers(k, n) && c.len() >= m * n, "operands of a product lie inside their buffers");
    #[cfg(target_arch = "wasm32")]
    {
        let _ = parallel;
        super::panel::product(c, n, k, a, b, add);
    }
    // SAFETY: the assertion above bounds every element that the product touches; no index exceeds a slice's length, so all
    // fit `isize`; `c` is exclusive.
    #[cfg(not(target_arch = "wasm32"))]
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.data.as_ptr(),
            a.strides[1] as isize,
            a.strides[0] as isize,
            b.data.as_ptr(),
            b.strides[1] as isize,
            b.strides[0] as isize,
            if add { T::ONE } else { T::ZERO },
            T::ONE,
            false,
            false,
            false,
            if parallel { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    fn matrix(data: &[f32], strides: [usize; 2]) -> Matrix<'_, f32> {
        Matrix { data, strides }
    }

    #[test]
    fn strides_that_stay_inside_are_exact() {
        // Small integers: no rounding, so that every way of adding up gives the same.
        let data: Vec<f32> = (0..400).map(|i| ((i * 7 + 3) % 11) as f32 - 5.0).collect();
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (8, 6, 1), (13, 2, 9), (4, 17, 3), (0, 3, 2), (2, 3, 0)] {
            // Dense, transposed, spaced out, all rows the same, and one element for all.
            for of in [[k, 1], [1, m], [2 * k + 1, 2], [0, 1], [0, 0]] {
                let (a, b) = (matrix(&data[5..], of), matrix(&data, [n, 1]));
                for add in [false, true] {
                    let mut c = vec![2.0; m * n];
                    product(&mut c, n, k, a, b, add, false);
                    for (i, got) in c.iter().enumerate() {
                        let (row, col) = (i / n, i % n);
                        let terms = (0..k).map(|t| a.data[row * of[0] + t * of[1]] * b.data[t * n + col]);
                        assert_eq!(*got, terms.sum::<f32>() + if add { 2.0 } else { 0.0 }, "{m} {n} {k} {of:?} {add}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_reaches_outside_is_refused() {
        let data = vec![1.0f32; 12];
        // A product of 3 x 4 and 4 x 2; each of these has one element too few, or strides whose product wraps around.
        let inside = matrix(&data, [4, 1]);
        let outside = [
            matrix(&data[1..], [4, 1]),
            matrix(&data, [5, 1]),
            matrix(&data, [4, 2]),
            matrix(&data, [usize::MAX, 1]),
            matrix(&data, [usize::MAX / 2 + 1, 0]),
            matrix(&data, [1, usize::MAX / 3 + 1]),
            matrix(&[], [0, 0]),
        ];
        for a in outside {
            assert!(catch_unwind(|| gemm(&mut [0.0; 6], 2, 4, a, inside)).is_err(), "{:?}", a.strides);
        }
        for b in outside {
            assert!(
                catch_unwind(|| gemm(&mut [0.0; 6], 2, 4, inside, b)).is_err() || b.covers(4, 2),
                "{:?}",
                b.strides
            );
        }
        assert!(catch_unwind(|| gemm(&mut [0.0; 6], 2, 4, inside, matrix(&data, [2, 1]))).is_ok());
    }
}
