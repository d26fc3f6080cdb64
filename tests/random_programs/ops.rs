//! The operations of random programs. One that has no use for what it is given makes nothing.

use crate::grow::{Grower, Value};
use crate::{arrange, elementwise, ends, layers, memory, rows};

pub type Make = for<'c, 'g> fn(&'c mut Grower<'g>) -> Option<Value<'g>>;

pub struct Op {
    pub name: &'static str,
    /// How often it is chosen; 0: only where a program has its place for it.
    pub weight: u32,
    pub make: Make,
}

macro_rules! ops {
    ($($module:ident: $($name:ident $weight:literal),*;)*) => {
        pub const OPS: &[Op] = &[$($(
            Op { name: stringify!($name), weight: $weight, make: |g| $module::$name(g) },
        )*)*];
    };
}

ops! {
    ends: input 0, exact 0, ints 0, state 0, output 0, loss 0, assign 0, gate 0, slope 2, optimize 2, accumulate 1;
    elementwise: unary 6, binary 7, kinked 3, compare 2, logic 2, convert 2, random 3, loose 2, choose 3, recompute 2, straight 1,
        constant 1;
    arrange: transpose 5, permute 2, reshape 4, slice 5, expand 3, split 2, join 3, pad 2, dilate 2, copy 1, gather 3,
        scatter 3, take_along 2, scatter_along 2, sort 1, cache 2, sharded 2, weighted_gather 3, of_ints 3;
    rows: sum 4, extreme 2, argmax 1, softmax 3, logsumexp 2, cumsum 2, norm 3, top_k 3, product_top_k 2, cross_entropy 2, sample 1,
        sum_to 2;
    layers: matmul 5, einsum 2, attention 2, local_attention 2, descent_attention 1, rotary 2, soft_top_k 2,
        differentiable_top_k 1, sinkhorn 2, cumulative_softmax 1;
    memory: bank 3, quantised 2, tally_rows 1, optimize_rows 2, pack 1;
}
