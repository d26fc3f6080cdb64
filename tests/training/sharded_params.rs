//! Parameters larger than one binding: tables cut into pieces train, save and load as whole ones do, bit for bit.

use crate::common;
use wgrad::graph::Var;
use wgrad::nn::{Init, ParamVars, Params, Sharded, ShardedType};
use wgrad::train::{Adam, AdamW, Checkpoint, Group, LoadOptions, Optimizer, RowUpdates, Sgd, Trainer};
use wgrad::types::DType;
use wgrad::{Device, Error, Feed, GpuOptions, Graph, Result, Tensor, TensorType};

const ROWS: usize = 11;
const WIDTH: usize = 3;
const HITS: usize = 7;
const RULES: [RowUpdates; 3] = [RowUpdates::Dense, RowUpdates::PerRow, RowUpdates::Global];

/// Numbers whose squares add up without rounding, so that the norm does not depend on the order.
fn eighths(n: usize, phase: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7 + phase * 5) % 17) as f32 / 8.0 - 1.0).collect()
}

fn optimizers() -> [Optimizer; 4] {
    [
        Sgd::default().lr(0.1).weight_decay(0.2).into(),
        Sgd::default().lr(0.1).momentum(0.9).nesterov(true).into(),
        Adam::default().lr(0.05).weight_decay(0.1).into(),
        AdamW::default().lr(0.05).into(),
    ]
}

/// A table and a vector in one group, pieces of `per` rows (0: whole).
fn params(per: usize) -> Params {
    let mut params = Params::new(5);
    params.add("before", [2], Init::Uniform { bound: 1.0 }).group("tables");
    params.add("table", [ROWS, WIDTH], Init::Normal { std: 1.0 }).group("tables");
    params.add("after", [3], Init::Uniform { bound: 1.0 }).group("tables");
    if per > 0 {
        params.limit((per * WIDTH * 4) as u64);
    }
    params
}

#[derive(Clone)]
struct Setup {
    optimizer: Optimizer,
    rule: RowUpdates,
    clip: f64,
    micro: u32,
}

impl Setup {
    fn compile(
        &self,
        device: &Device,
        params: Params,
        loss: impl for<'g> FnOnce(&'g Graph, &ParamVars<'g>) -> Var<'g>,
    ) -> Result<Trainer> {
        let mut builder = Trainer::builder(device, params, self.optimizer.clone())
            .group("tables", Group::default().rows(self.rule))
            .accumulate(self.micro);
        if self.clip > 0.0 {
            builder = builder.clip(self.clip);
        }
        builder.compile_blocking(loss)
    }

    /// Two uses of the table, whose gradients are inputs.
    fn trainer(&self, device: &Device, per: usize) -> Result<Trainer> {
        self.compile(device, params(per), |g, p| {
            let table = p.sharded("table");
            let use_of = |ids: &str, grad: &str| {
                let ids = g.input(ids, TensorType::u32([HITS]));
                (table.gather(ids) * g.input(grad, TensorType::f32([HITS, WIDTH]))).sum_all()
            };
            let other = p.get("before").sum_all() * 0.5 + p.get("after").sum_all() * 0.25;
            use_of("a", "ga") + use_of("b", "gb") + other
        })
    }
}

/// Rows that repeat within and across uses and lie at the ends of pieces; some hits name no row.
fn step(trainer: &mut Trainer, run: usize) -> Result<()> {
    let r = run as u32;
    let a = Tensor::u32([HITS], vec![r % 4, 10, r % 4, 11, 3, 7 - r % 2, 4])?;
    let b = Tensor::u32([HITS], vec![u32::MAX, 10, 0, 5, r % 4, 99, 8])?;
    let [ga, gb] = [0, 1].map(|k| Tensor::f32([HITS, WIDTH], eighths(HITS * WIDTH, 2 * run + k)));
    trainer.step(&[("a", &a), ("b", &b), ("ga", &ga?), ("gb", &gb?)])
}

fn bytes(trainer: &Trainer) -> Result<Vec<u8>> {
    pollster::block_on(trainer.to_bytes())
}

