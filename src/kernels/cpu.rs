//! The interface of CPU twins: slices in, slices out.

use crate::types::{Layout, Shape};

/// Elements of an input.
#[derive(Clone, Copy)]
pub enum Slice<'a, T> {
    /// Floats.
    Float(&'a [T]),
    /// Integers.
    Int(&'a [u32]),
}

/// An input of a CPU call: a strided view of a buffer.
pub struct CpuInput<'a, T> {
    /// Shape.
    pub shape: &'a Shape,
    /// Layout within the buffer.
    pub layout: &'a Layout,
    /// The whole buffer.
    pub data: Slice<'a, T>,
}

/// An output of a CPU call, dense and row-major.
pub struct CpuOutput<'a, T> {
    /// Shape.
    pub shape: &'a Shape,
    /// Its elements.
    pub data: SliceMut<'a, T>,
}

/// Elements of an output.
pub enum SliceMut<'a, T> {
    /// Floats.
    Float(&'a mut [T]),
    /// Integers.
    Int(&'a mut [u32]),
}

impl<'a, T> SliceMut<'a, T> {
    /// The first `n` elements, at most all, which this then lacks.
    pub fn split_off(&mut self, n: usize) -> SliceMut<'a, T> {
        fn split<'a, E>(all: &mut &'a mut [E], n: usize) -> &'a mut [E] {
            let whole = std::mem::take(all);
            let (first, rest) = whole.split_at_mut(n.min(whole.len()));
            *all = rest;
            first
        }
        match self {
            SliceMut::Float(all) => SliceMut::Float(split(all, n)),
            SliceMut::Int(all) => SliceMut::Int(split(all, n)),
        }
    }
}

/// One call of a CPU twin. Shapes and element types were checked by the operation's `infer`.
pub struct CpuCall<'a, T> {
    /// Inputs.
    pub inputs: Vec<CpuInput<'a, T>>,
    /// Outputs; an in-place operation finds the old value here.
    pub outputs: Vec<CpuOutput<'a, T>>,
    /// Step number of this run.
    pub step: u32,
    /// Seed of this run.
    pub seed: u64,
    /// Which part of a shared batch this run computes.
    pub rank: u32,
}

/// An integer slice.
pub type Ints<'a> = &'a [u32];

impl<'a, T> CpuCall<'a, T> {
    /// Elements of a dense float input.
    pub fn f(&self, index: usize) -> &'a [T] {
        let input = &self.inputs[index];
        match input.data {
            Slice::Float(d) => &d[input.layout.offset..input.layout.end(input.shape)],
            Slice::Int(_) => &[],
        }
    }

    /// Elements of a dense integer input.
    pub fn u(&self, index: usize) -> Ints<'a> {
        let input = &self.inputs[index];
        match input.data {
            Slice::Int(d) => &d[input.layout.offset..input.layout.end(input.shape)],
            Slice::Float(_) => &[],
        }
    }

    /// Elements of a float output.
    pub fn out(&mut self, index: usize) -> &mut [T] {
        match &mut self.outputs[index].data {
            SliceMut::Float(d) => d,
            SliceMut::Int(_) => &mut [],
        }
    }

    /// Elements of an integer output.
    pub fn out_u(&mut self, index: usize) -> &mut [u32] {
        match &mut self.outputs[index].data {
            SliceMut::Int(d) => d,
            SliceMut::Float(_) => &mut [],
        }
    }

    /// Takes a float output out of the call, to write several at once; later calls find it empty.
    pub fn take(&mut self, index: usize) -> &'a mut [T] {
        match std::mem::replace(&mut self.outputs[index].data, SliceMut::Int(&mut [])) {
            SliceMut::Float(d) => d,
            SliceMut::Int(_) => &mut [],
        }
    }

    /// Takes an output of either type out of the call.
    pub fn take_any(&mut self, index: usize) -> SliceMut<'a, T> {
        std::mem::replace(&mut self.outputs[index].data, SliceMut::Int(&mut []))
    }

    /// Takes an integer output out of the call.
    pub fn take_u(&mut self, index: usize) -> &'a mut [u32] {
        match std::mem::replace(&mut self.outputs[index].data, SliceMut::Float(&mut [])) {
            SliceMut::Int(d) => d,
            SliceMut::Float(_) => &mut [],
        }
    }
}
