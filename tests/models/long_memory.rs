//! Routed long-distance memory: against plain loops, in one run or in many, on a device of any kind; its gradients, its
//! learning, its memory and time.

mod oracle;

use crate::common;
use crate::common::modules::noise;
use oracle::Oracle;
use wgrad::models::long_memory::{Lookback, RoutedMemory, RoutedMemoryConfig};
use wgrad::nn::{ParamVars, Params, Storage};
use wgrad::train::{Adam, Trainer};
use wgrad::{Device, Error, Feed, GpuOptions, Graph, Plan, Result, Store, Tensor, TensorType, Var};

const DIM: usize = 9;
const BLOCK: usize = 4;
const BATCH: usize = 2;

fn small() -> RoutedMemoryConfig {
    RoutedMemoryConfig {
        heads: 2,
        dim_head: 4,
        lookback: None,
        // Pieces of five rows, or of nine packed ones.
        binding_bytes: 5 * 4 * DIM as u64,
        ..RoutedMemoryConfig::new(DIM, 11, 3)
    }
}

/// Options that each change what is computed.
fn variants() -> Vec<(&'static str, RoutedMemoryConfig)> {
    let look = Some(Lookback { latest: 5, heads: 2, dim_head: 3 });
    let wide = 2 * 2 * 4 * 4 * 5;
    vec![
        ("plain", small()),
        (
            "soft scores on keys too",
            RoutedMemoryConfig { straight_through: false, multiply_keys_by_score: true, ..small() },
        ),
        ("lookback", RoutedMemoryConfig { lookback: look, straight_through: false, ..small() }),
        (
            "two routes with positions",
            RoutedMemoryConfig { routes: 2, max_distance: Some(7), lookback: look, ..small() },
        ),
        ("more wanted than there are", RoutedMemoryConfig { selected: 30, straight_through: false, ..small() }),
        ("one slot", RoutedMemoryConfig { capacity: 1, selected: 1, ..small() }),
        ("halves", RoutedMemoryConfig { storage: Storage::F16, lookback: look, ..small() }),
        (
            "finished",
            RoutedMemoryConfig { finished: true, routes: 2, straight_through: false, binding_bytes: wide, ..small() },
        ),
        (
            "finished with lookback and positions",
            RoutedMemoryConfig {
                finished: true,
                lookback: look,
                max_distance: Some(5),
                binding_bytes: wide,
                ..small()
            },
        ),
        (
            "finished halves",
            RoutedMemoryConfig { finished: true, storage: Storage::F16, binding_bytes: wide, ..small() },
        ),
    ]
}

fn layer(config: &RoutedMemoryConfig) -> (RoutedMemory, Params) {
    let mut params = Params::new(5);
    let layer = RoutedMemory::new(&mut params, "", config.clone()).unwrap_or_else(|e| panic!("{e}"));
    (layer, params)
}

/// Inputs of a block, and how many of each sample are kept.
fn block(i: usize) -> (Tensor, Vec<u32>) {
    (noise(&[BATCH, BLOCK, DIM], 100 + i as u32), vec![BLOCK as u32, [4, 1, 0, 3][i % 4]])
}

fn rows(x: &Tensor, b: usize, count: usize) -> Vec<Vec<f64>> {
    let x: Vec<f64> = x.floats()[b * BLOCK * DIM..].iter().map(|v| f64::from(*v)).collect();
    x.chunks(DIM).take(count).map(<[f64]>::to_vec).collect()
}

/// A plan of `count` blocks: `y0`, `y1`, ….
fn blocks(layer: &RoutedMemory, params: &Params, device: &Device, count: usize) -> Result<Plan> {
    let graph = Graph::new();
    let p = params.vars(&graph);
    let mut memory = layer.memory(&graph, "long", BATCH);
    let mut outputs = Vec::new();
    for i in 0..count {
        let x = graph.input(&format!("x{i}"), TensorType::f32([BATCH, BLOCK, DIM]));
        let counts = graph.input(&format!("counts{i}"), TensorType::u32([BATCH]));
        outputs.push((format!("y{i}"), layer.forward(&p, x, &memory)));
        memory = layer.push(&p, &memory, x, Some(counts));
    }
    memory.commit();
    let outputs: Vec<(&str, Var<'_>)> = outputs.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    device.compile_blocking(&graph, &outputs)
}

/// Runs `total` blocks, `count` a run; all results.
fn stream(layer: &RoutedMemory, params: &Params, device: &Device, total: usize, count: usize) -> Result<Vec<Vec<f32>>> {
    let plan = blocks(layer, params, device, count)?;
    let store = params.store(device)?;
    layer.clear(&store, "long", BATCH)?;
    let mut all = Vec::new();
    for first in (0..total).step_by(count) {
        let fed: Vec<(String, String, Tensor, Tensor)> = (0..count)
            .map(|i| {
                let (x, counts) = block(first + i);
                (format!("x{i}"), format!("counts{i}"), x, Tensor::u32([BATCH], counts).expect("two counts"))
            })
            .collect();
        let mut feed = Feed::new().store(&store);
        for (x, counts, rows, numbers) in &fed {
            feed = feed.input(x, rows).input(counts, numbers);
        }
        plan.run(&feed)?;
        for i in 0..count {
            all.push(plan.read_blocking(&format!("y{i}"))?.floats().to_vec());
        }
    }
    Ok(all)
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| if a.is_nan() { f32::INFINITY } else { (a - b).abs() }).fold(0.0, f32::max)
}

