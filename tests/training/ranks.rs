//! Ranks that share a batch: together they make the steps that one trainer makes with the whole batch.

use crate::common;
use std::thread;
use wgrad::graph::Mode;
use wgrad::kernels::CpuCall;
use wgrad::models::product_key::{Lookup, ProductKeyConfig, ProductKeyMemory, VALUES};
use wgrad::nn::{Embedding, Linear, Params};
use wgrad::ops::custom::{CustomOp, Twin};
use wgrad::train::{AdamW, Collective, Group, Mean, NotFinite, RowUpdates, Threads, Trainer};
use wgrad::types::Real;
use wgrad::{DType, Device, Error, Feed, Graph, Result, Tensor, TensorType, Var};

const BATCH: usize = 8;
const TOKENS: usize = 5;
const VOCABULARY: usize = 23;
/// A label that does not count.
const IGNORED: u32 = u32::MAX;

/// How the loss averages.
#[derive(Clone, Copy, PartialEq)]
enum Loss {
    Even,
    Counted,
}

/// Part `rank` of `ranks` of a batch of texts, and labels; with `Counted` some of them do not count, on some ranks many.
fn batch(call: usize, loss: Loss, rank: usize, ranks: usize) -> Result<[Tensor; 2]> {
    let each = BATCH / ranks;
    let shape = [each, TOKENS];
    let texts = rank * each..(rank + 1) * each;
    let ids = |shift: usize| {
        let token = move |b: usize, t: usize| {
            ((b * b * 7 + (t + shift) * (t + shift) * 3 + b * t + call * 5) % VOCABULARY) as u32
        };
        texts.clone().flat_map(move |b| (0..TOKENS).map(move |t| token(b, t)))
    };
    // The further back a text stands, the more of its labels count.
    let counts = |i: usize| {
        let place = texts.start * TOKENS + i;
        loss == Loss::Even || place * 7 % 11 < 2 + place / TOKENS
    };
    let labels = ids(1).enumerate().map(|(i, id)| if counts(i) { id } else { IGNORED }).collect();
    Ok([Tensor::u32(shape, ids(0).collect())?, Tensor::u32(shape, labels)?])
}

/// What a test wants of a trainer.
#[derive(Clone, Copy)]
struct Wanted {
    loss: Loss,
    micro: u32,
    /// Parts of the batch that a trainer alone is given one after the other.
    parts: usize,
    rule: RowUpdates,
    then: NotFinite,
    seed: u64,
}

const PLAIN: Wanted =
    Wanted { loss: Loss::Even, micro: 1, parts: 1, rule: RowUpdates::PerRow, then: NotFinite::Skip, seed: 3 };

/// Tables of embeddings and of a product-key memory, dropout, noise, something carried, clipping.
fn trainer(device: &Device, wanted: Wanted, ranks: Option<Threads>) -> Result<Trainer> {
    let (dim, each) = (8, BATCH / ranks.as_ref().map_or(wanted.parts, Collective::ranks));
    let mut params = Params::new(wanted.seed);
    let embedding = Embedding::new(&mut params, "embedding", VOCABULARY, dim);
    params.get_mut("embedding.weight")?.group(VALUES);
    let config = ProductKeyConfig { heads: 2, num_keys: 6, topk: 3, dim_head: 4, ..ProductKeyConfig::new(dim) };
    let memory = ProductKeyMemory::new(&mut params, "memory", config)?;
    let out = Linear::new(&mut params, "out", dim, VOCABULARY, true);
    let carried = TensorType::f32([each, dim]);
    let mut builder = Trainer::builder(device, params, AdamW::default().lr(0.02))
        .clip(0.7)
        .accumulate(wanted.micro)
        .group(VALUES, Group::default().rows(wanted.rule))
        .carry([("past".to_owned(), carried.clone())])
        .on_not_finite(wanted.then);
    if let Some(ranks) = ranks {
        builder = builder.ranks(ranks);
    }
    if wanted.loss == Loss::Even {
        builder.compile_blocking(move |g, p| {
            let [ids, labels] = ["ids", "labels"].map(|name| g.input(name, TensorType::u32([each, TOKENS])));
            let past = g.state("past", carried.clone());
            let x = embedding.forward(p, ids).dropout(0.2, 1, Mode::Train) + past.unsqueeze(1);
            g.assign(past, past * 0.5 + x.mean(1).reshape([each, dim]).stop_gradient() * 0.1);
            let lookup = Lookup::new(Mode::Train, 40).gumbel(0.1);
            let x = x + memory.forward(p, x, &lookup);
            let scale = g.input("scale", TensorType::f32([]));
            out.forward(p, x).cross_entropy_mean(labels, None) * scale
        })
    } else {
        builder.compile_mean_blocking(move |g, p| {
            let [ids, labels] = ["ids", "labels"].map(|name| g.input(name, TensorType::u32([each, TOKENS])));
            let past = g.state("past", carried.clone());
            g.assign(past, past * 0.5);
            let x = embedding.forward(p, ids) + past.unsqueeze(1);
            let logits = out.forward(p, x + memory.forward(p, x, &Lookup::new(Mode::Train, 40)));
            Mean {
                sum: logits.cross_entropy(labels, None).sum_all() * g.input("scale", TensorType::f32([])),
                count: logits.cross_entropy_count(labels, None),
            }
        })
    }
}

