//! Strided elements in row-major order: how CPU twins read inputs that do not lie densely.

use super::par;
use crate::types::Layout;

/// Elements that one thread copies at a time, at least.
const PIECE: usize = 1 << 14;
/// Rows of a transposed source that are read together: a line of a cache.
const TILE: usize = 16;

/// A layout with its extents, neighbouring dimensions merged where they lie densely.
pub struct Walk {
    offset: usize,
    dims: Vec<usize>,
    strides: Vec<usize>,
}

impl Walk {
    /// Of the elements of `shape`, none of whose extents is 0.
    pub fn new(layout: &Layout, shape: &[usize]) -> Self {
        let (dims, mut strides) = Layout::collapse(shape, &[layout]);
        Walk { offset: layout.offset, dims, strides: strides.swap_remove(0) }
    }

    /// Position of the element with a linear index.
    #[inline(always)]
    fn position(&self, linear: usize) -> usize {
        let (mut rest, mut at) = (linear, self.offset);
        for (dim, stride) in self.dims.iter().zip(&self.strides).rev() {
            at += rest % dim * stride;
            rest /= dim;
        }
        at
    }

    /// Copies the elements from linear index `start` on.
    #[inline(always)]
    pub fn load<E: Copy>(&self, data: &[E], start: usize, out: &mut [E]) {
        let (Some(&extent), Some(&stride)) = (self.dims.last(), self.strides.last()) else {
            return out.fill(data[self.offset]);
        };
        let mut done = 0;
        while done < out.len() {
            let linear = start + done;
            let (at, within) = (self.position(linear), linear % extent);
            if within == 0 && stride > 1 {
                let rows = self.transposed(linear / extent, (out.len() - done) / extent);
                if rows > 1 {
                    let out = &mut out[done..done + rows * extent];
                    for (c, from) in (at..).step_by(stride).take(extent).enumerate() {
                        let line = &data[from..from + rows];
                        line.iter().enumerate().for_each(|(r, x)| out[r * extent + c] = *x);
                    }
                    done += rows * extent;
                    continue;
                }
            }
            let n = (extent - within).min(out.len() - done);
            let run = &mut out[done..done + n];
            match stride {
                0 => run.fill(data[at]),
                1 => run.copy_from_slice(&data[at..at + n]),
                _ => run.iter_mut().zip(data[at..].iter().step_by(stride)).for_each(|(o, x)| *o = *x),
            }
            done += n;
        }
    }

    /// How many rows from `row` on, at most `rows`, lie side by side and are read together.
    fn transposed(&self, row: usize, rows: usize) -> usize {
        match (self.dims.iter().rev().nth(1), self.strides.iter().rev().nth(1)) {
            (Some(dim), Some(1)) => rows.min(dim - row % dim).min(TILE),
            _ => 1,
        }
    }

    /// Copies all elements to `out`, in parallel.
    pub fn copy<E: Copy + Send + Sync>(&self, data: &[E], out: &mut [E]) {
        let extent = self.dims.last().copied().unwrap_or(1);
        par::pieces(
            out,
            extent * (PIECE / extent).max(TILE),
            #[inline(always)]
            |start, piece| self.load(data, start, piece),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_strides_say() {
        let data: Vec<u32> = (0..4000).collect();
        for (dims, strides, offset) in [
            (vec![40, 50], vec![50, 1], 3),
            (vec![50, 40], vec![1, 50], 7),
            (vec![3, 37, 29], vec![1100, 1, 37], 0),
            (vec![2, 3, 4, 5], vec![0, 7, 500, 2], 1),
            (vec![17, 1, 23], vec![0, 5, 1], 0),
            (vec![], vec![], 9),
        ] {
            let layout = Layout { offset, strides };
            let walk = Walk::new(&layout, &dims);
            let n: usize = dims.iter().product();
            let dense = Layout::contiguous(&dims);
            let position = |linear: usize| {
                let parts = dims.iter().zip(&dense.strides).zip(&layout.strides);
                offset + parts.map(|((d, step), s)| linear / step % d * s).sum::<usize>()
            };
            let want: Vec<u32> = (0..n).map(|i| data[position(i)]).collect();
            let mut all = vec![0; n];
            walk.copy(&data, &mut all);
            assert_eq!(all, want);
            for start in [0, 1, n / 3] {
                let mut part = vec![0; n - start.min(n)];
                walk.load(&data, start, &mut part);
                assert_eq!(part, want[start.min(n)..]);
            }
        }
    }
}