#[test]
fn it_computes_what_plain_loops_do() -> Result<()> {
    let total = 12;
    for (name, config) in variants() {
        let (layer, params) = layer(&config);
        let mut oracle = Oracle::new(&config, &params, BATCH);
        let mut want = Vec::new();
        for i in 0..total {
            let (x, counts) = block(i);
            let read = (0..BATCH).flat_map(|b| oracle.read(b, &rows(&x, b, BLOCK))).flatten();
            want.push(read.map(|v| v as f32).collect::<Vec<f32>>());
            (0..BATCH).for_each(|b| oracle.push(b, &rows(&x, b, counts[b] as usize)));
        }
        let bound = if config.storage == Storage::F16 { 4e-3 } else { 2e-4 };
        for device in common::devices() {
            // Empty, partly filled, wrapped around; a block a run, and several.
            for count in [1, 4] {
                for (i, (got, want)) in stream(&layer, &params, &device, total, count)?.iter().zip(&want).enumerate() {
                    let off = worst(got, want);
                    assert!(off < bound, "{name}, block {i}, {count} a run, on {device}: differs by {off:e}");
                }
            }
        }
    }
    Ok(())
}

/// The memory as it is after some blocks is the whole of it: another process goes on from its states.
#[test]
fn states_are_the_memory() -> Result<()> {
    let config = RoutedMemoryConfig { storage: Storage::F16, ..small() };
    let (layer, params) = layer(&config);
    for device in common::devices() {
        let plan = blocks(&layer, &params, &device, 1)?;
        let run = |store: &Store, i: usize| -> Result<Tensor> {
            let (x, counts) = block(i);
            let counts = Tensor::u32([BATCH], counts)?;
            plan.run(&Feed::new().store(store).input("x0", &x).input("counts0", &counts))?;
            plan.read_blocking("y0")
        };
        let store = params.store(&device)?;
        layer.clear(&store, "long", BATCH)?;
        for i in 0..5 {
            run(&store, i)?;
        }
        let other = params.store(&device)?;
        for (name, ty) in layer.states("long", BATCH)? {
            let state = store.read_blocking(&name)?;
            assert_eq!(state.ty(), ty);
            other.set(&name, &state)?;
        }
        assert_eq!(run(&store, 5)?, run(&other, 5)?);
        // Forgotten: as at the start, though the tables are full.
        layer.clear(&other, "long", BATCH)?;
        let first = stream(&layer, &params, &device, 1, 1)?;
        assert_eq!(run(&other, 0)?.floats(), first[0]);
    }
    Ok(())
}

/// Sums of `y sin y` over three blocks that follow a memory in a store, and the gradients of all parameters.
fn loss<'g>(layer: &RoutedMemory, p: &ParamVars<'g>) -> Var<'g> {
    let graph = p.graph();
    let mut memory = layer.memory(graph, "long", BATCH);
    let mut loss = graph.full([], 0.0);
    for i in 0..3 {
        let x = graph.constant(block(7 + i).0);
        let y = layer.forward(p, x, &memory);
        loss = loss + (y * (y * 3.0).sin()).sum_all();
        memory = layer.push(p, &memory, x, None);
    }
    loss
}

