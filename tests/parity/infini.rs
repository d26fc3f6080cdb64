//! Infini-attention.

use super::build::{Build, run, unsupported};
use super::compare::Outcome;
use super::fixture::Case;
use crate::Module;
use serde_json::Value;
use wgrad::graph::Mode;
use wgrad::models::infini::{
    Cache, CausalAttention, InfiniConfig, InfiniStream, InfiniTransformer, Memory, MemoryPath, Sampling, SegmentLoss,
};
use wgrad::nn::{ParamVars, Params};
use wgrad::{DType, Device, Error, Result, Tensor, Var};

const SYSTEM: &str = "infini-transformer";

pub static MODULES: &[(&str, &str, Module)] = &[
    (SYSTEM, "CausalAttention", attention),
    (SYSTEM, "CausalAttention (token by token, kv cache)", cached),
    (SYSTEM, "InfiniTransformer", transformer),
    (SYSTEM, "InfiniTransformerWrapper", wrapper),
    (SYSTEM, "InfiniTransformerWrapper.generate", generate),
];

/// Options of the model; one this test does not know is an error, not ignored.
fn config(case: &Case) -> Result<InfiniConfig> {
    let mut c = InfiniConfig::new(1, 1, 1);
    let old = case.version.starts_with("0.0.");
    c.memory_path = if old { MemoryPath::Rotated } else { MemoryPath::Plain };
    let Some(Value::Object(options)) = case.option("init") else {
        return Err(unsupported(case, "a case without options"));
    };
    for (key, value) in options {
        let number = value.as_f64().unwrap_or_default();
        match key.as_str() {
            "num_tokens" => c.num_tokens = number as usize,
            "dim" => c.dim = number as usize,
            "depth" => c.depth = number as usize,
            "dim_head" => c.dim_head = number as usize,
            "heads" => c.heads = number as usize,
            "ff_mult" => c.ff_mult = number,
            "attn_dropout" | "dropout" => c.attn_dropout = number,
            "ff_dropout" => c.ff_dropout = number,
            "use_mem_delta_rule" => c.use_mem_delta_rule = value.as_bool().unwrap_or_default(),
            "learned_delta_update" => c.learned_delta_update = value.as_bool().unwrap_or_default(),
            // An initial value; the fixture has the parameter itself.
            "head_gate_init_value" => {}
            other => return Err(unsupported(case, other)),
        }
    }
    Ok(c)
}

/// The parameters of a case, without the prefix of a wrapper.
fn params<'g>(b: &Build<'g>) -> Result<ParamVars<'g>> {
    let mut vars = Vec::new();
    let mut constant = Vec::new();
    for name in b.case.names("param.") {
        vars.push((name.strip_prefix("model.").unwrap_or(name).to_owned(), b.param(name)?));
        if name.ends_with("rotary_emb.freqs") {
            constant.push(name);
        }
    }
    b.buffers(&constant);
    Ok(ParamVars::from_vars(b.graph, vars))
}

fn output_memory<'g>(b: &Build<'g>, name: &str, memory: &Memory<'g>) {
    b.output(&format!("{name}.kv"), memory.kv);
    b.output(&format!("{name}.norm"), memory.norm);
}

fn attention(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let p = params(b)?;
        let layer = CausalAttention::new("", &config(case)?, 0);
        let mut past = None;
        for s in 0..case.names("input.").count() {
            let (out, memory) = layer.forward(&p, b.input(&format!("x{s}"))?, past, true, Mode::Eval, s as u32);
            b.output(&format!("out{s}"), out);
            past = memory;
            if let Some(memory) = &past {
                output_memory(b, &format!("mem{s}"), memory);
            }
        }
        Ok(())
    })
}

/// The last segment token by token with a cache, those before it in one piece each.
fn cached(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let (p, config) = (params(b)?, config(case)?);
        let layer = CausalAttention::new("", &config, 0);
        let segments = case.names("input.").count();
        let mut memory = None;
        for s in 0..segments - 1 {
            memory = layer.forward(&p, b.input(&format!("x{s}"))?, memory, true, Mode::Eval, s as u32).1;
        }
        let x = b.input(&format!("x{}", segments - 1))?;
        let (batch, n) = (x.dim(0), x.dim(1));
        let written = b.graph.full_u32([batch], 1);
        let mut cache = Cache::empty(b.graph, &config, batch, n);
        for i in 0..n {
            let length = b.graph.full_u32([batch], i as u32);
            let past = memory.map(|m| (m, written));
            let (out, next) = layer.forward_cached(&p, x.slice(1, i, 1), cache, length, past);
            b.output(&format!("step{i}"), out);
            cache = next;
        }
        output_memory(b, "mem", &layer.write_cached(&p, cache, memory));
        Ok(())
    })
}