/// Steps of micro-batches `calls`, and the loss after each; rank 1's batch of call `bad` is not finite.
fn steps(trainer: &mut Trainer, loss: Loss, calls: std::ops::Range<usize>, bad: usize) -> Result<Vec<Result<f32>>> {
    let mut losses = Vec::new();
    let (rank, ranks) = (trainer.rank(), trainer.ranks());
    for call in calls {
        let [ids, labels] = batch(call, loss, rank, ranks)?;
        let scale = Tensor::scalar(if call == bad && rank + 1 == ranks { f32::NAN } else { 1.0 });
        let before = trainer.steps();
        trainer.step(&[("ids", &ids), ("labels", &labels), ("scale", &scale)])?;
        if trainer.steps() > before {
            losses.push(trainer.loss_blocking());
        }
    }
    Ok(losses)
}

/// `work` on every rank of a group, in order of the ranks.
fn together<R: Send>(ranks: usize, work: impl Fn(Threads) -> Result<R> + Sync) -> Vec<Result<R>> {
    thread::scope(|scope| {
        let work = &work;
        let all: Vec<_> = Threads::group(ranks).into_iter().map(|rank| scope.spawn(move || work(rank))).collect();
        all.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

const NEVER: usize = usize::MAX;

type Trained = (Vec<f32>, Vec<f32>, Vec<u8>);

/// Losses, parameters and checkpoint after `calls` micro-batches.
fn trained(device: &Device, wanted: Wanted, ranks: Option<Threads>, calls: usize) -> Result<Trained> {
    let mut trainer = trainer(device, wanted, ranks)?;
    let losses = steps(&mut trainer, wanted.loss, 0..calls, NEVER)?.into_iter().collect::<Result<_>>()?;
    let params = pollster::block_on(trainer.read_params())?;
    let values = params.values().flat_map(|(_, t)| t.floats().to_vec()).collect();
    Ok((losses, values, pollster::block_on(trainer.to_bytes())?))
}

fn near(a: &[f32], b: &[f32], tolerance: f32, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance, "{what}, {i}: {a} and {b}");
    }
}

fn compare(device: &Device, wanted: Wanted, ranks: usize, tolerance: f32) {
    let what = format!("{ranks} ranks of {device}");
    let calls = 4 * wanted.micro as usize;
    let (losses, values, _) = trained(device, wanted, None, calls).unwrap();
    let all = together(ranks, |rank| trained(device, wanted, Some(rank), calls));
    let all: Vec<Trained> = all.into_iter().collect::<Result<_>>().unwrap();
    for other in &all {
        assert!(all[0] == *other, "{what} differ");
    }
    near(&all[0].0, &losses, tolerance, &what);
    near(&all[0].1, &values, tolerance, &what);
}

/// In double precision what differs is what travels in single precision: the gradients.
#[test]
fn ranks_make_the_steps_of_the_whole_batch() {
    for ranks in [2, 4, 8] {
        compare(&Device::cpu_f64(), PLAIN, ranks, 1e-5);
    }
    compare(&Device::cpu(), PLAIN, 2, 2e-4);
    compare(&Device::cpu_f64(), Wanted { rule: RowUpdates::Dense, ..PLAIN }, 2, 1e-5);
    if let Some(gpu) = common::gpu() {
        compare(gpu, PLAIN, 2, 5e-4);
    }
}

#[test]
fn each_rank_may_have_several_micro_batches() {
    compare(&Device::cpu_f64(), Wanted { micro: 2, ..PLAIN }, 2, 1e-5);
    compare(&Device::cpu_f64(), Wanted { micro: 3, loss: Loss::Counted, rule: RowUpdates::Global, ..PLAIN }, 4, 1e-5);
}

/// Ranks whose labels count less weigh less.
#[test]
fn what_counts_is_counted_on_all_ranks() {
    compare(&Device::cpu_f64(), Wanted { loss: Loss::Counted, ..PLAIN }, 2, 1e-5);
    compare(&Device::cpu_f64(), Wanted { loss: Loss::Counted, ..PLAIN }, 8, 1e-5);
    // Micro-batches too: two halves of a batch are as the whole.
    let device = Device::cpu_f64();
    let counted = Wanted { loss: Loss::Counted, ..PLAIN };
    let whole = trained(&device, counted, None, 1).unwrap();
    let mut halves = trainer(&device, Wanted { micro: 2, parts: 2, ..counted }, None).unwrap();
    for half in 0..2 {
        let [ids, labels] = batch(0, Loss::Counted, half, 2).unwrap();
        halves.step(&[("ids", &ids), ("labels", &labels), ("scale", &Tensor::scalar(1.0))]).unwrap();
    }
    near(&[halves.loss_blocking().unwrap()], &whole.0, 1e-6, "halves");
    let params = pollster::block_on(halves.read_params()).unwrap();
    near(&params.values().flat_map(|(_, t)| t.floats().to_vec()).collect::<Vec<_>>(), &whole.1, 1e-6, "halves");
}

#[test]
fn a_batch_without_anything_that_counts_changes_nothing() {
    let mut params = Params::new(1);
    let layer = Linear::new(&mut params, "layer", 2, 1, true);
    let builder = Trainer::builder(&Device::cpu(), params, wgrad::train::Sgd::default().lr(0.1));
    let mut trainer = builder
        .compile_mean_blocking(|g, p| {
            let keep = g.input("keep", TensorType::f32([3]));
            let errors = layer.forward(p, g.input("x", TensorType::f32([3, 2]))).reshape([3]).square();
            Mean { sum: (errors * keep).sum_all(), count: keep.sum_all() }
        })
        .unwrap();
    let kept = |trainer: &Trainer| pollster::block_on(trainer.read_params()).unwrap().to_bytes().unwrap();
    let before = kept(&trainer);
    let (x, keep) = (Tensor::f32([3, 2], vec![1.0; 6]).unwrap(), Tensor::f32([3], vec![0.0; 3]).unwrap());
    trainer.step(&[("x", &x), ("keep", &keep)]).unwrap();
    assert_eq!(trainer.loss_blocking().unwrap(), 0.0);
    assert_eq!(trainer.report_blocking().unwrap().skipped, 0);
    assert!(kept(&trainer) == before);
}

#[test]
fn a_rank_draws_its_part_of_what_one_process_draws() {
    let draw = |device: &Device, n: usize, rank: u32| {
        let graph = Graph::new();
        let outputs = [
            ("bits", graph.random_bits([n, 5], 9)),
            ("one", graph.random_bits([], 9)),
            ("u", graph.uniform([n, 5], 2)),
        ];
        let plan = device.compile_blocking(&graph, &outputs).unwrap();
        plan.run(&Feed::new().step(7, 1 << 40).rank(rank)).unwrap();
        let read = |name| plan.read_blocking(name).unwrap();
        (read("bits").ints().to_vec(), read("one").ints().to_vec(), read("u").floats().to_vec())
    };
    for device in common::devices() {
        // Odd counts: a rank begins inside a pair.
        for (n, ranks) in [(1, 5), (2, 3), (3, 2)] {
            let whole = draw(&device, n * ranks, 0);
            let parts: Vec<_> = (0..ranks as u32).map(|rank| draw(&device, n, rank)).collect();
            assert_eq!(parts.iter().flat_map(|p| p.0.clone()).collect::<Vec<_>>(), whole.0, "{device}");
            assert_eq!(parts.iter().flat_map(|p| p.2.clone()).collect::<Vec<_>>(), whole.2, "{device}");
            assert!(parts.iter().all(|p| p.1 == whole.1), "{device}: a scalar is the same on all");
        }
    }
}

/// The checkpoint of two ranks is that of one process, what is carried included: any number of ranks goes on from it.
#[test]
fn checkpoints_fit_any_number_of_ranks() {
    let folder = tempfile("ranks");
    let path = folder.join("two.safetensors");
    let device = Device::cpu();
    let loss = PLAIN.loss;
    let saved = together(2, |rank| {
        let mut trainer = trainer(&device, PLAIN, Some(rank))?;
        steps(&mut trainer, loss, 0..3, NEVER)?;
        pollster::block_on(trainer.save(&path))?;
        steps(&mut trainer, loss, 3..5, NEVER)?;
        pollster::block_on(trainer.to_bytes())
    });
    let saved: Vec<Vec<u8>> = saved.into_iter().collect::<Result<_>>().unwrap();
    assert!(saved[0] == saved[1]);
    let resumed = together(2, |rank| {
        let mut trainer = trainer(&device, PLAIN, Some(rank))?;
        trainer.load(&path)?;
        steps(&mut trainer, loss, 3..5, NEVER)?;
        pollster::block_on(trainer.to_bytes())
    });
    assert!(resumed.iter().all(|r| r.as_ref().is_ok_and(|bytes| *bytes == saved[0])), "resumed bit for bit");
    let go_on = |ranks: Option<Threads>| {
        let mut trainer = trainer(&device, PLAIN, ranks)?;
        trainer.load(&path)?;
        let losses = steps(&mut trainer, loss, 3..5, NEVER)?;
        losses.into_iter().collect::<Result<Vec<f32>>>()
    };
    let (alone, four) = (go_on(None).unwrap(), together(4, |rank| go_on(Some(rank))));
    four.into_iter().for_each(|losses| near(&losses.unwrap(), &alone, 2e-4, "four ranks"));
    // Where rank 0 cannot write, all learn of it.
    let failed = together(2, |rank| {
        let trainer = trainer(&device, PLAIN, Some(rank))?;
        pollster::block_on(trainer.save(folder.join("no/such/folder")))
    });
    assert!(
        matches!(failed[0], Err(Error::Io { .. })) && matches!(failed[1], Err(Error::Rank { rank: 0, .. })),
        "{failed:?}"
    );
    std::fs::remove_dir_all(folder).unwrap();
}

/// A loss that is not finite on one rank costs all of them that step, and with `Stop` ends the training of all.
#[test]
fn a_bad_step_of_one_rank_is_one_of_all() {
    for (then, goes_on) in [(NotFinite::Skip, true), (NotFinite::Stop, false)] {
        let all = together(2, |rank| {
            let mut trainer = trainer(&Device::cpu(), Wanted { then, ..PLAIN }, Some(rank))?;
            let kept = |trainer: &Trainer| pollster::block_on(trainer.read_params())?.to_bytes();
            steps(&mut trainer, PLAIN.loss, 0..1, NEVER)?;
            let before = kept(&trainer)?;
            let bad = steps(&mut trainer, PLAIN.loss, 1..2, 1)?;
            assert!(matches!(bad[..], [Err(Error::NotFinite { step: 1, .. })]), "{bad:?}");
            assert!(kept(&trainer)? == before, "a bad step changes nothing");
            Ok(steps(&mut trainer, PLAIN.loss, 2..3, NEVER).is_ok())
        });
        assert!(all.iter().all(|ok| matches!(ok, Ok(ok) if *ok == goes_on)), "{then:?}: {all:?}");
    }
}

#[test]
fn ranks_that_disagree_or_are_gone_are_named() {
    let apart = together(3, |rank| {
        let seed = if rank.number() == 2 { 4 } else { 3 };
        trainer(&Device::cpu(), Wanted { seed, ..PLAIN }, Some(rank)).map(drop)
    });
    for result in apart {
        let Err(Error::Rank { rank: 2, message }) = result else { panic!("{result:?}") };
        assert!(message.contains("something else than rank 0"), "{message}");
    }
    let gone = together(2, |rank| {
        let leaves = rank.number() == 1;
        let mut trainer = trainer(&Device::cpu(), PLAIN, Some(rank))?;
        steps(&mut trainer, PLAIN.loss, 0..1, NEVER)?;
        let before = pollster::block_on(trainer.read_params())?.to_bytes()?;
        if leaves {
            return Ok(());
        }
        let error = steps(&mut trainer, PLAIN.loss, 1..2, NEVER).expect_err("the other is gone");
        assert!(matches!(&error, Error::Rank { rank: 1, message } if message.contains("is gone")), "{error}");
        assert!(pollster::block_on(trainer.read_params())?.to_bytes()? == before, "an unfinished step changes nothing");
        Ok(())
    });
    gone.into_iter().for_each(|rank| rank.unwrap());
}

/// How one rank of two is built.
struct Part {
    batch: usize,
    device: Device,
    loss: for<'g> fn(Var<'g>) -> Var<'g>,
    mixed: bool,
}