#[test]
fn gradients_reach_router_and_projections() -> Result<()> {
    let device = Device::cpu_f64();
    let lookback = Some(Lookback { latest: 6, heads: 2, dim_head: 3 });
    for config in [
        RoutedMemoryConfig { straight_through: false, lookback, routes: 2, max_distance: Some(9), ..small() },
        RoutedMemoryConfig { straight_through: false, storage: Storage::F16, ..small() },
    ] {
        let (layer, params) = layer(&config);
        let graph = Graph::new();
        let inputs = params.values().map(|(name, t)| (name.to_owned(), graph.input(name, t.ty()))).collect::<Vec<_>>();
        let p = ParamVars::from_vars(&graph, inputs.clone());
        let loss = loss(&layer, &p);
        let wrt: Vec<Var<'_>> = inputs.iter().map(|(_, v)| *v).collect();
        let mut outputs = vec![("loss", loss)];
        for ((name, _), grad) in inputs.iter().zip(graph.grad(loss, &wrt)) {
            outputs.push((name, grad.dense().unwrap_or_else(|| panic!("no gradient of {name}"))));
        }
        let plan = device.compile_blocking(&graph, &outputs)?;
        let store = params.store(&device)?;
        layer.clear(&store, "long", BATCH)?;
        let fill = blocks(&layer, &params, &device, 4)?;
        let counts = Tensor::u32([BATCH], vec![4, 2])?;
        let xs: Vec<Tensor> = (0..4).map(|i| block(i).0).collect();
        let names: Vec<[String; 2]> = (0..4).map(|i| [format!("x{i}"), format!("counts{i}")]).collect();
        let mut feed = Feed::new().store(&store);
        for (x, [name, count]) in xs.iter().zip(&names) {
            feed = feed.input(name, x).input(count, &counts);
        }
        fill.run(&feed)?;
        let values: Vec<(String, Vec<f64>)> = params
            .values()
            .map(|(name, t)| (name.to_owned(), t.floats().iter().map(|v| f64::from(*v)).collect()))
            .collect();
        let at = |moved: usize, direction: &[f64], h: f64| -> Result<f64> {
            let shifted: Vec<f64> = values[moved].1.iter().zip(direction).map(|(v, d)| v + h * d).collect();
            let mut feed = Feed::new().store(&store);
            for (i, (name, v)) in values.iter().enumerate() {
                feed = feed.input_f64(name, if i == moved { &shifted } else { v });
            }
            plan.run(&feed)?;
            Ok(plan.read_f64("loss")?[0])
        };
        for (i, (name, v)) in values.iter().enumerate() {
            let direction: Vec<f64> = noise(&[v.len()], 40 + i as u32).floats().iter().map(|x| f64::from(*x)).collect();
            at(i, &direction, 0.0)?;
            let exact: f64 = plan.read_f64(name)?.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let numeric = (at(i, &direction, 1e-6)? - at(i, &direction, -1e-6)?) / 2e-6;
            println!("{name}: {exact:.6e} by the tape, {numeric:.6e} by differences");
            assert!((exact - numeric).abs() < 1e-6 * (1.0 + exact.abs()), "{name}: {exact} and {numeric}");
            assert!(exact.abs() > 1e-4, "{name} has no gradient");
        }
    }
    Ok(())
}

/// What is wanted is told by the inputs whose first feature is largest, and by no other: the routing token must turn there.
#[test]
fn the_router_learns_what_to_recall() -> Result<()> {
    let (batch, n, k, dim) = (8, 32, 4, 16);
    let config = RoutedMemoryConfig { heads: 2, dim_head: 16, lookback: None, ..RoutedMemoryConfig::new(dim, n, k) };
    let mut params = Params::new(1);
    let layer = RoutedMemory::new(&mut params, "", config)?;
    let device = Device::cpu();
    let along = |token: &Tensor| {
        let t = token.floats();
        t[0] / t.iter().map(|v| v * v).sum::<f32>().sqrt()
    };
    let before = along(&params.value("routing_token")?);
    let store = Store::new(&device);
    layer.clear(&store, "long", batch)?;
    let trainer = Trainer::builder(&device, params, Adam::default().lr(1e-2)).compile_blocking(|g, p| {
        let rows = g.normal([batch, n, dim], 50).rms_norm(None);
        let chosen = rows.slice(2, 0, 1).reshape([batch, n]).top_k(k).indices;
        let marks = g.full([batch, k], 0.5).scatter_along(chosen, 1, n).reshape([batch, 1, n]);
        // The first feature itself would be as good as known without looking.
        let target = marks.matmul(rows) * g.iota([dim], 0).gt(0).to_f32();
        let memory = layer.push(p, &layer.memory(g, "long", batch), rows, None);
        let x = g.normal([batch, 1, dim], 51);
        (layer.forward(p, x, &memory) - target).square().mean_all()
    });
    let mut trainer = trainer?;
    let mut losses = Vec::new();
    for _ in 0..1000 {
        trainer.step_with(&[], &[&store])?;
        losses.push(trainer.loss_blocking()?);
    }
    let mean = |l: &[f32]| l.iter().sum::<f32>() / l.len() as f32;
    let (first, last) = (mean(&losses[..20]), mean(&losses[980..]));
    let after = along(&pollster::block_on(trainer.read_params())?.value("routing_token")?);
    println!("cosine {before:.3} before, {after:.3} after; loss {first:.3} before, {last:.3} after");
    assert!(before < 0.6 && after > 0.9 && last < 0.4 * first, "cosine {before}, {after}; loss {first}, {last}");
    Ok(())
}