#[test]
fn cut_is_whole_bit_for_bit() -> Result<()> {
    for device in common::devices() {
        for (optimizer, rule) in optimizers().into_iter().flat_map(|o| RULES.map(|r| (o.clone(), r))) {
            for (clip, micro) in [(0.0, 1), (0.5, 1), (0.5, 2)] {
                let setup = Setup { optimizer: optimizer.clone(), rule, clip, micro };
                let run = |per| {
                    let mut trainer = setup.trainer(&device, per)?;
                    (0..4 * micro as usize).try_for_each(|run| step(&mut trainer, run))?;
                    let by_rows: Vec<String> = trainer.row_updates().map(str::to_owned).collect();
                    assert_eq!(by_rows, if rule == RowUpdates::Dense { vec![] } else { vec!["table"] });
                    Ok((bytes(&trainer)?, trainer.report_blocking()?))
                };
                let (whole, report) = run(0)?;
                assert!(report.ok && report.done == 4);
                let pieces: &[usize] = if clip > 0.0 && micro > 1 { &[1, 4, 5] } else { &[4] };
                for per in pieces {
                    let (cut, cut_report) = run(*per)?;
                    let what = format!("{device}: {optimizer:?} {rule:?} clip {clip} micro {micro} rows {per}");
                    assert_eq!(report, cut_report, "{what}");
                    // All parameters, moments and counts, in files of equal bytes.
                    assert!(whole == cut, "{what}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_bad_step_changes_no_piece() -> Result<()> {
    for device in common::devices() {
        for rule in RULES {
            let setup = Setup { optimizer: Adam::default().into(), rule, clip: 1.0, micro: 1 };
            let mut trainer = setup.trainer(&device, 4)?;
            step(&mut trainer, 0)?;
            let before = bytes(&trainer)?;
            let ids = Tensor::u32([HITS], vec![9; HITS])?;
            let mut bad = eighths(HITS * WIDTH, 0);
            bad[4] = f32::NAN;
            let bad = Tensor::f32([HITS, WIDTH], bad)?;
            trainer.step(&[("a", &ids), ("b", &ids), ("ga", &bad), ("gb", &bad)])?;
            assert!(matches!(trainer.loss_blocking(), Err(Error::NotFinite { .. })), "{device} {rule:?}");
            let (a, b) = (Checkpoint::from_bytes(before)?, Checkpoint::from_bytes(bytes(&trainer)?)?);
            for name in a.names().iter().filter(|n| !n.starts_with("optim.count")) {
                assert_eq!(a.tensor(name)?, b.tensor(name)?, "{device} {rule:?} {name}");
            }
        }
    }
    Ok(())
}

#[test]
fn runs_go_on_under_any_cut() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("wgrad-sharded-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| Error::argument("test folder", e.to_string()))?;
    let path = folder.join("trainer.safetensors");
    for device in common::devices() {
        for (optimizer, rule) in optimizers().into_iter().flat_map(|o| RULES.map(|r| (o.clone(), r))) {
            let setup = Setup { optimizer, rule, clip: 0.5, micro: 2 };
            let run = |trainer: &mut Trainer, runs: std::ops::Range<usize>| {
                runs.into_iter().try_for_each(|r| step(trainer, r))
            };
            let mut whole = setup.trainer(&device, 0)?;
            run(&mut whole, 0..8)?;
            for (from, to) in [(4, 0), (0, 4), (4, 5), (4, 4)] {
                let mut first = setup.trainer(&device, from)?;
                run(&mut first, 0..4)?;
                pollster::block_on(first.save(&path))?;
                let mut second = setup.trainer(&device, to)?;
                run(&mut second, 0..2)?;
                second.load(&path)?;
                assert!(bytes(&first)? == bytes(&second)?, "{device}: {setup_rule:?}", setup_rule = setup.rule);
                run(&mut second, 4..8)?;
                assert!(bytes(&whole)? == bytes(&second)?, "{device}: {setup_rule:?}", setup_rule = setup.rule);
            }
        }
    }
    // Other tools see plain tensors.
    let file = std::fs::read(&path).map_err(|e| Error::argument("test file", e.to_string()))?;
    let plain = safetensors::SafeTensors::deserialize(&file).expect("a file");
    for name in ["table", "optim.m.table", "optim.v.table"] {
        assert_eq!(plain.tensor(name).expect("a tensor").shape(), [ROWS, WIDTH]);
    }
    std::fs::remove_dir_all(&folder).map_err(|e| Error::argument("test folder", e.to_string()))
}

#[test]
fn values_do_not_depend_on_the_cut() -> Result<()> {
    let whole = params(0);
    for device in common::devices() {
        for per in [1, 3, 4, 11] {
            let mut cut = params(per);
            assert!(whole.values().eq(cut.values()));
            assert_eq!(whole.to_bytes()?, cut.to_bytes()?);
            let store = cut.store(&device)?;
            let states = store.names().iter().filter(|n| n.starts_with("params/")).count();
            assert_eq!(states, ROWS.div_ceil(per) + 2);
            // Drawn piece by piece, read back, set, and loaded from a file.
            let mut other = params(per);
            other.set("table", Tensor::zeros(&TensorType::f32([ROWS, WIDTH])))?;
            pollster::block_on(other.read_from(&store))?;
            assert!(whole.values().eq(other.values()));
            let table = Tensor::f32([ROWS, WIDTH], eighths(ROWS * WIDTH, 1))?;
            let mut source = params(0);
            source.set("table", table.clone())?;
            Checkpoint::from_bytes(source.to_bytes()?)?.load_into(&mut cut, &LoadOptions::default())?;
            cut.load_into(&store)?;
            // A plan of another graph on the same store.
            let graph = Graph::new();
            let ids: Vec<u32> = (0..ROWS as u32).collect();
            let all = cut.vars(&graph).sharded("table").gather(graph.constant(Tensor::u32([ROWS], ids)?));
            let plan = device.compile_blocking(&graph, &[("all", all)])?;
            plan.run(&Feed::new().store(&store))?;
            assert_eq!(plan.read_blocking("all")?, table, "{device}, {per} rows");
        }
    }
    Ok(())
}

/// A piece that is also used by itself, and a table that is also multiplied with.
#[test]
fn other_uses_of_pieces() -> Result<()> {
    for device in common::devices() {
        for rule in RULES {
            let setup = Setup { optimizer: Adam::default().lr(0.1).into(), rule, clip: 0.5, micro: 1 };
            let run = |per: usize, dense: bool| {
                let mut trainer = setup.compile(&device, params(per), |g, p| {
                    let table = p.sharded("table");
                    let ids = g.input("ids", TensorType::u32([6]));
                    let grad = g.input("grad", TensorType::f32([6, WIDTH]));
                    let alone = match table.shards() {
                        [whole] => whole.gather((ids.lt(4u32)).select(ids + 4u32, ROWS as u32)),
                        pieces => pieces[1].gather(ids),
                    };
                    let loss = ((table.gather(ids) + alone) * grad).sum_all();
                    if dense { loss + table.score(grad).sum_all() } else { loss }
                })?;
                let ids = Tensor::u32([6], vec![1, 10, 3, 4, 0, 1])?;
                let grad = Tensor::f32([6, WIDTH], eighths(6 * WIDTH, 3))?;
                (0..3).try_for_each(|_| trainer.step(&[("ids", &ids), ("grad", &grad)]))?;
                assert_eq!(trainer.row_updates().count(), usize::from(rule != RowUpdates::Dense && !dense));
                pollster::block_on(trainer.read_params())?.value("table")
            };
            for dense in [false, true] {
                let (whole, cut): (Tensor, Tensor) = (run(0, dense)?, run(4, dense)?);
                let near = whole.floats().iter().zip(cut.floats()).all(|(a, b)| (a - b).abs() < 1e-6);
                assert!(near, "{device} {rule:?} {dense}: {whole:?} {cut:?}");
            }
        }
    }
    Ok(())
}

/// As many uses of each piece, but not of the same rows.
#[test]
fn pieces_used_apart() -> Result<()> {
    for device in common::devices() {
        let setup = Setup { optimizer: Sgd::default().lr(0.1).into(), rule: RowUpdates::PerRow, clip: 0.0, micro: 1 };
        let run = |per: usize| {
            let mut trainer = setup.compile(&device, params(per), |g, p| {
                let table = p.sharded("table");
                let (ids, grad) = (g.input("ids", TensorType::u32([6])), g.input("grad", TensorType::f32([6, WIDTH])));
                let loss = |i: u32| {
                    let own = ids + i;
                    let own = own.lt(3u32).select(own, i);
                    let rows = match table.shards() {
                        [whole] => whole.gather(own + 4 * i),
                        pieces => pieces[i as usize].gather(own),
                    };
                    (rows * grad * f64::from(i + 1)).sum_all()
                };
                loss(0) + loss(1) + loss(2)
            })?;
            let ids = Tensor::u32([6], vec![1, 10, 2, 4, 0, 1])?;
            let grad = Tensor::f32([6, WIDTH], eighths(6 * WIDTH, 3))?;
            (0..3).try_for_each(|_| trainer.step(&[("ids", &ids), ("grad", &grad)]))?;
            pollster::block_on(trainer.read_params())?.value("table")
        };
        let (whole, cut): (Tensor, Tensor) = (run(0)?, run(4)?);
        let near = whole.floats().iter().zip(cut.floats()).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near, "{device}: {whole:?} {cut:?}");
    }
    Ok(())
}

/// Hits are sorted and added up once, not once a piece, and micro-batches keep them once.
#[test]
fn more_pieces_sort_no_more() -> Result<()> {
    for micro in [1, 2] {
        let setup = Setup { optimizer: Adam::default().into(), rule: RowUpdates::PerRow, clip: 1.0, micro };
        let sorts = |per| {
            let trainer = setup.trainer(&Device::cpu(), per)?;
            let names = trainer.plans().flat_map(|p| p.program().steps.iter().map(|s| s.op.name().to_owned()));
            let names: Vec<String> = names.filter(|n| n.contains("sort") || n.contains("runs")).collect();
            Ok((names, trainer.store().names().iter().filter(|n| n.starts_with("accumulated")).count()))
        };
        let (whole, cut): (Result<_>, Result<_>) = (sorts(0), sorts(2));
        let whole = whole?;
        assert!(!whole.0.is_empty());
        assert_eq!(whole, cut?);
    }
    Ok(())
}

#[test]
fn refusals() -> Result<()> {
    let refuse = |make: &dyn Fn(&mut Params)| {
        let mut params = Params::new(1);
        make(&mut params);
        let direct = params.store(&Device::cpu()).err().expect("a refusal");
        let trainer =
            Trainer::builder(&Device::cpu(), params, Adam::default()).compile_blocking(|g, _| g.full([], 1.0));
        assert_eq!(direct.to_string(), trainer.err().expect("a refusal").to_string());
        direct
    };
    let add = |p: &mut Params, shape: &[usize]| {
        p.add("big", shape, Init::Normal { std: 1.0 });
    };
    let limits = [
        // No matrix.
        refuse(&|p| add(p, &[(32 << 20) + 1])),
        refuse(&|p| add(p, &[2, 1 << 20, 17])),
        // A row that is too large, and more rows or pieces than there may be.
        refuse(&|p| add(p, &[2, (32 << 20) + 1])),
        refuse(&|p| add(p, &[usize::MAX, usize::MAX])),
        refuse(&|p| add(p, &[1 << 32, 1])),
        refuse(&|p| add(p, &[4_000_000_000, 1 << 20])),
        refuse(&|p| {
            add(p, &[10, 5]);
            p.limit(19);
        }),
        refuse(&|p| {
            add(p, &[5_000, 5]);
            p.limit(20);
        }),
    ];
    for error in &limits {
        assert!(matches!(error, Error::Limit { .. }), "{error:?}");
    }
    let marked = refuse(&|p| {
        p.add("big", [4], Init::Zeros).sharded();
    });
    assert!(matches!(marked, Error::Name { .. }), "{marked}");
    let messages: Vec<String> = limits.iter().chain([&marked]).map(Error::to_string).collect();
    insta::assert_snapshot!("parameters_over_limits", common::listed(&messages));
    Ok(())
}

#[test]
fn what_the_host_cannot_hold_is_refused() {
    // 32 TiB each: with their moments they exceed what can be addressed.
    let mut params = Params::new(1);
    for name in ["big", "other"] {
        params.add(name, [1 << 23, 1 << 20], Init::Zeros).group("tables");
    }
    params.limit(1 << 33);
    let trainer = Trainer::builder(&Device::cpu(), params, Adam::default())
        .group("tables", Group::default().rows(RowUpdates::Global))
        .compile_blocking(|g, p| p.sharded("big").gather(g.input("ids", TensorType::u32([3]))).sum_all());
    match trainer.err() {
        Some(Error::OutOfMemory { peak, .. }) => assert!(peak >= 6 << 45),
        other => panic!("{other:?}"),
    }
    let mut params = Params::new(1);
    params.add("huge", [4_000_000_000, 1 << 20], Init::Ones);
    assert!(matches!(params.value("huge"), Err(Error::OutOfMemory { .. })));
}

#[test]
fn a_cut_parameter_has_no_variable() {
    let refuse = |build: &dyn for<'g> Fn(&'g Graph, &ParamVars<'g>)| {
        let mut params = params(4);
        params.add("marked", [2, 2], Init::Ones).sharded();
        let graph = Graph::new();
        let vars = params.vars(&graph);
        build(&graph, &vars);
        graph.error().expect("a refusal").to_string()
    };
    let messages = [
        refuse(&|_, p| _ = p.get("table")),
        refuse(&|_, p| _ = p.get("marked")),
        refuse(&|_, p| drop(p.sharded("before"))),
        refuse(&|_, p| drop(p.scope("a").sharded("nothing"))),
        refuse(&|g, _| drop(Sharded::new(g, &[]))),
        refuse(&|g, p| drop(Sharded::new(g, &[p.get("before")]))),
        refuse(&|g, _| {
            let piece = |rows: usize, width: usize| g.full([rows, width], 0.0);
            drop(Sharded::new(g, &[piece(2, 3), piece(3, 3)]));
        }),
    ];
    insta::assert_snapshot!("no_variable_of_its_own", common::listed(&messages));
}

#[test]
fn pieces_make_a_table() -> Result<()> {
    let graph = Graph::new();
    let piece = |name: &str, rows: usize| graph.input(name, TensorType::f32([rows, 2]));
    let table = Sharded::new(&graph, &[piece("a", 3), piece("b", 3), piece("c", 1)]);
    assert_eq!(table.ty(), &ShardedType::with_limit(DType::F32, 7, 2, 24)?);
    assert_eq!(Sharded::new(&graph, &[piece("d", 0)]).ty().rows(), 0);
    assert!(graph.error().is_none());
    Ok(())
}

#[test]
fn a_file_that_shrinks_after_it_was_opened() -> Result<()> {
    let path = std::env::temp_dir().join(format!("wgrad-shrinks-{}.safetensors", std::process::id()));
    let io = |e: std::io::Error| Error::argument("test file", e.to_string());
    params(0).save(&path)?;
    let file = Checkpoint::open(&path)?;
    assert_eq!(file.tensor("table")?, params(0).value("table")?);
    std::fs::OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(200)).map_err(io)?;
    let mut target = params(4);
    let before = target.to_bytes()?;
    assert!(matches!(file.load_into(&mut target, &LoadOptions::default()), Err(Error::Io { .. })));
    assert_eq!(target.to_bytes()?, before);
    assert!(matches!(Checkpoint::open(&path), Err(Error::Checkpoint { .. })));
    std::fs::remove_file(&path).map_err(io)
}

fn portable() -> Option<Device> {
    common::fresh(GpuOptions { portable_limits: true, ..common::options() })
}

#[test]
fn a_device_with_smaller_bindings_is_refused() {
    let Some(device) = portable() else { return };
    let before = common::made(&device);
    let mut params = Params::new(1);
    params.add("big", [33 << 20], Init::Zeros);
    params.limit(1 << 30);
    let error = params.store(&device).err().expect("a refusal");
    assert!(matches!(error, Error::Limit { needed, available, .. } if needed > available), "{error}");
    assert_eq!(before, common::made(&device));
}

/// A million rows of 64: 256 MiB, twice what can be bound.
#[test]
fn a_million_rows_train_under_portable_limits() -> Result<()> {
    let (rows, width, hits) = (1 << 20, 64, 512);
    let ids: Vec<u32> = (0..hits as u32).map(|i| i.wrapping_mul(2_654_435_761) % rows as u32).collect();
    let ids = Tensor::u32([hits], ids)?;
    let mut params = Params::new(1);
    params.add("values", [rows, width], Init::Uniform { bound: 0.1 }).group("tables");
    let start = params.value("values")?;
    for device in [Some(Device::cpu()), portable()].into_iter().flatten() {
        let mut trainer = Trainer::builder(&device, params.clone(), Adam::default().lr(0.1))
            .group("tables", Group::default().rows(RowUpdates::PerRow))
            .clip(1.0)
            .compile_blocking(|g, p| {
                let found = p.sharded("values").gather(g.input("ids", TensorType::u32([hits])));
                (found - 1.0).square().mean_all()
            })?;
        trainer.step(&[("ids", &ids)])?;
        let first = trainer.loss_blocking()?;
        trainer.step(&[("ids", &ids)])?;
        assert!(trainer.loss_blocking()? < 0.95 * first, "{device}");
        // Nothing of the table's size belongs to the plan.
        assert!(trainer.plans().all(|p| p.bytes() < 4 << 20));
        let trained = pollster::block_on(trainer.read_params())?.value("values")?;
        let mut touched: Vec<usize> = ids.ints().iter().map(|i| *i as usize).collect();
        touched.sort_unstable();
        let rows = start.floats().chunks(width).zip(trained.floats().chunks(width));
        let changed: Vec<usize> = rows.enumerate().filter(|(_, (a, b))| a != b).map(|(i, _)| i).collect();
        assert_eq!(changed, touched, "{device}");
    }
    Ok(())
}
