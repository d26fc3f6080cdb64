//! Block-recurrent transformer.

use super::build::{Build, run, unsupported};
use super::compare::Outcome;
use super::fixture::Case;
use crate::Module;
use serde_json::Value;
use std::collections::BTreeMap;
use wgrad::models::recurrent::{
    AttentionBlock, AttentionBlockConfig, BlockRecurrentConfig, BlockRecurrentTransformer, Carried, GateConfiguration,
    GateKind, Lookback, Memory, RecurrentStream, RecurrentTrainerWrapper, Sampling, StateContainer,
    StateContainerConfig, States,
};
use wgrad::nn::{ParamVars, Params};
use wgrad::{Device, Error, Mode, Result, Shape, Tensor, Var};

const SYSTEM: &str = "block-recurrent";

pub static MODULES: &[(&str, &str, Module)] = &[
    (SYSTEM, "StateContainer", state_container),
    (SYSTEM, "AttentionBlock", attention_block),
    (SYSTEM, "BlockRecurrentTransformer", transformer),
    (SYSTEM, "RecurrentTrainerWrapper", wrapper),
    (SYSTEM, "RecurrentTrainerWrapper.generate", generate),
];

/// The parameters of a case, without a wrapper's prefix. The module must declare just these.
fn params<'g>(b: &Build<'g>, declared: &Params) -> Result<ParamVars<'g>> {
    let mut theirs = BTreeMap::new();
    let (mut vars, mut constant) = (Vec::new(), Vec::new());
    for name in b.case.names("param.") {
        let own = name.strip_prefix("transformer.").unwrap_or(name);
        let var = b.param(name)?;
        if declared.get(own).is_ok_and(|p| !p.is_trainable()) {
            constant.push(name);
        }
        theirs.insert(own, var.shape());
        vars.push((own.to_owned(), var));
    }
    let ours: BTreeMap<&str, Shape> = declared.iter().map(|p| (p.name(), p.shape().clone())).collect();
    if ours != theirs {
        return Err(Error::argument("parameters", format!("declared {ours:?}, the checkpoint has {theirs:?}")));
    }
    b.buffers(&constant);
    Ok(ParamVars::from_vars(b.graph, vars))
}

/// Options of a constructor.
fn options(case: &Case) -> Result<&serde_json::Map<String, Value>> {
    match case.option("init") {
        Some(Value::Object(options)) => Ok(options),
        _ => Err(unsupported(case, "a case without options")),
    }
}

fn state_config(case: &Case) -> Result<StateContainerConfig> {
    let mut c = StateContainerConfig {
        dim: 0,
        num_state_vectors: 0,
        dim_head: 64,
        heads: 8,
        qk_rmsnorm: false,
        qk_rmsnorm_scale: None,
        gate: GateKind::Fixed,
        gates: GateConfiguration::Skip,
        ff_inner: 0,
        init_std: 0.1,
    };
    for (key, value) in options(case)? {
        let number = value.as_u64().unwrap_or_default() as usize;
        match key.as_str() {
            "dim" => c.dim = number,
            "num_state_vectors" => c.num_state_vectors = number,
            "dim_head" => c.dim_head = number,
            "heads" => c.heads = number,
            "qk_rmsnorm" => c.qk_rmsnorm = value.as_bool().unwrap_or_default(),
            "block_width" => {}
            other => return Err(unsupported(case, other)),
        }
    }
    Ok(c)
}

fn passed<'g>(b: &Build<'g>, name: &str) -> Option<States<'g>> {
    b.maybe_input(name).map(|vectors| States { vectors, written: None })
}

fn state_container(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let mut declared = Params::new(0);
        let bank = StateContainer::new(&mut declared, "", state_config(case)?);
        let p = params(b, &declared)?;
        let view = bank.view(&p, passed(b, "states").as_ref());
        b.output("read", bank.read(&p, b.input("x")?, &bank.readable(&p, &view)));
        let block = Memory { keys: b.input("k")?, values: b.input("v")?, count: None };
        b.output("new_states", bank.write(&p, &block, &view));
        Ok(())
    })
}

fn attention_block(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let states = state_config(case)?;
        let mut config = AttentionBlockConfig {
            dim_head: states.dim_head,
            heads: states.heads,
            qk_rmsnorm: states.qk_rmsnorm,
            lookback: if case.version.starts_with("0.3") { Lookback::Width } else { Lookback::Memory },
            ..AttentionBlockConfig::new(states.dim, case.size("init/block_width", 0))
        };
        if !case.flag("rotary", true) {
            config.positions = None;
        }
        if states.num_state_vectors > 0 {
            (config.states, config.state_reads) = (Some(states), 1);
        }
        let mut declared = Params::new(0);
        let layer = AttentionBlock::new(&mut declared, "", config);
        let p = params(b, &declared)?;
        let view = layer.states().map(|bank| (bank, bank.view(&p, passed(b, "states").as_ref())));
        let reads: Vec<_> = view.iter().map(|(bank, view)| (*bank, bank.readable(&p, view))).collect();
        let past = b.maybe_input("xl_memories").map(Memory::from_stacked);
        let own = view.as_ref().map(|(_, view)| view);
        let attended = layer.forward(&p, b.input("x")?, past.as_ref(), &reads, own);
        b.output("out", attended.out);
        b.output("memories", attended.memory.stacked());
        if let Some(states) = attended.states {
            b.output("states", states);
        }
        Ok(())
    })
}

