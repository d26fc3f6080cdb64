//! What is no work of the device: encoding and submitting, compiling, making objects, reading back.

use crate::measure::{Effort, once};
use crate::process::thread_ms;
use crate::report::Row;
use crate::stats::median;
use crate::work::{Case, Replay, Scene, replay, wait};
use anyhow::{Context, Result};
use std::time::Instant;
use wgrad::graph::Graph;
use wgrad::nn::{Linear, Params};
use wgrad::plan::Program;
use wgrad::{Device, Feed, Options, Tensor, Var};

pub const SUITE: &str = "overhead";

/// Products that no fusion joins.
fn products<'g>(s: &Scene<'g>, count: usize) -> Vec<Var<'g>> {
    let w = s.floats([8, 8]) * 0.2;
    let mut x = s.floats([8, 8]);
    for _ in 0..count {
        x = x.matmul(w);
    }
    vec![x]
}

/// Loss and gradients of a chain of layers: one of `depth` has about 40 nodes.
fn chain<'g>(graph: &'g Graph, params: &Params, layers: &[Linear], x: Var<'g>) -> Vec<(String, Var<'g>)> {
    let p = params.vars(graph);
    let y = layers.iter().fold(x, |x, layer| layer.forward(&p, x.layer_norm(None, None, 1e-5)).gelu() + x);
    let loss = y.square().mean_all();
    let names: Vec<String> = params.names().map(str::to_owned).collect();
    let wrt: Vec<Var<'g>> = names.iter().map(|name| p.get(name)).collect();
    let grads = graph.grad(loss, &wrt);
    let grads = names.into_iter().zip(&grads).filter_map(|(name, grad)| Some((name, grad.dense()?)));
    [("loss".to_owned(), loss)].into_iter().chain(grads).collect()
}

pub fn rows(device: &Device, label: &str, effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let number = |op: &str, shape: String, value: f64, unit: &str| Row::number(SUITE, label, op, shape, value, unit);
    let runs = 10 * effort.rounds;

    let mut small = replay(device, |s| products(s, 200))?;
    let count = small.plan().dispatches();
    let shape = format!("{count} dispatches");
    let [wall, thread] = replays(device, &small, runs)?;
    let each = 1e3 / count as f64;
    if device.is_gpu() {
        rows.push(number("encode, finish and submit, per dispatch", shape.clone(), wall * each, "µs").limit(3.0));
        rows.push(number("the same, processor time of the thread", shape.clone(), thread * each, "µs").limit(3.0));
    }
    let mut times: Vec<f64> = (0..runs).map(|_| once(device, &mut small)).collect::<Result<_>>()?;
    rows.push(number("run and wait, per dispatch", shape, median(&mut times) * each, "µs"));
    rows.extend(objects(device, label, &mut small)?);

    let mut reads = Vec::new();
    let scalar = replay(device, |s| vec![s.floats([4]).sum_all()])?;
    scalar.plan().run(&Feed::new().store(scalar.store()))?;
    wait(device)?;
    for _ in 0..runs {
        let start = Instant::now();
        scalar.plan().read_blocking("0")?;
        reads.push(1e6 * start.elapsed().as_secs_f64());
    }
    rows.push(number("read a scalar back", "1".into(), median(&mut reads), "µs"));
    rows.extend(compiling(device, label, effort)?);
    Ok(rows)
}

/// Milliseconds of encoding, finishing and submitting on the wall and on this thread; the device is idle before.
fn replays(device: &Device, work: &Replay, runs: usize) -> Result<[f64; 2]> {
    let Some(gpu) = device.as_gpu() else { return Ok([f64::NAN; 2]) };
    let (d, queue) = gpu.wgpu();
    let feed = Feed::new().store(work.store());
    let (mut wall, mut thread) = (Vec::new(), Vec::new());
    for i in 0..runs + 3 {
        wait(device)?;
        let (start, before) = (Instant::now(), thread_ms());
        let mut encoder = d.create_command_encoder(&Default::default());
        work.plan().encode(&feed, &mut encoder)?;
        queue.submit([encoder.finish()]);
        let passed = 1e3 * start.elapsed().as_secs_f64();
        let used = thread_ms().zip(before).map(|(after, before)| after - before);
        // The first make bind groups and warm up.
        if i >= 3 {
            wall.push(passed);
            thread.extend(used);
        }
    }
    Ok([median(&mut wall), median(&mut thread)])
}