fn square(x: Var<'_>) -> Var<'_> {
    x.square().mean_all()
}

/// A model whose gradients are all dense: nothing of the trainer's own depends on the batch.
fn dense(part: Part, ranks: Threads) -> Result<Trainer> {
    let mut params = Params::new(1);
    let layer = Linear::new(&mut params, "layer", 2, 1, true);
    let mut builder = Trainer::builder(&part.device, params, AdamW::default()).ranks(ranks);
    if part.mixed {
        builder = builder.mixed_devices();
    }
    // Each rank has an operation of its own, equal to the others'.
    let double = double();
    builder.compile_blocking(|g, p| {
        let x = layer.forward(p, g.input("x", TensorType::f32([part.batch, 2])));
        (part.loss)(x) + double.apply(&[g.full([3], 1.0)])[0].mean_all()
    })
}

fn double() -> CustomOp {
    let text = "
        @group(0) @binding(0) var<storage, read> x: array<f32>;
        @group(0) @binding(1) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(1)
        fn main(@builtin(workgroup_id) id: vec3<u32>) { y[id.x] = 2.0 * x[id.x]; }";
    struct Double;
    impl Twin for Double {
        fn run<T: Real>(&self, call: &mut CpuCall<'_, T>) {
            let x = call.f(0);
            call.out(0).iter_mut().zip(x).for_each(|(y, x)| *y = *x + *x);
        }
    }
    CustomOp::builder("double", text)
        .inputs([DType::F32])
        .outputs([DType::F32])
        .workgroups(|_, outputs| outputs[0].numel())
        .cpu(Double)
        .build()
        .unwrap()
}

/// What both ranks of two say, where the second differs.
fn differing(change: fn(&mut Part)) -> Vec<Result<Trainer>> {
    together(2, |rank| {
        let mut part = Part { batch: 4, device: Device::cpu(), loss: square, mixed: false };
        if rank.number() == 1 {
            change(&mut part);
        }
        dense(part, rank)
    })
}

#[test]
fn ranks_of_other_batches_losses_or_devices_do_not_train() {
    assert!(differing(|_| ()).iter().all(Result::is_ok), "equal ranks train");
    let refused = |change: fn(&mut Part), words: &[&str]| {
        for result in differing(change) {
            let Err(Error::Rank { rank: 1, message }) = result.map(drop) else { panic!("{words:?}") };
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    };
    refused(|part| part.batch = 8, &["something else than rank 0", "x f32[8, 2]", "x f32[4, 2]"]);
    refused(|part| part.loss = |x| x.abs().mean_all(), &["something else than rank 0", "model and loss"]);
    refused(|part| part.loss = |x| (x * 1.5).square().mean_all(), &["model and loss"]);
    refused(|part| part.device = Device::cpu_f64(), &["(f64", "(f32", "mixed_devices"]);
    let mixed = together(2, |rank| {
        let device = if rank.number() == 1 { Device::cpu_f64() } else { Device::cpu() };
        dense(Part { batch: 4, device, loss: square, mixed: true }, rank).map(drop)
    });
    assert!(mixed.iter().all(Result::is_ok), "{mixed:?}");
}

/// Parameters that are no longer equal are found when they are saved, and the checkpoint before stays.
#[test]
fn parameters_that_drifted_apart_are_not_saved() {
    let folder = tempfile("drifted");
    let path = folder.join("checkpoint");
    let saved = together(2, |rank| {
        let mut trainer = trainer(&Device::cpu(), PLAIN, Some(rank))?;
        pollster::block_on(trainer.save(&path))?;
        let before = std::fs::read(&path).unwrap();
        steps(&mut trainer, PLAIN.loss, 0..1, NEVER)?;
        if trainer.rank() == 1 {
            // The last bit of one number.
            let state = "params/default/0";
            let mut values = trainer.store().read_blocking(state)?.floats().to_vec();
            values[0] = f32::from_bits(values[0].to_bits() ^ 1);
            trainer.store().set(state, &Tensor::f32([values.len()], values)?)?;
        }
        let error = pollster::block_on(trainer.save(&path)).expect_err("they differ");
        assert!(matches!(&error, Error::Rank { rank: 1, message } if message.contains("other parameters")), "{error}");
        assert!(std::fs::read(&path).unwrap() == before);
        Ok(())
    });
    saved.into_iter().for_each(|rank| rank.unwrap());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing is left behind");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Ranks that load different files, or one of which has no good one, are as they were.
#[test]
fn ranks_that_load_other_files_change_nothing() {
    let files: Vec<Vec<u8>> = (1..3)
        .map(|calls| {
            let mut alone = trainer(&Device::cpu(), PLAIN, None).unwrap();
            steps(&mut alone, PLAIN.loss, 0..calls, NEVER).unwrap();
            pollster::block_on(alone.to_bytes()).unwrap()
        })
        .collect();
    let plain = pollster::block_on(trainer(&Device::cpu(), PLAIN, None).unwrap().read_params()).unwrap();
    for second in [&files[1], &plain.to_bytes().unwrap()] {
        let loaded = together(2, |rank| {
            let mut trainer = trainer(&Device::cpu(), PLAIN, Some(rank))?;
            let before = pollster::block_on(trainer.to_bytes())?;
            let bytes = if trainer.rank() == 0 { &files[0] } else { second };
            let error = trainer.from_bytes(bytes.clone()).expect_err("they differ");
            let own = trainer.rank() == 1 && matches!(error, Error::Checkpoint { .. });
            assert!(own || matches!(error, Error::Rank { rank: 1, .. }), "{error}");
            assert!(pollster::block_on(trainer.to_bytes())? == before && trainer.steps() == 0);
            Ok(())
        });
        loaded.into_iter().for_each(|rank| rank.unwrap());
    }
}

#[test]
fn sums_are_the_same_on_all_ranks() {
    let values = |rank: usize, n: usize| (0..n).map(move |i| ((i * 7 + rank * 13) as f32).sin());
    for (ranks, n) in [(1, 3), (2, 0), (3, 1), (3, 7), (4, 1001)] {
        let sums = together(ranks, |rank| {
            let mut mine: Vec<f32> = values(rank.number(), n).collect();
            rank.sum(&mut mine)?;
            Ok(mine)
        });
        let sums: Vec<Vec<f32>> = sums.into_iter().collect::<Result<_>>().unwrap();
        let expected: Vec<f32> = (0..n)
            .map(|i| (0..ranks).map(|rank| f64::from(values(rank, n).nth(i).unwrap())).sum::<f64>() as f32)
            .collect();
        assert!(sums.iter().all(|s| *s == expected));
    }
}

#[test]
fn a_scalar_cannot_be_shared_out() {
    let refused = together(2, |rank| {
        let params = Params::new(1);
        let carried = ("count".to_owned(), TensorType::u32([]));
        let builder = Trainer::builder(&Device::cpu(), params, AdamW::default()).carry([carried]).ranks(rank);
        builder.compile_blocking(|g, _| g.full([], 1.0)).map(drop)
    });
    assert!(refused.iter().all(|r| matches!(r, Err(Error::Name { kind: "state", .. }))), "{refused:?}");
}

fn tempfile(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("wgrad-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