/// Options of the model; one this test does not know is an error, not ignored.
pub fn config(case: &Case) -> Result<BlockRecurrentConfig> {
    let mut c = BlockRecurrentConfig::new(1, 1, 1);
    if case.version.starts_with("0.3") {
        c = c.as_0_3_2();
    }
    c.enhanced_recurrence = case.flag("enhanced_recurrence", false);
    for (key, value) in options(case)? {
        let number = value.as_u64().unwrap_or_default() as usize;
        let layers = || case.sizes(&format!("init/{key}"));
        match key.as_str() {
            "num_tokens" => c.num_tokens = number,
            "dim" => c.dim = number,
            "depth" => c.depth = number,
            "dim_head" => c.dim_head = number,
            "heads" => c.heads = number,
            "block_width" => c.block_width = number,
            "max_seq_len" => c.max_seq_len = number,
            "num_state_vectors" => c.num_state_vectors = Some(number),
            "recurrent_layers" => c.recurrent_layers = layers(),
            "read_recurrent_layers" => c.read_recurrent_layers = layers(),
            "all_layers_qk_rmsnorm" => c.all_layers_qk_rmsnorm = value.as_bool().unwrap_or_default(),
            "ignore_index" => c.ignore_index = value.as_i64(),
            "compressed_mem_factor" => c.compressed_mem_factor = Some(number),
            "use_compressed_mem" if value.as_bool() == Some(true) => {}
            // The same maths.
            "use_flash_attn" => {}
            other => return Err(unsupported(case, other)),
        }
    }
    Ok(c)
}

fn outputs<'g>(b: &Build<'g>, call: &str, carried: &Carried<'g>) {
    let output = |name: String, var: Var<'g>| {
        if b.case.has(&format!("output.{name}")) {
            b.output(&name, var);
        }
    };
    for (i, memory) in carried.memories.iter().enumerate() {
        output(format!("mem{call}.{i}"), memory.stacked());
    }
    for (i, states) in carried.states.iter().enumerate() {
        output(format!("state{call}.{i}"), states.vectors);
    }
}

fn transformer(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let model = BlockRecurrentTransformer::new(config(case)?)?;
        let p = params(b, &model.init(0))?;
        let mut carried = Carried {
            memories: (0..).map_while(|i| b.maybe_input(&format!("mem_in.{i}"))).map(Memory::from_stacked).collect(),
            states: (0..).map_while(|i| passed(b, &format!("state_in.{i}"))).collect(),
            ..Carried::default()
        };
        for call in 0..case.sizes("segments").map_or(0, |s| s.len()) {
            let ids = b.input(&format!("ids{call}"))?;
            if case.flag("return_loss", true) {
                let (loss, next) = model.loss(&p, ids, &carried);
                b.output(&format!("loss{call}"), loss);
                carried = next;
            } else {
                let (logits, next) = model.forward(&p, ids, &carried);
                b.output(&format!("logits{call}"), logits);
                carried = next;
            }
            outputs(b, &call.to_string(), &carried);
        }
        Ok(())
    })
}

fn wrapper(case: &Case, device: &Device) -> Result<Outcome> {
    run(case, device, |b| {
        let segments = RecurrentTrainerWrapper::new(BlockRecurrentTransformer::new(config(case)?)?);
        let p = params(b, &segments.model().init(0))?;
        let (loss, carried) = segments.loss(&p, b.input("ids")?, Mode::Train);
        b.output("loss", loss);
        outputs(b, "", &carried);
        Ok(())
    })
}

fn generate(case: &Case, device: &Device) -> Result<Outcome> {
    let model = BlockRecurrentTransformer::new(config(case)?)?;
    let mut values = model.init(0);
    for name in case.names("param.") {
        let own = name.strip_prefix("transformer.").unwrap_or(name);
        values.set(own, case.tensor(&format!("param.{name}"))?.clone())?;
    }
    if case.float("temperature", 1.0) != 0.0 {
        return Err(unsupported(case, "sampling"));
    }
    let prompt = case.tensor("input.ids")?;
    let (batch, n) = (prompt.shape()[0], prompt.shape()[1]);
    let plans = pollster::block_on(model.stream_plans(device, &values, batch))?;
    let store = values.store(device)?;
    let mut stream = RecurrentStream::new(&plans)?;
    let texts: Vec<&[u32]> = prompt.ints().chunks(n).collect();
    stream.feed(&store, &texts)?;
    let new = stream.generate_blocking(&store, case.size("length", 0) - n, Sampling::greedy(), 0)?;
    let mut outcome = Outcome::default();
    outcome.add("output.ids", Tensor::u32([batch, new[0].len()], new.concat())?);
    Ok(outcome)
}