/// Objects made by ten more runs.
fn objects(device: &Device, label: &str, work: &mut Replay) -> Result<Vec<Row>> {
    let Some(gpu) = device.as_gpu() else { return Ok(Vec::new()) };
    let before = gpu.counters.snapshot();
    for _ in 0..10 {
        once(device, work)?;
    }
    let after = gpu.counters.snapshot();
    let made = |what: &str, i: usize| {
        Row::number(SUITE, label, what, "10 runs".into(), (after[i] - before[i]) as f64, "objects").limit(0.0)
    };
    Ok(vec![made("buffers after step 1", 0), made("bind groups after step 1", 2), made("pipelines after step 1", 3)])
}

/// A training graph of some hundred nodes: planning alone, and compiling when all pipelines are there.
fn compiling(device: &Device, label: &str, effort: Effort) -> Result<Vec<Row>> {
    let mut params = Params::new(1);
    let layers: Vec<Linear> = (0..16).map(|i| Linear::new(&mut params, &i.to_string(), 64, 64, true)).collect();
    let graph = Graph::new();
    let x = graph.constant(Tensor::f32([32, 64], vec![0.5; 32 * 64])?);
    let outputs = chain(&graph, &params, &layers, x);
    let outputs: Vec<(&str, Var<'_>)> = outputs.iter().map(|(name, v)| (name.as_str(), *v)).collect();
    let nodes = graph.len();
    let shape = format!("{nodes} nodes");
    let first = Instant::now();
    let plan = device.compile_blocking(&graph, &outputs)?;
    let first = 1e3 * first.elapsed().as_secs_f64();
    let (mut planning, mut compiling) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let start = Instant::now();
        Program::build(&graph, &outputs, Options::default())?;
        planning.push(1e3 * start.elapsed().as_secs_f64());
        let start = Instant::now();
        device.compile_blocking(&graph, &outputs)?;
        compiling.push(1e3 * start.elapsed().as_secs_f64());
    }
    let per = 100.0 / nodes as f64;
    let number = |op: &str, value: f64, unit: &str| Row::number(SUITE, label, op, shape.clone(), value, unit);
    let apart =
        pollster::block_on(device.compile_with(&graph, &outputs, Options { fuse: false, ..Options::default() }))?;
    let slots = plan.program().slots(None);
    Ok(vec![
        number("plan a graph, per 100 nodes", median(&mut planning) * per, "ms").limit(50.0),
        number("compile it with its pipelines there, per 100 nodes", median(&mut compiling) * per, "ms").limit(50.0),
        number("compile it first", first, "ms"),
        number("dispatches with fusion", plan.dispatches() as f64, "dispatches"),
        number("dispatches without fusion", apart.dispatches() as f64, "dispatches"),
        number("in and out of steps with fusion", plan.program().moved() as f64 / 1048576.0, "MiB"),
        number("in and out of steps without fusion", apart.program().moved() as f64 / 1048576.0, "MiB"),
        number("memory of values over what lives at once", slots.peak as f64 / slots.least.max(1) as f64, "x")
            .limit(1.2),
    ])
}

/// The same of training steps: memory over its lower bound.
pub fn memory(device: &Device, label: &str, cases: &[Case]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for case in cases {
        let work = (case.make)(device)?;
        let plan = work.plans().pop().context("a step without a plan")?.program();
        let slots = plan.slots(None);
        let value = slots.peak as f64 / slots.least.max(1) as f64;
        let number = |what: &str, value: f64, unit: &str| {
            Row::number(SUITE, label, &format!("{}: {what}", case.op), case.shape(), value, unit)
        };
        rows.push(number("memory of values over what lives at once", value, "x").limit(1.2));
        let dispatches: usize = work.plans().iter().map(|plan| plan.dispatches()).sum();
        rows.push(number("dispatches", dispatches as f64, "dispatches"));
        rows.push(number("in and out of steps", plan.moved() as f64 / 1048576.0, "MiB"));
    }
    Ok(rows)
}
