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
        rows == 0 || cols == 0 || (rows - 1) * self.strides[0] + (cols - 1) * self.strides[1] < self.data.len()
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
    // SAFETY: the assertion above bounds every element that the product touches; `c` is exclusive.
    #[cfg(not(target_arch = "wasm32"))]
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
