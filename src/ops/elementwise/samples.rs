//! Samples of elementwise operations.

use super::*;

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let unary = [
        Unary::Neg,
        Unary::Exp,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::Relu,
        Unary::Elu,
        Unary::EluPlusOne,
        Unary::Erf,
        Unary::Gelu,
        Unary::GeluSlope,
        Unary::Sin,
        Unary::Cos,
        Unary::Abs,
    ];
    let mut all: Vec<Sample> = unary
        .into_iter()
        .map(|f| {
            // WGSL allows sine and cosine an absolute error of 2^-11 in [-π, π], and drivers use it.
            let loose = matches!(f, Unary::Sin | Unary::Cos);
            Sample::new(format!("{f:?}"), [&[7, 13]], move |_, x| vec![x[0].unary(f)]).tolerance(if loose {
                5e-4
            } else {
                2e-5
            })
        })
        .collect();
    for f in [Unary::Ln, Unary::Sqrt, Unary::Recip] {
        all.push(Sample::new(format!("{f:?}"), [&[5, 17]], move |_, x| vec![x[0].unary(f)]).positive(0));
    }
    for shape in [&[0usize, 3][..], &[1], &[70_001], &[1, 1, 1], &[]] {
        all.push(Sample::new(format!("exp{shape:?}"), [shape], |_, x| vec![x[0].exp()]));
    }
    for (a, b) in [(&[3usize, 1, 5][..], &[4, 1][..]), (&[1], &[7]), (&[2, 3], &[]), (&[66_000, 2], &[2])] {
        all.push(Sample::new(format!("arithmetic {a:?} {b:?}"), [a, b], |_, x| {
            vec![x[0] + x[1], x[0] - x[1], x[0] * x[1], x[0].maximum(x[1]), x[0].minimum(x[1])]
        }));
        all.push(
            Sample::new(format!("div pow {a:?} {b:?}"), [a, b], |_, x| vec![x[0] / x[1], x[0].pow(x[1])])
                .positive(0)
                .positive(1),
        );
    }
    all.push(
        Sample::new("compare", [&[4, 9], &[9]], |_, x| {
            let c = [x[0].lt(x[1]), x[0].le(x[1]), x[0].gt(x[1]), x[0].ge(x[1]), x[0].eq(x[1]), x[0].ne(x[1])];
            vec![c[0] + c[1] + c[2], c[3].and(c[1]).or(c[4]).xor(c[5]), x[0].is_finite()]
        })
        .no_gradient(),
    );
    all.push(
        Sample::new("integers", [], |_, x| {
            let (a, b) = (x[0], x[1]);
            vec![a + b, a * b, a - b, a / b, a.rem(b), a.shl(b), a.shr(b), a.and(b), a.or(b), a.xor(b), a.maximum(b)]
        })
        .below(&[33], 1 << 20)
        .below(&[33], 9)
        .no_gradient(),
    );
    all.push(
        Sample::new("select", [&[6, 5], &[5]], |_, x| {
            vec![x[2].select(x[0], x[1]), x[0].keep_where(x[2], -3.0), (x[0] * 3.0).to_u32().to_f32()]
        })
        .below(&[6, 1], 2),
    );
    all.push(
        Sample::new("straight_through", [&[9], &[9]], |_, x| {
            vec![x[0] * x[1].stop_gradient(), x[1].relu().straight_through(x[1]).stop_gradient() + x[0].silu()]
        })
        .no_gradient(),
    );
    all.push(Sample::new("iota", [&[4, 70, 3]], |g, x| {
        let row = g.iota([4, 70, 3], 1);
        vec![
            row,
            g.iota([1, 70, 1], 1).to_f32() * x[0],
            row.rem(2).eq(g.iota([3], 0)).select(x[0].tanh(), row.to_f32()),
            g.iota([70_001, 1], 0),
            g.iota([3, 0], 1),
        ]
    }));
    all.push(Sample::new("long chain", [&[8, 31], &[31], &[8, 1]], |_, x| {
        let mut y = x[0];
        for i in 0..9 {
            y = (y * x[1] + x[2]).tanh() + 0.1 * f64::from(i);
        }
        vec![y, y.sigmoid()]
    }));
    all
}
