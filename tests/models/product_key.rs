//! Product-key memory beyond parity: bad input, gradients of every option, batch norm, dropout, noise, counts of use.

use crate::common;
use crate::common::modules::{assert_close, mask, noise, run};
use wgrad::check::sample as check;
use wgrad::graph::{Gradient, Mode};
use wgrad::models::product_key::{
    KeyScore, Lookup, OLDER_NAMES, ProductKeyConfig, ProductKeyMemory, SlotUsage, VALUES, choose_slots,
    pkm_value_parameters, values_group,
};
use wgrad::nn::{ParamVars, Params};
use wgrad::ops::route::soft_top_k::{DifferentiableTopK, SoftTopK};
use wgrad::ops::samples::Sample;
use wgrad::train::{Adam, Checkpoint, LoadOptions, Schedule, Trainer};
use wgrad::{Device, Error, Feed, Graph, Result, Store, Tensor, TensorType};

const DIM: usize = 10;

fn config() -> ProductKeyConfig {
    ProductKeyConfig { heads: 2, num_keys: 7, topk: 3, dim_head: 4, ..ProductKeyConfig::new(DIM) }
}

fn product() -> ProductKeyConfig {
    ProductKeyConfig { score: KeyScore::Product(SoftTopK::learnable()), ..config() }
}

fn layer(config: ProductKeyConfig) -> (ProductKeyMemory, Params) {
    let mut params = Params::new(3);
    let layer = ProductKeyMemory::new(&mut params, "pkm", config).unwrap_or_else(|e| panic!("{e}"));
    (layer, params)
}

/// The output, slots and gates for `x`.
fn recall(device: &Device, config: ProductKeyConfig, x: &Tensor) -> Vec<Tensor> {
    let (layer, params) = layer(config);
    run(device, &params, &[("x", x)], |p, x| {
        let r = layer.recall(p, x[0], &Lookup::new(Mode::Eval, 0));
        vec![r.out, r.slots, r.gates]
    })
}

#[test]
fn options_that_no_layer_can_have_are_refused() {
    let refused = |change: fn(&mut ProductKeyConfig)| {
        let mut c = config();
        change(&mut c);
        let made = ProductKeyMemory::new(&mut Params::new(0), "", c.clone());
        assert!(matches!(made, Err(Error::Argument { .. })), "{c:?}");
    };
    refused(|c| c.topk = 8);
    refused(|c| c.topk = 0);
    refused(|c| c.dim = 0);
    refused(|c| c.heads = 0);
    refused(|c| c.num_keys = 0);
    refused(|c| c.dim_head = 0);
    refused(|c| c.num_keys = 65_536);
    refused(|c| c.attn_dropout = 1.0);
    refused(|c| c.query_dropout = -0.1);
    refused(|c| c.value_dropout = f64::NAN);
    refused(|c| c.drop_gates = true);
    for big in [1 << 33, usize::MAX / 2, usize::MAX] {
        let sizes: [fn(&mut ProductKeyConfig, usize); 3] =
            [|c, n| c.dim = n, |c, n| c.heads = n, |c, n| c.dim_head = n];
        for set in sizes {
            let mut c = config();
            set(&mut c, big);
            let made = ProductKeyMemory::new(&mut Params::new(0), "", c);
            assert!(matches!(made, Err(Error::Limit { .. })), "{big}");
        }
    }
    refused(|c| {
        c.score = KeyScore::Product(SoftTopK::exact(1.0));
        c.differentiable_topk = Some(DifferentiableTopK::default());
    });
}

