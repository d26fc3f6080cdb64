//! Functions that the layers are made of.

use super::build::run;
use super::compare::Outcome;
use super::fixture::Case;
use crate::Module;
use wgrad::{Device, Result};

pub static MODULES: &[(&str, &str, Module)] = &[
    ("primitive", "mean cross entropy, ignore_index 2", cross_entropy),
    ("primitive", "softmax/logsumexp", softmax),
    ("primitive", "layer_norm eps1e-5 / rms_norm x/max(|x|,1e-12)*sqrt(d)*g / l2norm", norms),
    ("primitive", "gelu(erf)/elu+1/sigmoid/relu/silu", activations),
];

fn softmax(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let x = b.input("x")?;
        b.output("softmax", x.softmax(2));
        b.output("logsumexp", x.logsumexp(2).reshape([3, 5]));
        Ok(())
    })
}

fn norms(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let (x, gain, offset) = (b.input("x")?, b.input("g")?, b.input("b")?);
        b.output("layer_norm", x.layer_norm(gain, offset, 1e-5));
        b.output("rms_norm", x.rms_norm(gain));
        b.output("l2norm", x.l2_normalize(1e-12));
        Ok(())
    })
}

fn activations(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let x = b.input("x")?;
        b.output("gelu", x.gelu());
        b.output("elu1", x.elu_plus_one());
        b.output("sigmoid", x.sigmoid());
        b.output("relu", x.relu());
        b.output("silu", x.silu());
        Ok(())
    })
}

fn cross_entropy(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let (logits, labels) = (b.input("logits")?, b.input("labels")?);
        let ignore = case.option("ignore_index").and_then(|v| v.as_i64());
        b.output("loss", logits.cross_entropy_mean(labels, ignore));
        Ok(())
    })
}
