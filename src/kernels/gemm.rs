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

    fn counted<T: Real>(n: usize) -> Vec<T> {
        (0..n).map(|i| T::of((i * 7 % 11) as f64 - 5.0)).collect()
    }

    /// Buffers as long as the product needs and no longer: under Miri, one element too far is an error.
    fn exact<T: Real>([m, n, k]: [usize; 3], transposed: [bool; 2], add: bool) {
        let strides = |rows, cols, transposed| if transposed { [1, rows] } else { [cols, 1] };
        let (a, b) = (counted::<T>(m * k), counted::<T>(k * n));
        let a = Matrix { data: &a, strides: strides(m, k, transposed[0]) };
        let b = Matrix { data: &b, strides: strides(k, n, transposed[1]) };
        let mut c = counted::<T>(m * n);
        let at = |x: &Matrix<'_, T>, i: usize, j: usize| x.data[i * x.strides[0] + j * x.strides[1]].f64();
        let mut wanted: Vec<f64> = c.iter().map(|x| if add { x.f64() } else { 0.0 }).collect();
        for (p, sum) in wanted.iter_mut().enumerate() {
            *sum += (0..k).map(|l| at(&a, p / n, l) * at(&b, l, p % n)).sum::<f64>();
        }
        product(&mut c, n, k, a, b, add, false);
        let found: Vec<f64> = c.iter().map(|x| x.f64()).collect();
        assert_eq!(found, wanted, "{m} x {n}, inner {k}, transposed {transposed:?}, add {add}");
    }

    #[test]
    fn products_reach_every_element_and_none_beyond() {
        for sizes in [[1, 1, 1], [1, 5, 3], [7, 1, 2], [3, 4, 0], [0, 3, 2], [5, 13, 9]] {
            for transposed in [[false, false], [true, false], [false, true], [true, true]] {
                for add in [false, true] {
                    exact::<f32>(sizes, transposed, add);
                    exact::<f64>(sizes, transposed, add);
                }
            }
        }
    }

    #[test]
    fn operands_outside_their_buffers_are_refused() {
        let data = [1.0f32; 6];
        let refused = |strides: [usize; 2]| {
            let a = Matrix { data: &data, strides };
            let b = Matrix { data: &data, strides: [3, 1] };
            std::panic::catch_unwind(|| gemm(&mut [0.0; 6], 3, 2, a, b)).is_err()
        };
        assert!(!refused([2, 1]) && !refused([1, 3]));
        // The last of them wraps around to the first element.
        for strides in [[3, 3], [5, 2], [usize::MAX, 1], [1 << 63, 1]] {
            assert!(refused(strides), "{strides:?}");
        }
    }
}