/// Tables that no machine has room for: the numbers, before anything of their size is made.
#[test]
fn tables_over_limits_are_refused() {
    let refused = |device: &Device, num_keys: usize, dim: usize, limit: u64| {
        let c = ProductKeyConfig { heads: 1, num_keys, topk: 2, dim_head: 4, ..ProductKeyConfig::new(dim) };
        let (layer, mut params) = layer(c);
        params.limit(limit);
        let trained = Trainer::builder(device, params, Adam::default())
            .group(VALUES, values_group(1e-3, 1e-2))
            .compile_blocking(|g, p| {
                let x = g.input("x", TensorType::f32([2, dim]));
                layer.forward(p, x, &Lookup::new(Mode::Train, 0)).square().mean_all()
            });
        trained.err().expect("a refusal")
    };
    // A GPU of its own: what others make on it would count.
    for device in [Some(Device::cpu()), common::fresh(common::options())].into_iter().flatten() {
        // 1 TiB in pieces of 128 MiB are 8,192 of them; a row over a binding; 256 GiB, and twice that for moments.
        let pieces = refused(&device, 8192, 4096, 128 << 20);
        assert!(matches!(pieces, Error::Limit { needed: 8192, available: 4096, .. }), "{pieces}");
        let row = refused(&device, 4, 64, 255);
        assert!(matches!(row, Error::Limit { needed, available: 255, .. } if needed > 255), "{row}");
        let before = common::made(&device);
        let room = refused(&device, 4096, 4096, 128 << 20);
        // Whether a hardware adapter has room shows only when it is asked for; here all run on the host.
        assert!(matches!(room, Error::OutOfMemory { peak, .. } if peak > 768 << 30), "{room}");
        assert_eq!(before, common::made(&device));
    }
}

#[test]
fn calls_that_do_not_fit_are_refused() {
    let refused = |width: usize, change: &dyn for<'g> Fn(&'g Graph, &mut Lookup<'g>)| {
        let (layer, params) = layer(config());
        let graph = Graph::new();
        let x = graph.input("x", TensorType::f32([2, 3, width]));
        let mut lookup = Lookup::new(Mode::Train, 0);
        change(&graph, &mut lookup);
        layer.forward(&params.vars(&graph), x, &lookup);
        graph.error().map(|e| e.to_string())
    };
    assert_eq!(refused(DIM, &|_, _| ()), None);
    let messages = [
        refused(DIM + 1, &|_, _| ()),
        refused(DIM, &|g, l| l.mem_trainable_mask = Some(g.full_u32([48], 1))),
        refused(DIM, &|g, l| l.mem_trainable_mask = Some(g.full([49], 1.0))),
        refused(DIM, &|g, l| l.input_mask = Some(g.full_u32([2, 4], 1))),
        refused(DIM, &|g, l| l.gumbel_noise = Some(g.full([2, 3, 2, 7], 1.0))),
        refused(DIM, &|g, l| *l = l.gumbel(g.full([1], 1.0))),
        refused(DIM, &|_, l| *l = l.gumbel(f64::NAN)),
        refused(DIM, &|_, l| *l = l.gumbel(-1.0)),
    ];
    for message in messages {
        let message = message.expect("an error");
        assert!(message.contains("expected") && message.contains("product_key.rs:"), "{message}");
    }
}

