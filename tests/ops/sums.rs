//! Sums of long rows.

use crate::common;
use crate::common::modules::run;
use wgrad::Tensor;
use wgrad::nn::Params;

/// One after the other, the ones after the large entry would all be lost in rounding.
#[test]
fn a_large_entry_does_not_swallow_the_small_ones() {
    let n = 1 << 20;
    let mut values = vec![1.0; n];
    values[0] = 33_554_432.0;
    let x = Tensor::f32([1, n], values).unwrap();
    let exact = 33_554_432.0 + (n - 1) as f64;
    for device in common::devices() {
        let sums = run(&device, &Params::new(0), &[("x", &x)], |_, v| vec![v[0].sum(1), v[0].transpose(0, 1).sum(0)]);
        for sum in sums {
            let error = (f64::from(sum.floats()[0]) - exact).abs() / exact;
            assert!(error < 1e-4, "{device}: relative error {error:e}");
        }
    }
}