/// In training the write waits for the gate, and no copy of the table is made.
#[test]
fn a_training_step_writes_in_place() -> Result<()> {
    let config = RoutedMemoryConfig { binding_bytes: 128 << 20, capacity: 1000, ..small() };
    for device in common::devices() {
        let (layer, params) = layer(&config);
        let store = Store::new(&device);
        layer.clear(&store, "long", BATCH)?;
        let mut trainer = Trainer::builder(&device, params, Adam::default()).compile_blocking(|g, p| {
            let x = g.input("x", TensorType::f32([BATCH, BLOCK, DIM]));
            let memory = layer.memory(g, "long", BATCH);
            let y = layer.forward(p, x, &memory);
            layer.push(p, &memory, x, None).commit();
            (y - x).square().mean_all()
        })?;
        for plan in trainer.plans() {
            let large = |s: &&wgrad::plan::Step| s.outputs.iter().any(|o| o.numel() == 1000 * BATCH * DIM);
            let names: Vec<&str> = plan.program().steps.iter().filter(large).map(|s| s.op.name()).collect();
            assert_eq!(names, ["put_rows"], "{plan}");
        }
        let good = noise(&[BATCH, BLOCK, DIM], 1);
        let bad = Tensor::f32([BATCH, BLOCK, DIM], vec![f32::NAN; BATCH * BLOCK * DIM])?;
        for x in [&good, &bad, &good] {
            let _ = trainer.step_with(&[("x", x)], &[&store]);
        }
        assert_eq!(store.read_blocking("long.written")?, Tensor::u32([BATCH], vec![8, 8])?, "on {device}");
        let kept = store.read_blocking("long.inputs.0")?;
        let lines: Vec<bool> = kept.floats().chunks(DIM).map(|row| row.iter().any(|v| *v != 0.0)).collect();
        assert!(kept.floats().iter().all(|v| v.is_finite()));
        assert!((0..2 * 1000).all(|row| lines[row] == (row % 1000 < 8)), "on {device}");
    }
    Ok(())
}

#[test]
fn nothing_is_made_after_the_first_block() -> Result<()> {
    let Some(device) = common::fresh(common::options()) else { return Ok(()) };
    let gpu = device.as_gpu().expect("a GPU");
    let (layer, params) = layer(&small());
    let plan = blocks(&layer, &params, &device, 1)?;
    let store = params.store(&device)?;
    layer.clear(&store, "long", BATCH)?;
    let (x, counts) = block(0);
    let counts = Tensor::u32([BATCH], counts)?;
    let feed = || Feed::new().store(&store).input("x0", &x).input("counts0", &counts);
    plan.run(&feed())?;
    let (before, bytes) = (gpu.counters.snapshot(), store.bytes());
    for _ in 0..200 {
        plan.run(&feed())?;
    }
    let after = gpu.counters.snapshot();
    assert_eq!(before[..4], after[..4]);
    assert_eq!(before[4] + 200, after[4]);
    assert_eq!(bytes, store.bytes());
    Ok(())
}

