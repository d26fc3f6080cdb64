//! Strided views of buffers.

use super::{Shape, TensorType};

/// Where the elements of a tensor lie in its buffer: `offset + sum(index[i] * strides[i])`, in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// First element.
    pub offset: usize,
    /// Distance between neighbours along each dimension; 0 repeats.
    pub strides: Vec<usize>,
}

impl Layout {
    /// Row-major layout from the start of the buffer.
    pub fn contiguous(shape: &[usize]) -> Self {
        let mut strides = vec![0; shape.len()];
        let mut step = 1;
        for i in (0..shape.len()).rev() {
            strides[i] = step;
            step *= shape[i].max(1);
        }
        Layout { offset: 0, strides }
    }

    /// Whether the elements of `shape` lie densely in row-major order from `offset`.
    pub fn is_dense(&self, shape: &[usize]) -> bool {
        let mut step = 1;
        for i in (0..shape.len()).rev() {
            if shape[i] != 1 && self.strides[i] != step {
                return false;
            }
            step *= shape[i];
        }
        true
    }

    /// Same elements broadcast from `from` to `to` (repeated dimensions get stride 0).
    pub fn broadcast(&self, from: &[usize], to: &[usize]) -> Layout {
        let skip = to.len().saturating_sub(from.len());
        let strides = (0..to.len())
            .map(|i| if i < skip || from[i - skip] != to[i] { 0 } else { self.strides[i - skip] })
            .collect();
        Layout { offset: self.offset, strides }
    }

    /// Layout of the same elements under another shape, if no copy is needed.
    pub fn reshape(&self, from: &[usize], to: &[usize]) -> Option<Layout> {
        if from.iter().product::<usize>() == 0 {
            return Some(Layout { offset: self.offset, ..Layout::contiguous(to) });
        }
        // Merge what is dense, then cut the merged runs into the new extents.
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (&d, &s) in from.iter().zip(&self.strides).filter(|(d, _)| **d != 1) {
            match runs.last_mut() {
                Some((extent, stride)) if *stride == s * d => (*extent, *stride) = (*extent * d, s),
                _ => runs.push((d, s)),
            }
        }
        let mut strides = vec![0; to.len()];
        let mut run = runs.len();
        let (mut left, mut step) = (1, 1);
        for i in (0..to.len()).rev() {
            if to[i] == 1 {
                strides[i] = step;
                continue;
            }
            if left == 1 {
                run = run.checked_sub(1)?;
                (left, step) = runs[run];
            }
            if left % to[i] != 0 {
                return None;
            }
            strides[i] = step;
            left /= to[i];
            step *= to[i];
        }
        Some(Layout { offset: self.offset, strides })
    }

    /// One past the last element that is touched.
    pub fn end(&self, shape: &[usize]) -> usize {
        if shape.contains(&0) {
            return self.offset;
        }
        self.offset + 1 + shape.iter().zip(&self.strides).map(|(d, s)| (d - 1) * s).sum::<usize>()
    }

    /// Merges neighbouring dimensions that are dense in all `layouts`; returns the merged extents and strides.
    pub fn collapse(shape: &[usize], layouts: &[&Layout]) -> (Vec<usize>, Vec<Vec<usize>>) {
        let mut dims: Vec<usize> = Vec::new();
        let mut strides: Vec<Vec<usize>> = vec![Vec::new(); layouts.len()];
        for i in (0..shape.len()).filter(|&i| shape[i] != 1) {
            let joins = !dims.is_empty()
                && layouts.iter().zip(&strides).all(|(l, s)| s[s.len() - 1] == l.strides[i] * shape[i]);
            if joins {
                if let Some(last) = dims.last_mut() {
                    *last *= shape[i];
                }
            } else {
                dims.push(shape[i]);
            }
            for (l, s) in layouts.iter().zip(&mut strides) {
                match s.last_mut() {
                    Some(last) if joins => *last = l.strides[i],
                    _ => s.push(l.strides[i]),
                }
            }
        }
        (dims, strides)
    }
}

/// A tensor in a plan: a typed, strided view of one buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// Index of the buffer in the program.
    pub buffer: usize,
    /// Element type and shape.
    pub ty: TensorType,
    /// Where its elements lie.
    pub layout: Layout,
}

impl Operand {
    /// Shape.
    pub fn shape(&self) -> &Shape {
        &self.ty.shape
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.ty.numel()
    }

    /// Whether the elements lie densely in row-major order.
    pub fn is_dense(&self) -> bool {
        self.layout.is_dense(&self.ty.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_of_views() {
        let l = Layout { offset: 3, strides: vec![1, 4] };
        assert_eq!(l.reshape(&[4, 6], &[24]), None);
        assert_eq!(l.reshape(&[4, 6], &[2, 2, 6]), Some(Layout { offset: 3, strides: vec![2, 1, 4] }));
        let c = Layout::contiguous(&[2, 3, 4]);
        assert_eq!(c.reshape(&[2, 3, 4], &[6, 1, 4]).map(|l| l.is_dense(&[6, 1, 4])), Some(true));
        let broadcast = Layout { offset: 0, strides: vec![0, 1] };
        assert_eq!(broadcast.reshape(&[3, 4], &[12]), None);
        assert_eq!(broadcast.reshape(&[3, 4], &[3, 2, 2]), Some(Layout { offset: 0, strides: vec![0, 2, 1] }));
    }

    #[test]
    fn collapse_merges_dense_dimensions() {
        let a = Layout::contiguous(&[2, 3, 4]);
        let b = Layout { offset: 0, strides: vec![0, 4, 1] };
        assert_eq!(Layout::collapse(&[2, 3, 4], &[&a]), (vec![24], vec![vec![1]]));
        assert_eq!(Layout::collapse(&[2, 3, 4], &[&a, &b]), (vec![2, 12], vec![vec![12, 1], vec![0, 1]]));
    }
}
