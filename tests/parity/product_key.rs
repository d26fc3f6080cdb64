//! Product-key memory: the layer with all its options, and the small transformer.

use super::build::{Build, run, unsupported};
use super::compare::Outcome;
use super::fixture::Case;
use crate::Module;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use wgrad::graph::Mode;
use wgrad::models::product_key::{
    Lookup, OLDER_NAMES, PkmTransformer, PkmTransformerConfig, ProductKeyConfig, ProductKeyMemory,
};
use wgrad::nn::{ParamVars, Params};
use wgrad::ops::route::soft_top_k::DifferentiableTopK;
use wgrad::{Device, Error, Result, Shape};

const SYSTEM: &str = "product-key-memory";

pub static MODULES: &[(&str, &str, Module)] = &[
    (SYSTEM, "PKM", memory),
    (SYSTEM, "ProductKeyMemory", memory),
    (SYSTEM, "transformer.Transformer", transformer),
    (SYSTEM, "Transformer", transformer),
];

fn object(case: &Case, path: &str) -> Map<String, Value> {
    case.option(path).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Options of the layer; one this test does not know is an error, not ignored.
fn options(case: &Case, given: &Map<String, Value>, dim: usize) -> Result<ProductKeyConfig> {
    let mut c = ProductKeyConfig::new(dim);
    for (key, value) in given {
        let number = value.as_f64().unwrap_or_default();
        let flag = value.as_bool().unwrap_or_default();
        match key.as_str() {
            "dim" => c.dim = number as usize,
            "heads" => c.heads = number as usize,
            "num_keys" => c.num_keys = number as usize,
            "topk" => c.topk = number as usize,
            "dim_head" => c.dim_head = number as usize,
            "input_dropout" => c.input_dropout = number,
            "query_dropout" => c.query_dropout = number,
            "value_dropout" => c.value_dropout = number,
            "attn_dropout" => c.attn_dropout = number,
            "use_layernorm" => c.use_layernorm = flag,
            "pre_layernorm" => c.pre_layernorm = flag,
            "differentiable_topk" => c.differentiable_topk = flag.then(DifferentiableTopK::default),
            "concat_values_and_combine" => c.concat_values_and_combine = flag,
            "norm_output" => c.norm_output = flag,
            "non_competitive_gates" => c.non_competitive_gates = flag,
            other => return Err(unsupported(case, other)),
        }
    }
    c.drop_gates = c.concat_values_and_combine && case.semantics == "reference";
    Ok(c)
}

/// The parameters of a case. A module must declare just these.
fn params<'g>(b: &Build<'g>, declared: &Params) -> Result<ParamVars<'g>> {
    let mut theirs = BTreeMap::new();
    let mut vars = Vec::new();
    for name in b.case.names("param.") {
        let var = b.param(name)?;
        let old = OLDER_NAMES.iter().find_map(|(new, old)| Some(format!("{}{new}", name.strip_suffix(old)?)));
        let name = old.unwrap_or(name.to_owned());
        theirs.insert(name.clone(), var.shape());
        vars.push((name, var));
    }
    let ours: BTreeMap<String, Shape> = declared.iter().map(|p| (p.name().to_owned(), p.shape().clone())).collect();
    if ours != theirs {
        return Err(Error::argument("parameters", format!("declared {ours:?}, the checkpoint has {theirs:?}")));
    }
    b.buffers(&declared.iter().filter(|p| !p.is_trainable()).map(|p| p.name()).collect::<Vec<_>>());
    Ok(ParamVars::from_vars(b.graph, vars))
}

/// What a case says about a call.
fn lookup<'g>(b: &Build<'g>) -> Result<Lookup<'g>> {
    let mut lookup = Lookup::new(Mode::Eval, 0);
    lookup.input_mask = b.maybe_input("input_mask").or(b.maybe_input("mask"));
    lookup.mem_trainable_mask = b.maybe_input("mem_trainable_mask");
    lookup.gumbel_noise = b.maybe_input("gumbel");
    for (key, value) in object(b.case, "forward") {
        match (key.as_str(), value.as_f64()) {
            // That version took the scale for a flag.
            ("gumbel_noise_scale", Some(scale)) if b.case.version == "0.2.6" => lookup = lookup.gumbel(scale.signum()),
            ("gumbel_noise_scale", Some(scale)) => lookup = lookup.gumbel(scale),
            ("return_loss", _) => {}
            _ => return Err(unsupported(b.case, &key)),
        }
    }
    Ok(lookup)
}

fn memory(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let mut declared = Params::new(0);
        let config = options(case, &object(case, "init"), 0)?;
        let layer = ProductKeyMemory::new(&mut declared, "", config)?;
        let p = params(b, &declared)?;
        b.output("out", layer.forward(&p, b.input("x")?, &lookup(b)?));
        Ok(())
    })
}

fn transformer(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let mut given = object(case, "init");
        let inner = given.remove("pkm_kwargs").and_then(|v| v.as_object().cloned()).unwrap_or_default();
        let dim = case.size("init/dim", 0);
        let mut c = PkmTransformerConfig::new(0, case.size("init/depth", 0), 0, options(case, &inner, dim)?);
        for (key, value) in &given {
            let size = value.as_u64().unwrap_or_default() as usize;
            let list = value.as_array().map(|l| l.iter().filter_map(|v| Some(v.as_u64()? as usize)).collect());
            match (key.as_str(), list) {
                ("dim" | "depth" | "pad_value", _) => {}
                ("num_tokens", _) => c.num_tokens = size,
                ("seq_len", _) => c.seq_len = size,
                ("dim_head", _) => c.dim_head = size,
                ("heads", _) => c.heads = size,
                ("pkm_layers", Some(list)) => c.pkm_layers = list,
                ("pkm_layers", None) if value.is_u64() => c.pkm_layers = vec![size],
                ("pkm_layers", None) if value.is_null() => {}
                (other, _) => return Err(unsupported(case, other)),
            }
        }
        let model = PkmTransformer::new(c)?;
        let p = params(b, &model.init(0))?;
        let (ids, lookup) = (b.input("ids")?, lookup(b)?);
        let with_loss = case.has("output.loss");
        if with_loss {
            b.output("loss", model.loss(&p, ids, &lookup).0);
        }
        if case.has("output.logits") {
            let ids = if with_loss { ids.slice(1, 0, ids.dim(1) - 1) } else { ids };
            b.output("logits", model.forward(&p, ids, Mode::Eval));
        }
        Ok(())
    })
}