/// Gradients of all parameters and the input in double precision against differences, whatever the options.
#[test]
fn gradients_of_every_option() {
    let mut cases = vec![("plain", config()), ("product", product())];
    let with = |change: fn(&mut ProductKeyConfig)| {
        let mut c = config();
        change(&mut c);
        c
    };
    cases.push(("concat", with(|c| c.concat_values_and_combine = true)));
    cases.push(("norms", with(|c| (c.pre_layernorm, c.norm_output) = (true, true))));
    cases.push(("relu", with(|c| c.non_competitive_gates = true)));
    cases.push(("product, alone", ProductKeyConfig { non_competitive_gates: true, ..product() }));
    cases.push((
        "product by iteration",
        ProductKeyConfig { score: KeyScore::Product(SoftTopK::iterations(20, 0.5)), ..config() },
    ));
    cases.push(("batch norm", with(|c| c.use_layernorm = false)));
    cases.push((
        "dropouts",
        with(|c| {
            (c.input_dropout, c.query_dropout, c.value_dropout, c.attn_dropout) = (0.2, 0.3, 0.4, 0.2);
        }),
    ));
    for (name, config) in cases {
        let (layer, params) = layer(config.clone());
        let types: Vec<(String, Vec<usize>)> =
            params.iter().map(|p| (p.name().to_owned(), p.shape().0.clone())).collect();
        let mut sample = Sample::new(name, [&[2, 3, DIM]], move |g, x| {
            let vars = types.iter().enumerate().map(|(i, (name, _))| (name.clone(), x[i + 1] * 0.5));
            let p = ParamVars::from_vars(g, vars);
            let mode = if config.use_layernorm { Mode::Train } else { Mode::Eval };
            let r = layer.recall(&p, x[0], &Lookup::new(mode, 5).gumbel(0.5));
            vec![r.out, r.gates]
        });
        for p in params.iter() {
            sample.inputs.push((TensorType::f32(p.shape().clone()), wgrad::ops::samples::Draw::Positive));
        }
        for input in sample.inputs.iter_mut().filter(|(ty, _)| ty.shape.len() > 1) {
            input.1 = wgrad::ops::samples::Draw::Normal;
        }
        pollster::block_on(check::gradient(&sample)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// The score of a pair is the product of its marginals; gates are the products over their sum.
#[test]
fn product_of_marginals() {
    let how = SoftTopK::exact(0.7);
    for device in common::devices() {
        let c = ProductKeyConfig { heads: 1, score: KeyScore::Product(how.clone()), ..config() };
        let (layer, params) = layer(c.clone());
        let x = noise(&[5, DIM], 3);
        let out = run(&device, &params, &[("x", &x)], |p, x| {
            let r = layer.recall(p, x[0], &Lookup::new(Mode::Eval, 0));
            let q = x[0].matmul(p.get("pkm.to_queries.weight").transpose(0, 1)).reshape([10, 4]);
            let q = q.layer_norm(p.get("pkm.norm.weight"), p.get("pkm.norm.bias"), 1e-5).reshape([5, 2, 4]);
            let dots = x[0].graph().einsum("npi,kpi->npk", &[q, p.get("pkm.keys").reshape([7, 2, 4])]);
            vec![r.slots, r.gates, dots.soft_top_k(3f64.sqrt(), &how, None)]
        });
        for token in 0..5 {
            let marginals = &out[2].floats()[token * 14..][..14];
            let mut pairs: Vec<(f32, u32)> =
                (0..49).map(|i| (marginals[i / 7] * marginals[7 + i % 7], i as u32)).collect();
            pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
            let total: f32 = pairs[..3].iter().map(|p| p.0).sum();
            let gates: Vec<f32> = pairs[..3].iter().map(|p| p.0 / total).collect();
            assert_close("gates", &out[1].floats()[token * 3..][..3], &gates);
            // Equal products may come in any order.
            for (slot, pair) in out[0].ints()[token * 3..][..3].iter().zip(&pairs) {
                let product = marginals[*slot as usize / 7] * marginals[7 + *slot as usize % 7];
                assert!((product - pair.0).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn the_mask_keeps_values_and_stops_their_gradient() {
    let frozen = mask([1, 49], |_, slot| slot % 3 == 0).reshape([49]).expect("a list");
    for device in common::devices() {
        for concat in [false, true] {
            let (layer, params) = layer(ProductKeyConfig { concat_values_and_combine: concat, ..config() });
            let x = noise(&[4, 6, DIM], 1);
            let out = run(&device, &params, &[("x", &x), ("mask", &frozen)], |p, x| {
                let plain = Lookup::new(Mode::Eval, 0);
                let mut all = Vec::new();
                for lookup in [plain, plain.trainable(x[1])] {
                    let y = layer.forward(p, x[0], &lookup);
                    let loss = y.square().sum_all();
                    let wrt = [p.get(&layer.values()), x[0]];
                    let grads = x[0].graph().grad(loss, &wrt);
                    assert!(matches!(grads[0], Gradient::Rows(_)), "only rows that were read");
                    all.push(y);
                    all.extend(grads.iter().filter_map(Gradient::dense));
                }
                all
            });
            assert_eq!(out[0], out[3], "the value is the same bit for bit");
            assert_close("gradient of x", out[2].floats(), out[5].floats());
            let width = out[1].shape()[1];
            for (slot, (all, some)) in out[1].floats().chunks(width).zip(out[4].floats().chunks(width)).enumerate() {
                if slot % 3 == 0 {
                    assert_close("trained", all, some);
                } else {
                    assert!(some.iter().all(|g| *g == 0.0));
                }
            }
        }
    }
}

/// Batch norm by hand: mean and variance of unmasked half queries over tokens, halves and heads.
#[test]
fn batch_norm() -> Result<()> {
    let c = ProductKeyConfig { use_layernorm: false, ..config() };
    let (layer, params) = layer(c);
    let x = noise(&[2, 5, DIM], 2);
    let tokens = mask([2, 5], |b, t| t < 3 + b);
    let weight = params.value("pkm.to_queries.weight")?;
    let mut columns = vec![Vec::new(); 4];
    for (_, row) in x.floats().chunks(DIM).enumerate().filter(|(i, _)| tokens.ints()[*i] == 1) {
        for (j, w) in weight.floats().chunks(DIM).enumerate() {
            columns[j % 4].push(row.iter().zip(w).map(|(a, b)| f64::from(a * b)).sum::<f64>());
        }
    }
    let mean: Vec<f64> = columns.iter().map(|c| c.iter().sum::<f64>() / c.len() as f64).collect();
    let var = columns.iter().zip(&mean).map(|(c, m)| {
        let n = c.len() as f64;
        (c.iter().map(|q| (q - m).powi(2)).sum::<f64>() / n, n)
    });
    let (var, n): (Vec<f64>, Vec<f64>) = var.unzip();
    for device in common::devices() {
        let graph = Graph::new();
        let (input, marks) = (graph.input("x", x.ty()), graph.input("mask", tokens.ty()));
        let lookup = |mode| Lookup { input_mask: Some(marks), ..Lookup::new(mode, 0) };
        let trained = layer.forward(&params.vars(&graph), input, &lookup(Mode::Train));
        let train = device.compile_blocking(&graph, &[("y", trained)])?;
        let store = params.store(&device)?;
        train.run(&Feed::new().store(&store).input("x", &x).input("mask", &tokens))?;
        let mut after = params.clone();
        pollster::block_on(after.read_from(&store))?;
        let want: Vec<f32> = mean.iter().map(|m| (0.1 * m) as f32).collect();
        assert_close("running mean", after.value("pkm.norm.fn.running_mean")?.floats(), &want);
        let unbiased = var.iter().zip(&n).map(|(v, n)| (0.9 + 0.1 * v * n / (n - 1.0)) as f32);
        assert_close(
            "running variance",
            after.value("pkm.norm.fn.running_var")?.floats(),
            &unbiased.collect::<Vec<_>>(),
        );
        assert_eq!(after.value("pkm.norm.fn.num_batches_tracked")?.floats(), [1.0]);
        // With the statistics of the batch as running ones, evaluation gives what training gave, and keeps nothing.
        after.set("pkm.norm.fn.running_mean", Tensor::f32([4], mean.iter().map(|m| *m as f32).collect())?)?;
        after.set("pkm.norm.fn.running_var", Tensor::f32([4], var.iter().map(|m| *m as f32).collect())?)?;
        let eval = run(&device, &after, &[("x", &x)], |p, x| vec![layer.forward(p, x[0], &Lookup::new(Mode::Eval, 0))]);
        assert_close("evaluation", eval[0].floats(), train.read_blocking("y")?.floats());
        // No token counts: the running statistics stay.
        let none = mask([2, 5], |_, _| false);
        pollster::block_on(after.read_from(&store))?;
        train.run(&Feed::new().store(&store).input("x", &x).input("mask", &none))?;
        assert!(train.read_blocking("y")?.floats().iter().all(|v| v.is_finite()));
        let mut same = after.clone();
        pollster::block_on(same.read_from(&store))?;
        assert!(same.values().eq(after.values()));
    }
    Ok(())
}

/// Gradient through the statistics of the batch, in double precision.
#[test]
fn gradient_of_batch_norm() -> Result<()> {
    let device = Device::cpu_f64();
    let (layer, params) = layer(ProductKeyConfig { use_layernorm: false, ..config() });
    let x = noise(&[2, 3, DIM], 5);
    let graph = Graph::new();
    let (input, marks) = (graph.input("x", x.ty()), graph.input("mask", TensorType::u32([2, 3])));
    let lookup = Lookup { input_mask: Some(marks), ..Lookup::new(Mode::Train, 0) };
    let y = layer.forward(&params.vars(&graph), input, &lookup);
    let loss = (y * graph.constant(noise(&[2, 3, DIM], 6))).sum_all();
    let grad = graph.grad(loss, &[input])[0].dense().expect("a gradient");
    let plan = device.compile_blocking(&graph, &[("loss", loss), ("grad", grad)])?;
    let store = params.store(&device)?;
    let tokens = mask([2, 3], |b, t| b + t != 3);
    let at = |values: &[f64]| -> Result<f64> {
        plan.run(&Feed::new().store(&store).input_f64("x", values).input("mask", &tokens))?;
        Ok(plan.read_f64("loss")?[0])
    };
    let mut values: Vec<f64> = x.floats().iter().map(|v| f64::from(*v)).collect();
    at(&values)?;
    let grad = plan.read_f64("grad")?;
    for (i, want) in grad.iter().enumerate().step_by(7) {
        let (old, h) = (values[i], 1e-6);
        values[i] = old + h;
        let up = at(&values)?;
        values[i] = old - h;
        let slope = (up - at(&values)?) / (2.0 * h);
        values[i] = old;
        assert!((slope - want).abs() < 1e-6 * (1.0 + want.abs()), "{i}: {slope} {want}");
    }
    Ok(())
}

#[test]
fn dropouts_are_repeatable_and_only_in_training() -> Result<()> {
    let x = noise(&[3, 4, DIM], 1);
    let places: [fn(&mut ProductKeyConfig); 4] =
        [|c| c.input_dropout = 0.5, |c| c.query_dropout = 0.5, |c| c.value_dropout = 0.5, |c| c.attn_dropout = 0.5];
    for device in common::devices() {
        let plain = recall(&device, config(), &x);
        for place in places {
            let mut c = config();
            place(&mut c);
            assert_eq!(recall(&device, c.clone(), &x)[0], plain[0], "evaluation");
            let (layer, params) = layer(c);
            let graph = Graph::new();
            let input = graph.input("x", x.ty());
            let y = layer.forward(&params.vars(&graph), input, &Lookup::new(Mode::Train, 0));
            let plan = device.compile_blocking(&graph, &[("y", y)])?;
            let store = params.store(&device)?;
            let at = |step, seed| -> Result<Tensor> {
                plan.run(&Feed::new().store(&store).input("x", &x).step(step, seed))?;
                plan.read_blocking("y")
            };
            let first = at(1, 2)?;
            assert_eq!(first, at(1, 2)?);
            assert!(first != at(2, 2)? && first != at(1, 3)? && first != plain[0]);
        }
    }
    Ok(())
}

/// One plan for a scale of noise that falls to 0.
#[test]
fn noise_can_be_annealed() -> Result<()> {
    let x = noise(&[3, 4, DIM], 1);
    let annealing = Schedule::Cosine { warmup: 0, total: 10, floor: 0.0 };
    for device in common::devices() {
        let (layer, params) = layer(config());
        let graph = Graph::new();
        let scale = graph.input("scale", TensorType::f32([]));
        let p = params.vars(&graph);
        let input = graph.input("x", x.ty());
        let fixed = |scale: f64| layer.forward(&p, input, &Lookup::new(Mode::Eval, 0).gumbel(scale));
        let outputs = [
            ("annealed", layer.forward(&p, input, &Lookup::new(Mode::Eval, 0).gumbel(scale))),
            ("none", fixed(0.0)),
            ("one", fixed(1.0)),
        ];
        let plan = device.compile_blocking(&graph, &outputs)?;
        let store = params.store(&device)?;
        let read = |step: u64| -> Result<[Tensor; 3]> {
            let scale = Tensor::scalar(annealing.factor(step) as f32);
            plan.run(&Feed::new().store(&store).input("x", &x).input("scale", &scale))?;
            Ok([plan.read_blocking("annealed")?, plan.read_blocking("none")?, plan.read_blocking("one")?])
        };
        let [first, none, one] = read(0)?;
        assert!(first == one && first != none);
        let [last, none, _] = read(10)?;
        assert_eq!(last, none);
    }
    Ok(())
}

/// Counts on the device equal counts of the slots that were read.
#[test]
fn usage_is_counted() -> Result<()> {
    for device in common::devices() {
        let (layer, params) = layer(config());
        let usage = SlotUsage::new("usage", 49);
        let graph = Graph::new();
        let (x, tokens) =
            (graph.input("x", TensorType::f32([2, 5, DIM])), graph.input("tokens", TensorType::u32([2, 5])));
        let r = layer.recall(&params.vars(&graph), x, &Lookup::new(Mode::Eval, 0));
        usage.count(&[r, r], &[tokens, tokens]);
        let plan = device.compile_blocking(&graph, &[("slots", r.slots), ("gates", r.gates)])?;
        let (store, counts) = (params.store(&device)?, Store::new(&device));
        usage.reset(&counts)?;
        let marks = mask([2, 5], |b, t| b + t > 1);
        let (mut hits, mut weights, mut batches) = (vec![0f32; 49], vec![0f32; 49], vec![0f32; 49]);
        for seed in 0..4 {
            let mut values = noise(&[2, 5, DIM], seed).floats().to_vec();
            // A token whose gates are not finite does not count.
            values[9 * DIM] = f32::NAN;
            let x = Tensor::f32([2, 5, DIM], values)?;
            plan.run(&Feed::new().store(&store).store(&counts).input("x", &x).input("tokens", &marks))?;
            let (slots, gates) = (plan.read_blocking("slots")?, plan.read_blocking("gates")?);
            let mut seen = [false; 49];
            for (i, (slot, gate)) in slots.ints().iter().zip(gates.floats()).enumerate() {
                if marks.ints()[i / 6] == 1 && i / 6 != 9 {
                    hits[*slot as usize] += 2.0;
                    weights[*slot as usize] += 2.0 * gate;
                    seen[*slot as usize] = true;
                }
            }
            batches.iter_mut().zip(seen).for_each(|(b, s)| *b += f32::from(u8::from(s)));
        }
        let got = usage.read_blocking(&counts)?;
        assert_eq!((&got.hits, &got.batches, got.total_batches), (&hits, &batches, 4));
        assert_close("weights", &got.weights, &weights);
        assert!(got.share_used() > 0.2 && got.kl_to_uniform() > 0.0);
        assert_eq!(got.histogram().iter().sum::<usize>(), 49);
        let chosen = choose_slots(&got, &got, 5)?;
        assert_eq!(chosen.ints().iter().sum::<u32>(), 5);
        usage.reset(&counts)?;
        assert_eq!(usage.read_blocking(&counts)?.share_used(), 0.0);
    }
    Ok(())
}

#[test]
fn older_names_load() -> Result<()> {
    let c = ProductKeyConfig { concat_values_and_combine: true, ..config() };
    let (_, params) = layer(c);
    assert_eq!(pkm_value_parameters(&params).collect::<Vec<_>>(), ["pkm.values.weight"]);
    // A file of 0.2.9: the same values under the names it had.
    let mut old = Params::new(9);
    for p in params.iter() {
        let older = OLDER_NAMES.iter().find_map(|(new, older)| Some(format!("{}{older}", p.name().strip_suffix(new)?)));
        old.add(older.unwrap_or(p.name().to_owned()), p.shape().clone(), wgrad::nn::Init::Normal { std: 1.0 });
    }
    let file = Checkpoint::from_bytes(old.to_bytes()?)?;
    let mut loaded = params.clone();
    assert!(file.load_into(&mut loaded, &LoadOptions::default()).is_err());
    let aliases = OLDER_NAMES.iter().map(|(new, older)| ((*new).to_owned(), (*older).to_owned())).collect();
    file.load_into(&mut loaded, &LoadOptions { aliases, ..Default::default() })?;
    assert_eq!(loaded.value("pkm.values.weight")?, old.value("pkm.values.0.weight")?);
    assert_eq!(loaded.value("pkm.maybe_concat_combine.2.weight")?, old.value("pkm.values.3.weight")?);
    Ok(())
}

/// Values and gradients of awkward sizes against double precision: nothing, one, primes, all keys, more tokens than a grid
/// has workgroups in a dimension, pieces of one row.
#[test]
fn awkward_sizes() {
    let with = |dim, heads, num_keys, topk, dim_head| ProductKeyConfig {
        heads,
        num_keys,
        topk,
        dim_head,
        ..ProductKeyConfig::new(dim)
    };
    let concat = |c| ProductKeyConfig { concat_values_and_combine: true, norm_output: true, ..c };
    for (tokens, c) in [
        (0, config()),
        (0, concat(config())),
        (1, with(1, 1, 1, 1, 1)),
        (3, with(1, 2, 1, 1, 5)),
        (7, with(13, 3, 17, 17, 5)),
        (5, concat(with(7, 3, 11, 11, 3))),
        (2, with(67, 1, 19, 2, 2)),
        // Sub-keys of one feature are all alike after LayerNorm: only ties.
        (70_001, with(2, 1, 3, 2, 1)),
        (70_001, concat(with(1, 1, 2, 2, 1))),
    ] {
        let (layer, mut params) = layer(c.clone());
        let x = noise(&[tokens, c.dim], 8);
        let names: Vec<String> =
            params.iter().filter(|p| !p.name().contains("values")).map(|p| p.name().into()).collect();
        let all = |device: &Device, params: &Params| {
            run(device, params, &[("x", &x)], |p, x| {
                let y = layer.forward(p, x[0], &Lookup::new(Mode::Train, 0));
                let mut wrt = vec![x[0]];
                wrt.extend(names.iter().map(|name| p.get(name)));
                wrt.extend(p.sharded(&layer.values()).shards());
                let grads = p.graph().grad((y * y.sin()).sum_all() * (1.0 / tokens.max(1) as f64), &wrt);
                let dense = grads.iter().zip(&wrt).map(|(g, w)| g.dense().unwrap_or(*w * 0.0));
                let flat = dense.map(|g| g.reshape([g.shape().numel()]));
                std::iter::once(y.reshape([y.shape().numel()])).chain(flat).collect()
            })
        };
        let numbers = |out: Vec<Tensor>| out.iter().flat_map(|t| t.floats().to_vec()).collect::<Vec<f32>>();
        let want = numbers(all(&Device::cpu_f64(), &params));
        for limit in [128 << 20, 4 * c.width() as u64] {
            if limit < 128 << 20 {
                let others = params.iter().filter(|p| !p.name().contains("values")).map(|p| 4 * p.shape().numel());
                let largest = others.max().unwrap_or(0) as u64;
                params.separate("default");
                params.limit(limit.max(largest));
            }
            for device in common::devices() {
                let got = numbers(all(&device, &params));
                assert_eq!(got.len(), want.len());
                for (i, (a, b)) in got.iter().zip(&want).enumerate() {
                    assert!(
                        (a - b).abs() < 2e-3 * (1.0 + b.abs()),
                        "{device}: {tokens} tokens, {c:?}, {i}: {a} for {b}"
                    );
                }
            }
        }
    }
}

/// Any number of dimensions before the features, none at all, and no tokens.
#[test]
fn shapes() {
    let x = noise(&[6, DIM], 4);
    for device in common::devices() {
        let want = recall(&device, config(), &x);
        let square = recall(&device, config(), &x.clone().reshape([2, 1, 3, DIM]).expect("the same numbers"));
        assert_eq!((square[0].floats(), square[1].ints()), (want[0].floats(), want[1].ints()));
        assert_eq!(square[1].shape()[..], [2, 1, 3, 2, 3]);
        let one = Tensor::f32([DIM], x.floats()[..DIM].to_vec()).expect("a token");
        assert_close("one token", recall(&device, config(), &one)[0].floats(), &want[0].floats()[..DIM]);
        assert_eq!(recall(&device, config(), &noise(&[0, 3, DIM], 0))[0].shape()[..], [0, 3, DIM]);
    }
}