fn transformer(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let p = params(b)?;
        let model = InfiniTransformer::new(config(case)?)?;
        let mut past: Option<Vec<Memory<'_>>> = None;
        for s in 0..case.names("input.").count() {
            let ids = b.input(&format!("ids{s}"))?;
            let (logits, memories) = model.forward(&p, ids, past.as_deref(), true, Mode::Eval, s as u32);
            b.output(&format!("logits{s}"), logits);
            past = memories;
        }
        for (i, memory) in past.iter().flatten().enumerate() {
            output_memory(b, &format!("mem.{i}"), memory);
        }
        Ok(())
    })
}

fn wrapper(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let p = params(b)?;
        let model = InfiniTransformer::new(config(case)?)?;
        let mut options = SegmentLoss { ignore_index: Some(-1), ..Default::default() };
        let Some(Value::Object(wrapper)) = case.option("wrapper") else {
            return Err(unsupported(case, "no wrapper options"));
        };
        for (key, value) in wrapper {
            let number = value.as_i64().unwrap_or_default();
            match key.as_str() {
                "segment_length" => options.segment_length = number as usize,
                "detach_mems_every_num_segments" => options.detach_mems_every_num_segments = number as usize,
                "ignore_index" => options.ignore_index = Some(number),
                other => return Err(unsupported(case, other)),
            }
        }
        if let Some(length) = case.option("forward/segment_length").and_then(Value::as_u64) {
            options.segment_length = length as usize;
        }
        let scale = case.option("forward/grad_accum_scale").and_then(Value::as_f64).unwrap_or(1.0);
        let loss = model.segment_loss(&p, b.input("ids")?, options, Mode::Eval);
        b.output("loss", loss);
        if !case.has("cotangent.loss") {
            // What the wrapper accumulates itself.
            let scaled: Var<'_> = loss * (1.0 / scale);
            b.backward(scaled);
        }
        Ok(())
    })
}

fn generate(case: &Case, device: &Device) -> Result<Outcome> {
    let model = InfiniTransformer::new(config(case)?)?;
    let mut values: Params = model.init(0);
    for name in case.names("param.") {
        values.set(name.strip_prefix("model.").unwrap_or(name), case.tensor(&format!("param.{name}"))?.clone())?;
    }
    let number = |key: &str| case.option(key).and_then(Value::as_f64);
    let needed = |key: &str| number(key).ok_or_else(|| unsupported(case, key));
    let filter = case.option("filter").and_then(Value::as_str).unwrap_or("top_p .9").to_owned();
    let (kind, amount) = filter.split_once(' ').unwrap_or((&filter, ".9"));
    let amount: f32 = amount.trim().parse().map_err(|_| unsupported(case, &filter))?;
    let temperature = number("temperature").unwrap_or(1.0) as f32;
    let likeliest = |k: f32| Sampling { temperature, top_k: Some(k as usize), top_p: None };
    let sampling = match kind {
        "top_p" => Sampling { temperature, top_k: None, top_p: Some(amount) },
        // The package counts a share of the vocabulary too.
        "top_k" if amount < 1.0 => likeliest((amount * model.config().num_tokens as f32).ceil()),
        "top_k" => likeliest(amount),
        _ => return Err(unsupported(case, kind)),
    };
    let prompt = case.tensor("input.ids")?;
    if prompt.ty().dtype != DType::U32 {
        return Err(Error::argument("ids", "expected integers"));
    }
    let (batch, n) = (prompt.shape()[0], prompt.shape()[1]);
    let length = needed("segment_length")? as usize;
    let plans = pollster::block_on(model.stream_plans(device, &values, batch, length))?;
    let store = values.store(device)?;
    let mut stream = InfiniStream::new(&plans)?;
    let texts: Vec<&[u32]> = prompt.ints().chunks(n).collect();
    stream.feed(&store, &texts)?;
    let new = stream.generate_blocking(&store, needed("seq_len")? as usize - n, sampling, 0)?;
    let exclude = case.option("exclude_prompt").and_then(Value::as_bool).unwrap_or(true);
    let rows: Vec<Vec<u32>> =
        new.into_iter().zip(&texts).map(|(new, text)| if exclude { new } else { [text, &new[..]].concat() }).collect();
    let width = rows.first().map_or(0, Vec::len);
    let mut outcome = Outcome::default();
    outcome.add("output.ids", Tensor::u32([batch, width], rows.concat())?);
    Ok(outcome)
}
