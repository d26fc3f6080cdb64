//! Local attention.

use super::build::{Build, run, unsupported};
use super::compare::Outcome;
use super::fixture::Case;
use crate::Module;
use serde_json::Value;
use wgrad::nn::{LocalAttention, LocalAttentionConfig, ParamVars, Params};
use wgrad::{Device, Result};

pub static MODULES: &[(&str, &str, Module)] = &[("CoLT5-attention", "local_attention.LocalMHA", local_mha)];

/// Options of the layer; one this test does not know is an error, not ignored.
fn config(case: &Case) -> Result<LocalAttentionConfig> {
    let mut c = LocalAttentionConfig::new(1, 1);
    c.prenorm = false;
    let Some(Value::Object(options)) = case.option("init") else {
        return Err(unsupported(case, "a case without options"));
    };
    for (key, value) in options {
        let number = value.as_u64().unwrap_or_default() as usize;
        match (key.as_str(), value) {
            ("dim", _) => c.dim = number,
            ("dim_head", _) => c.dim_head = number,
            ("heads", _) => c.heads = number,
            ("window_size", _) => c.window = number,
            ("causal", Value::Bool(causal)) => c.causal = *causal,
            ("prenorm", Value::Bool(prenorm)) => c.prenorm = *prenorm,
            ("use_rotary_pos_emb" | "exact_windowsize", Value::Bool(false)) => {}
            ("look_backward" | "look_forward", _) if number == 1 => {}
            (other, _) => return Err(unsupported(case, other)),
        }
    }
    Ok(c)
}

fn params<'g>(b: &Build<'g>) -> Result<ParamVars<'g>> {
    let vars: Result<Vec<_>> = b.case.names("param.").map(|name| Ok((name.to_owned(), b.param(name)?))).collect();
    Ok(ParamVars::from_vars(b.graph, vars?))
}

fn local_mha(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let layer = LocalAttention::new(&mut Params::new(0), "", config(case)?);
        b.output("out", layer.forward(&params(b)?, b.input("x")?, b.maybe_input("mask")));
        Ok(())
    })
}