/// A quarter of a million inputs, more than one binding holds, on a device with the limits of every WebGPU device: the router
/// finds the few that its token points at, wherever they are, and gets gradients.
#[test]
fn it_finds_a_few_in_250_000() -> Result<()> {
    let (n, dim, k) = (250_000, 160, 4);
    let planted = [3, 131_071, 200_000, 249_999];
    for storage in [Storage::F32, Storage::F16] {
        let config =
            RoutedMemoryConfig { heads: 2, dim_head: 8, lookback: None, storage, ..RoutedMemoryConfig::new(dim, n, k) };
        let (layer, params) = layer(&config);
        let portable = GpuOptions { portable_limits: true, ..common::options() };
        for device in std::iter::once(Device::cpu()).chain(common::fresh(portable)) {
            let graph = Graph::new();
            let p = params.vars(&graph);
            let memory = layer.memory(&graph, "long", 1);
            let x = graph.input("x", TensorType::f32([1, BLOCK, dim]));
            let recalled = layer.recall(&p, &memory);
            let y = layer.attend(&p, x, None, &recalled);
            layer.push(&p, &memory, x, None).commit();
            let names: Vec<&str> = params.names().collect();
            let wrt: Vec<Var<'_>> = names.iter().map(|name| p.get(name)).collect();
            let grads = graph.grad((y * (y * 3.0).sin()).sum_all(), &wrt);
            let mut outputs = vec![("y", y), ("found", recalled.indices)];
            outputs.extend(names.iter().zip(&grads).filter_map(|(name, g)| Some((*name, g.dense()?))));
            assert_eq!(outputs.len(), 2 + names.len());
            let plan = device.compile_blocking(&graph, &outputs)?;
            assert!(plan.bytes() < 32 << 20, "{} bytes beside the memory", plan.bytes());
            let states = layer.states("long", 1)?;
            assert!(states.iter().all(|(_, ty)| ty.numel() * 4 <= 128 << 20));
            assert_eq!(states.len(), if storage == Storage::F32 { 3 } else { 2 });

            // Rows of an own graph, a piece at a time: the memory takes them as a stream would bring them.
            let store = params.store(&device)?;
            layer.clear(&store, "long", 1)?;
            let fill = {
                let graph = Graph::new();
                let (p, rows) = (params.vars(&graph), graph.input("rows", TensorType::f32([1, 25_000, dim])));
                let memory = layer.memory(&graph, "long", 1);
                layer.push(&p, &memory, rows, None).commit();
                device.compile_blocking(&graph, &[])?
            };
            let token = params.value("routing_token")?;
            for piece in 0..10 {
                let mut rows = noise(&[25_000, dim], piece as u32).floats().to_vec();
                for at in planted.iter().filter(|at| *at / 25_000 == piece) {
                    rows[at % 25_000 * dim..][..dim].copy_from_slice(token.floats());
                }
                let rows = Tensor::f32([1, 25_000, dim], rows)?;
                fill.run(&Feed::new().store(&store).input("rows", &rows))?;
            }
            plan.run(&Feed::new().store(&store).input("x", &noise(&[1, BLOCK, dim], 77)))?;
            let mut found = plan.read_blocking("found")?.ints().to_vec();
            found.sort_unstable();
            assert_eq!(found, planted.map(|at| at as u32), "{storage:?} on {device}");
            for name in &names {
                let grad = plan.read_blocking(name)?;
                assert!(grad.floats().iter().all(|g| g.is_finite()), "{name}, {storage:?} on {device}");
                assert!(grad.floats().iter().any(|g| *g != 0.0), "{name}, {storage:?} on {device}");
            }
            let written = store.read_blocking("long.written")?;
            assert_eq!(written.ints(), [n as u32 + BLOCK as u32]);
        }
    }
    Ok(())
}

#[test]
fn mistakes_are_reported() {
    let refused = |config: RoutedMemoryConfig| {
        let made = RoutedMemory::new(&mut Params::new(0), "", config);
        matches!(made, Err(Error::Argument { .. } | Error::Limit { .. }))
    };
    let look = |latest| Some(Lookback { latest, heads: 1, dim_head: 1 });
    assert!(refused(RoutedMemoryConfig { capacity: 0, ..small() }));
    assert!(refused(RoutedMemoryConfig { capacity: usize::MAX, ..small() }));
    assert!(refused(RoutedMemoryConfig { selected: 0, ..small() }));
    assert!(refused(RoutedMemoryConfig { dim: 0, ..small() }));
    assert!(refused(RoutedMemoryConfig { routes: 3, ..small() }));
    assert!(refused(RoutedMemoryConfig { routes: 0, ..small() }));
    assert!(refused(RoutedMemoryConfig { lookback: look(0), ..small() }));
    assert!(refused(RoutedMemoryConfig { lookback: look(12), ..small() }));
    assert!(refused(RoutedMemoryConfig { dim_head: 3, max_distance: Some(4), ..small() }));
    assert!(refused(RoutedMemoryConfig { binding_bytes: 8, ..small() }));
    let (layer, params) = layer(&small());
    assert!(layer.states("long", 0).is_err() && layer.states("long", usize::MAX).is_err());
    for shape in [[3, 4, DIM], [2, 4, DIM + 1]] {
        for push in [false, true] {
            let graph = Graph::new();
            let (p, x) = (params.vars(&graph), graph.input("x", TensorType::f32(shape)));
            let memory = layer.memory(&graph, "long", 2);
            if push {
                layer.push(&p, &memory, x, None).commit();
            } else {
                layer.forward(&p, x, &memory);
            }
            assert!(matches!(graph.error(), Some(Error::Argument { .. })), "{:?}", graph.error());
        }
    }
}
