//! Tables of which only touched rows are updated: formulas against a plain version in double precision, clipping,
//! micro-batches, bad steps, checkpoints, and work that does not grow with the table.

use crate::common;
use wgrad::graph::Var;
use wgrad::nn::{Embedding, Init, Linear, Params};
use wgrad::train::{Adam, AdamW, Checkpoint, Group, Optimizer, RowUpdates, Sgd, Trainer};
use wgrad::{Device, Error, Graph, Result, Tensor, TensorType};

const ROWS: usize = 11;
const WIDTH: usize = 3;
/// Hits of the first and of the second use of the table.
const HITS: [usize; 2] = [5, 4];
const RULES: [RowUpdates; 2] = [RowUpdates::PerRow, RowUpdates::Global];
const LR: f64 = 0.05;
const DECAY: f64 = 0.3;

/// Values that look random and are the same everywhere.
fn wave(n: usize, phase: f64) -> Vec<f32> {
    (0..n).map(|i| (((i as f64 + 1.0) * (1.7 + phase)).sin() * 1.3) as f32).collect()
}

fn optimizers() -> [Optimizer; 5] {
    let sgd = || Sgd::default().lr(LR).weight_decay(DECAY);
    [
        sgd().into(),
        sgd().momentum(0.9).into(),
        sgd().momentum(0.9).nesterov(true).into(),
        Adam::default().lr(LR).weight_decay(DECAY).betas(0.9, 0.99).into(),
        AdamW::default().lr(LR).weight_decay(DECAY).betas(0.9, 0.99).into(),
    ]
}

/// A micro-batch: which rows are hit, and with which gradients; and the gradient of another parameter.
#[derive(Clone)]
struct Batch {
    ids: [Vec<u32>; 2],
    grads: [Vec<f32>; 2],
    dense: Vec<f32>,
}

impl Batch {
    /// Rows that repeat within and across the two uses; row 7 of steps 0 to 2 only, row 9 never; some hits name no row.
    fn new(run: usize) -> Self {
        let phase = run as f64 * 0.37;
        let r = run as u32;
        let late = if run < 3 { 7 } else { 2 };
        let ids = [vec![r % 4, 5, r % 4, ROWS as u32, late], vec![5, r % 4, u32::MAX, 10]];
        let grads = [wave(HITS[0] * WIDTH, phase), wave(HITS[1] * WIDTH, phase + 0.11)];
        Batch { ids, grads, dense: wave(2, phase + 0.05) }
    }

    /// No hit names a row.
    fn missing(run: usize) -> Self {
        let ids = [vec![ROWS as u32; HITS[0]], vec![99; HITS[1]]];
        Batch { ids, ..Batch::new(run) }
    }

    /// Every row is hit.
    fn full(run: usize) -> Self {
        let mut batch = Batch::new(run);
        batch.ids = [(0..ROWS as u32).collect(), vec![3; HITS[1]]];
        batch.grads[0] = wave(ROWS * WIDTH, 0.2 + run as f64);
        batch
    }

    fn step(&self, trainer: &mut Trainer) -> Result<()> {
        let ids = [&self.ids[0], &self.ids[1]].map(|i| Tensor::u32([i.len()], i.clone()));
        let grads = [&self.grads[0], &self.grads[1]].map(|g| Tensor::f32([g.len() / WIDTH, WIDTH], g.clone()));
        let ([a, b], [ga, gb]) = (ids, grads);
        let (a, b, ga, gb, dense) = (a?, b?, ga?, gb?, Tensor::f32([2], self.dense.clone())?);
        trainer.step(&[("a", &a), ("b", &b), ("ga", &ga), ("gb", &gb), ("dense", &dense)])
    }
}

/// What a test varies.
#[derive(Clone)]
struct Setup {
    optimizer: Optimizer,
    rule: RowUpdates,
    clip: f64,
    micro: u32,
    hits: [usize; 2],
}

impl Setup {
    fn new(optimizer: impl Into<Optimizer>, rule: RowUpdates) -> Self {
        Setup { optimizer: optimizer.into(), rule, clip: 0.0, micro: 1, hits: HITS }
    }

    /// A table whose gradient at each hit is an input, and a vector whose gradient is one, in one group.
    fn trainer(&self, device: &Device) -> Result<Trainer> {
        let mut params = Params::new(1);
        params.add("dense", [2], Init::Values(wave(2, 0.3))).group("tables");
        params.add("table", [ROWS, WIDTH], Init::Values(wave(ROWS * WIDTH, 0.1))).group("tables");
        let hits = self.hits;
        let mut builder = Trainer::builder(device, params, self.optimizer.clone())
            .group("tables", Group::default().rows(self.rule))
            .accumulate(self.micro);
        if self.clip > 0.0 {
            builder = builder.clip(self.clip);
        }
        builder.compile_blocking(|g, p| {
            let part = |ids: &str, grad: &str, n: usize| {
                let ids = g.input(ids, TensorType::u32([n]));
                (p.get("table").gather(ids) * g.input(grad, TensorType::f32([n, WIDTH]))).sum_all()
            };
            let dense = p.get("dense") * g.input("dense", TensorType::f32([2]));
            part("a", "ga", hits[0]) + part("b", "gb", hits[1]) + dense.sum_all()
        })
    }
}

/// One parameter element by element in double precision.
struct Cell {
    p: f64,
    kept: [f64; 2],
}

impl Cell {
    fn all(values: Vec<f32>) -> Vec<Cell> {
        values.into_iter().map(|p| Cell { p: f64::from(p), kept: [0.0; 2] }).collect()
    }

    /// The formulas of PyTorch; `n` is the number of the step.
    fn step(&mut self, optimizer: usize, g: f64, n: i32) {
        let decayed = g + DECAY * self.p;
        match optimizer {
            0 => self.p -= LR * decayed,
            1 | 2 => {
                self.kept[0] = 0.9 * self.kept[0] + decayed;
                self.p -= LR * if optimizer == 1 { self.kept[0] } else { decayed + 0.9 * self.kept[0] };
            }
            _ => {
                let g = if optimizer == 3 { decayed } else { g };
                if optimizer == 4 {
                    self.p *= 1.0 - LR * DECAY;
                }
                self.kept = [0.9 * self.kept[0] + 0.1 * g, 0.99 * self.kept[1] + 0.01 * g * g];
                let (c1, c2) = (1.0 - 0.9f64.powi(n), 1.0 - 0.99f64.powi(n));
                self.p -= LR / c1 * self.kept[0] / ((self.kept[1] / c2).sqrt() + 1e-8);
            }
        }
    }
}

/// The whole table at every step, row by row.
struct Naive {
    optimizer: usize,
    rule: RowUpdates,
    clip: f64,
    table: Vec<Cell>,
    dense: Vec<Cell>,
    touches: [i32; ROWS],
    steps: i32,
}

impl Naive {
    fn new(optimizer: usize, setup: &Setup) -> Self {
        let (table, dense) = (Cell::all(wave(ROWS * WIDTH, 0.1)), Cell::all(wave(2, 0.3)));
        Naive { optimizer, rule: setup.rule, clip: setup.clip, table, dense, touches: [0; ROWS], steps: 0 }
    }

    fn step(&mut self, batches: &[Batch]) {
        let mut sums: [Option<[f64; WIDTH]>; ROWS] = [None; ROWS];
        let mut dense = [0.0; 2];
        let scale = 1.0 / batches.len() as f64;
        for batch in batches {
            for (ids, grads) in batch.ids.iter().zip(&batch.grads) {
                for (id, grad) in ids.iter().zip(grads.chunks(WIDTH)) {
                    if let Some(sum) = sums.get_mut(*id as usize) {
                        let sum = sum.get_or_insert([0.0; WIDTH]);
                        sum.iter_mut().zip(grad).for_each(|(s, g)| *s += scale * f64::from(*g));
                    }
                }
            }
            dense.iter_mut().zip(&batch.dense).for_each(|(d, g)| *d += scale * f64::from(*g));
        }
        let all = sums.iter().flatten().flatten().chain(&dense);
        let norm = all.map(|g| g * g).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return;
        }
        let clip = if self.clip > 0.0 { (self.clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        self.steps += 1;
        for (cell, g) in self.dense.iter_mut().zip(dense) {
            cell.step(self.optimizer, g * clip, self.steps);
        }
        for (row, sum) in sums.into_iter().enumerate() {
            let Some(sum) = sum else { continue };
            self.touches[row] += 1;
            let n = if self.rule == RowUpdates::PerRow { self.touches[row] } else { self.steps };
            for (cell, g) in self.table[row * WIDTH..].iter_mut().zip(sum) {
                cell.step(self.optimizer, g * clip, n);
            }
        }
    }
}

fn table(trainer: &Trainer) -> Result<Vec<f32>> {
    Ok(pollster::block_on(trainer.read_params())?.value("table")?.floats().to_vec())
}

fn bytes(trainer: &Trainer) -> Result<Vec<u8>> {
    pollster::block_on(trainer.to_bytes())
}

/// The oracle, the CPU executor and the GPU.
fn devices() -> Vec<(Device, f64)> {
    let mut all = vec![(Device::cpu_f64(), 2e-7)];
    all.extend(common::devices().into_iter().map(|d| (d, 1e-5)));
    all
}

/// Batches of a step: one without any row, one with a gradient that is not finite, else rows of all kinds.
fn batches(step: usize, micro: u32) -> Vec<Batch> {
    (0..micro as usize)
        .map(|turn| {
            let run = step * micro as usize + turn;
            match (step, turn) {
                (3, _) => Batch::missing(run),
                (5, 0) => {
                    let mut bad = Batch::new(run);
                    bad.grads[0][4] = f32::INFINITY;
                    bad
                }
                _ => Batch::new(run),
            }
        })
        .collect()
}

#[test]
fn touched_rows_follow_the_formulas() -> Result<()> {
    for (device, tolerance) in devices() {
        for (number, optimizer) in optimizers().into_iter().enumerate() {
            for (rule, clip, micro) in RULES.into_iter().flat_map(|r| [(r, 0.7, 1), (r, 0.0, 3), (r, 0.4, 3)]) {
                let setup = Setup { clip, micro, ..Setup::new(optimizer.clone(), rule) };
                let mut trainer = setup.trainer(&device)?;
                assert_eq!(trainer.row_updates().collect::<Vec<_>>(), ["table"]);
                let mut naive = Naive::new(number, &setup);
                for step in 0..8 {
                    let batches = batches(step, micro);
                    let before = (step == 5).then(|| trainer.store().read_blocking("params/tables/1")).transpose()?;
                    batches.iter().try_for_each(|b| b.step(&mut trainer))?;
                    if let Some(before) = before {
                        assert!(matches!(trainer.loss_blocking(), Err(Error::NotFinite { .. })), "{device}");
                        assert_eq!(trainer.store().read_blocking("params/tables/1")?, before);
                    } else {
                        naive.step(&batches);
                    }
                }
                let what = format!("{device}: {optimizer:?} {rule:?} clip {clip} micro {micro}");
                let got = table(&trainer)?;
                for (i, (got, want)) in got.iter().zip(&naive.table).enumerate() {
                    let error = (f64::from(*got) - want.p).abs();
                    assert!(error < tolerance, "{what}: element {i} is {got}, {} expected", want.p);
                }
                let untouched = 9 * WIDTH..10 * WIDTH;
                assert_eq!(got[untouched.clone()], wave(ROWS * WIDTH, 0.1)[untouched], "{what}");
                let file = Checkpoint::from_bytes(bytes(&trainer)?)?;
                let counted = number > 2 && rule == RowUpdates::PerRow;
                assert_eq!(file.contains("optim.count.table"), counted, "{what}");
                if counted {
                    let counts = trainer.store().read_blocking("optim/count/params/tables/1")?;
                    let counts: Vec<i32> = counts.ints().iter().map(|c| *c as i32).collect();
                    assert_eq!(counts, naive.touches, "{what}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_closed_gate_keeps_every_bit() -> Result<()> {
    for device in common::devices() {
        for optimizer in optimizers() {
            for (rule, micro) in RULES.into_iter().flat_map(|r| [(r, 1), (r, 3)]) {
                let setup = Setup { micro, ..Setup::new(optimizer.clone(), rule) };
                let (mut trainer, mut twin) = (setup.trainer(&device)?, setup.trainer(&device)?);
                let good = |t: &mut Trainer, n: u32| (0..micro).try_for_each(|i| Batch::new((n + i) as usize).step(t));
                good(&mut trainer, 0)?;
                good(&mut twin, 0)?;
                for bad in [f32::NAN, f32::INFINITY, 3e38] {
                    let mut batch = Batch::new(7);
                    batch.grads[1][0] = bad;
                    // The last micro-batch, so that those before it are already beside it.
                    (1..micro).try_for_each(|_| Batch::new(7).step(&mut trainer))?;
                    batch.step(&mut trainer)?;
                }
                let slots: Vec<String> = trainer.store().names();
                for name in slots.iter().filter(|n| !n.starts_with("accumulated") && !n.ends_with("progress")) {
                    assert_eq!(
                        trainer.store().read_blocking(name)?,
                        twin.store().read_blocking(name)?,
                        "{device}: {name}"
                    );
                }
                good(&mut trainer, 3)?;
                good(&mut twin, 3)?;
                assert_eq!(table(&trainer)?, table(&twin)?);
            }
        }
    }
    Ok(())
}

/// In the first step all rules do to touched rows what the dense one does; the others only keep the rest as it is.
#[test]
fn the_first_step_is_dense_on_touched_rows() -> Result<()> {
    let (start, batch) = (wave(ROWS * WIDTH, 0.1), Batch::new(2));
    let touched = |row: usize| batch.ids.iter().flatten().any(|id| *id as usize == row);
    for (device, tolerance) in devices() {
        for (optimizer, clip) in optimizers().into_iter().flat_map(|o| [(o.clone(), 0.0), (o, 0.7)]) {
            let run = |rule| {
                let mut trainer = Setup { clip, ..Setup::new(optimizer.clone(), rule) }.trainer(&device)?;
                batch.step(&mut trainer)?;
                table(&trainer)
            };
            let dense = run(RowUpdates::Dense)?;
            for rule in RULES {
                let got = run(rule)?;
                for (i, got) in got.iter().enumerate() {
                    let what = format!("{device}: {optimizer:?} {rule:?} clip {clip} element {i}");
                    if touched(i / WIDTH) {
                        assert!(f64::from((got - dense[i]).abs()) < tolerance && *got != start[i], "{what}: {got}");
                    } else {
                        assert_eq!(*got, start[i], "{what}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_step_that_touches_all_rows_is_dense() -> Result<()> {
    for (device, tolerance) in devices() {
        for optimizer in optimizers() {
            let run = |rule| {
                let setup = Setup { hits: [ROWS, HITS[1]], clip: 0.9, ..Setup::new(optimizer.clone(), rule) };
                let mut trainer = setup.trainer(&device)?;
                (0..6).try_for_each(|run| Batch::full(run).step(&mut trainer))?;
                table(&trainer)
            };
            let dense = run(RowUpdates::Dense)?;
            for rule in RULES {
                for (a, b) in dense.iter().zip(run(rule)?) {
                    assert!(f64::from((a - b).abs()) < tolerance, "{device}: {optimizer:?} {rule:?} {a} {b}");
                }
            }
        }
    }
    Ok(())
}

/// What the rules do at a late first touch, in units of the learning rate: section (iii) of the rules' documentation.
#[test]
fn first_touches_move_as_documented() -> Result<()> {
    let adam = Adam::default().lr(LR);
    let moved = |rule| {
        let mut trainer = Setup::new(adam.clone(), rule).trainer(&Device::cpu_f64())?;
        (0..9).try_for_each(|run| Batch::missing(run).step(&mut trainer))?;
        let before = table(&trainer)?;
        let mut batch = Batch::missing(9);
        batch.ids[0][0] = 6;
        batch.step(&mut trainer)?;
        Ok(f64::from((table(&trainer)?[6 * WIDTH] - before[6 * WIDTH]).abs()) / LR)
    };
    let near = |got: Result<f64>, want: f64| got.map(|got| assert!((got - want).abs() < 5e-3, "{got}, not {want}"));
    near(moved(RowUpdates::PerRow), 1.0)?;
    near(moved(RowUpdates::Global), 0.485)?;
    near(moved(RowUpdates::Dense), 0.485)
}

#[test]
fn runs_repeat_and_resume_bit_for_bit() -> Result<()> {
    for device in common::devices() {
        for (optimizer, micro) in optimizers().into_iter().flat_map(|o| [(o.clone(), 1), (o, 3)]) {
            for rule in RULES {
                let setup = Setup { micro, clip: 0.8, ..Setup::new(optimizer.clone(), rule) };
                let run = |trainer: &mut Trainer, steps: std::ops::Range<usize>| {
                    steps.flat_map(|s| batches(s, micro)).try_for_each(|b| b.step(trainer))
                };
                let (mut whole, mut again) = (setup.trainer(&device)?, setup.trainer(&device)?);
                run(&mut whole, 0..8)?;
                run(&mut again, 0..4)?;
                let mut other = setup.trainer(&device)?;
                run(&mut other, 0..1)?;
                other.from_bytes(bytes(&again)?)?;
                run(&mut again, 4..8)?;
                run(&mut other, 4..8)?;
                assert_eq!(bytes(&whole)?, bytes(&again)?, "{device}: {optimizer:?} {rule:?}");
                assert_eq!(bytes(&whole)?, bytes(&other)?, "{device}: {optimizer:?} {rule:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn other_rules_are_refused() -> Result<()> {
    let device = Device::cpu();
    let rules = [RowUpdates::Dense, RowUpdates::PerRow, RowUpdates::Global];
    for (a, b) in rules.into_iter().flat_map(|a| rules.map(|b| (a, b))) {
        let same = a == b;
        for optimizer in [Optimizer::from(AdamW::default()), Sgd::default().into()] {
            // Without bias correction the two rules for rows are one.
            let sgd = optimizer.name() == "sgd" && a != RowUpdates::Dense && b != RowUpdates::Dense;
            let mut from = Setup::new(optimizer.clone(), a).trainer(&device)?;
            let mut to = Setup::new(optimizer, b).trainer(&device)?;
            Batch::new(0).step(&mut from)?;
            Batch::new(1).step(&mut to)?;
            let before = bytes(&to)?;
            match to.from_bytes(bytes(&from)?) {
                Ok(()) => assert!(same || sgd, "{a:?} {b:?}"),
                Err(Error::Checkpoint { tensor, message }) => {
                    assert!(!same && !sgd, "{a:?} {b:?}: {message}");
                    assert_eq!(tensor.as_deref(), Some("table"));
                    assert!(message.contains("Group::rows"), "{message}");
                    assert_eq!(bytes(&to)?, before);
                }
                Err(other) => return Err(other),
            }
        }
    }
    Ok(())
}

/// Spoiled counts of touches are refused, and nothing changes.
#[test]
fn counts_of_checkpoints_are_checked() -> Result<()> {
    use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
    let mut trainer = Setup::new(Adam::default(), RowUpdates::PerRow).trainer(&Device::cpu())?;
    Batch::new(0).step(&mut trainer)?;
    let good = bytes(&trainer)?;
    let (_, header) = SafeTensors::read_metadata(&good).expect("a good file");
    let spoil = |name: &'static str, dtype: Dtype, shape: Vec<usize>| {
        let all = SafeTensors::deserialize(&good).expect("a good file");
        let zeros = vec![0; 4 * shape.iter().product::<usize>()];
        let tensors: Vec<_> = (all.tensors().into_iter())
            .filter_map(|(n, view)| match (n.as_str(), name) {
                ("optim.count.table", "") => None,
                ("optim.count.table", _) => {
                    Some((name.to_owned(), TensorView::new(dtype, shape.clone(), &zeros).expect("a tensor")))
                }
                _ => Some((n, view)),
            })
            .collect();
        serialize(tensors, header.metadata().clone()).expect("a file")
    };
    let name = "optim.count.table";
    let cases = [
        (spoil(name, Dtype::F32, vec![ROWS]), "U32"),
        (spoil(name, Dtype::U32, vec![ROWS + 1]), "shape"),
        (spoil("optim.count.dense", Dtype::U32, vec![ROWS]), "optim.count.dense"),
        (spoil("", Dtype::U32, vec![ROWS]), "optim.count.table"),
    ];
    for (file, says) in cases {
        match trainer.from_bytes(file) {
            Err(e @ Error::Checkpoint { .. }) => assert!(e.to_string().contains(says), "{e}"),
            other => panic!("{says}: {other:?}"),
        }
        assert_eq!(bytes(&trainer)?, good);
    }
    trainer.from_bytes(good)
}

/// Numbers of workgroups that a GPU plan prints.
fn workgroups(plan: &str) -> Vec<usize> {
    let grid = |line: &str| {
        let (x, y) = line.split_once('[')?.1.split_once(']')?.0.split_once(", ")?;
        Some(x.parse::<usize>().ok()? * y.parse::<usize>().ok()?)
    };
    plan.lines().filter_map(grid).collect()
}

#[test]
fn a_step_costs_what_its_hits_cost() -> Result<()> {
    let (rows, width, hits) = (1 << 17, 8, 96);
    for (device, micro) in common::devices().into_iter().flat_map(|d| [(d.clone(), 1), (d, 3)]) {
        for (optimizer, rule) in optimizers().into_iter().flat_map(|o| RULES.map(|r| (o.clone(), r))) {
            let mut params = Params::new(1);
            let tokens = Embedding::new(&mut params, "tokens", rows, width);
            params.get_mut(tokens.weight())?.group("tables");
            let out = Linear::new(&mut params, "out", width, 1, true);
            let builder = Trainer::builder(&device, params, optimizer)
                .group("tables", Group::default().rows(rule))
                .clip(1.0)
                .accumulate(micro);
            let mut trainer = builder.compile_blocking(|g, p| {
                let ids = g.input("ids", TensorType::u32([hits]));
                out.forward(p, tokens.forward(p, ids).tanh()).square().mean_all()
            })?;
            let ids: Vec<u32> = (0..hits as u32).map(|i| (i * i * 977) % rows as u32).collect();
            let ids = Tensor::u32([hits], ids)?;
            (0..2 * micro).try_for_each(|_| trainer.step(&[("ids", &ids)]))?;
            trainer.loss_blocking()?;
            for plan in trainer.plans() {
                assert!(plan.bytes() < 128 << 10, "{plan}");
                if matches!(device, Device::Gpu(_)) {
                    let sizes = workgroups(&plan.to_string());
                    assert!(!sizes.is_empty() && sizes.iter().all(|n| *n < 64), "{plan}");
                }
                let program = plan.program();
                for step in &program.steps {
                    // Only looking up and the update itself see the table; neither writes another one.
                    let large = step.outputs.iter().any(|o| o.numel() >= rows);
                    let name = step.op.name();
                    assert!(!large || name.ends_with("_rows"), "{name}\n{plan}");
                    let seen = step.reads().any(|(_, o)| o.numel() >= rows);
                    assert!(!seen || name == "gather", "{name}\n{plan}");
                }
            }
            let grows = trainer.store().names().into_iter().filter(|n| n.starts_with("accumulated"));
            for name in grows {
                assert!(trainer.store().read_blocking(&name)?.shape().numel() < rows, "{name}");
            }
        }
    }
    Ok(())
}

#[test]
fn many_hits_of_many_rows() -> Result<()> {
    let (rows, width, hits) = (70_001, 3, 70_003);
    let ids: Vec<u32> = (0..hits as u32).map(|i| (i.wrapping_mul(40_503) >> 3) % (rows as u32 + 9)).collect();
    let ids = Tensor::u32([hits], ids)?;
    let mut tables: Vec<Vec<f32>> = Vec::new();
    for device in common::devices() {
        let mut params = Params::new(1);
        params.add("table", [rows, width], Init::Normal { std: 1.0 }).group("tables");
        let builder = Trainer::builder(&device, params, Adam::default().lr(0.1))
            .group("tables", Group::default().rows(RowUpdates::PerRow));
        let mut trainer = builder.compile_blocking(|g, p| {
            p.get("table").gather(g.input("ids", TensorType::u32([hits]))).square().sum_all()
        })?;
        (0..2).try_for_each(|_| trainer.step(&[("ids", &ids)]))?;
        tables.push(table(&trainer)?);
    }
    for other in &tables[1..] {
        assert!(tables[0].iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-5));
    }
    Ok(())
}

/// A table that the loss also multiplies with has a dense gradient.
#[test]
fn tied_tables_are_updated_densely() -> Result<()> {
    let ids = Tensor::u32([4], vec![1, 3, 1, 0])?;
    for device in common::devices() {
        let run = |rule| {
            let mut params = Params::new(1);
            let tokens = Embedding::new(&mut params, "tokens", 6, 4);
            params.get_mut(tokens.weight())?.group("tables");
            params.add("unused", [5, 2], Init::Ones).group("tables");
            let builder = Trainer::builder(&device, params, AdamW::default().lr(0.1))
                .group("tables", Group::default().rows(rule).weight_decay(0.5));
            let mut trainer = builder.compile_blocking(|g, p| {
                let x = tokens.forward(p, g.input("ids", TensorType::u32([4])));
                x.tanh().matmul(p.get(tokens.weight()).transpose(0, 1)).square().mean_all()
            })?;
            (0..3).try_for_each(|_| trainer.step(&[("ids", &ids)]))?;
            let by_rows: Vec<String> = trainer.row_updates().map(str::to_owned).collect();
            Ok((pollster::block_on(trainer.read_params())?, by_rows))
        };
        let (dense, none) = run(RowUpdates::Dense)?;
        let (tied, by_rows) = run(RowUpdates::PerRow)?;
        assert!(none.is_empty());
        assert_eq!(by_rows, ["unused"]);
        assert_eq!(dense.value("tokens.weight")?, tied.value("tokens.weight")?);
        // Dense updates decay what the loss does not use; a matrix without hits stays.
        assert_ne!(dense.value("unused")?.floats(), [1.0; 10]);
        assert_eq!(tied.value("unused")?.floats(), [1.0; 10]);
    }
    Ok(())
}

/// Several tables in a group, no hits at all in one of them, and a plan of another graph that shares the store.
#[test]
fn groups_of_tables() -> Result<()> {
    for (device, micro) in common::devices().into_iter().flat_map(|d| [(d.clone(), 1), (d, 2)]) {
        let mut params = Params::new(1);
        for (name, rows) in [("x", 5), ("y", 7), ("empty", 0)] {
            params.add(name, [rows, 2], Init::Ones).group("tables");
        }
        let builder = Trainer::builder(&device, params, Adam::default().lr(0.1))
            .group("tables", Group::default().rows(RowUpdates::PerRow))
            .accumulate(micro);
        let mut trainer = builder.compile_blocking(|g, p| {
            let look = |table: &str, ids: &str, n: usize| -> Var<'_> {
                p.get(table).gather(g.input(ids, TensorType::u32([n]))).sum_all()
            };
            look("x", "ids", 3) + look("y", "none", 0) + look("empty", "ids", 3)
        })?;
        let (ids, none) = (Tensor::u32([3], vec![4, 1, 4])?, Tensor::u32([0], vec![])?);
        (0..2 * micro).try_for_each(|_| trainer.step(&[("ids", &ids), ("none", &none)]))?;
        trainer.loss_blocking()?;
        let graph = Graph::new();
        let p = trainer.params().vars(&graph);
        let plan =
            device.compile_blocking(&graph, &[("x", p.get("x").contiguous()), ("y", p.get("y").contiguous())])?;
        plan.run(&wgrad::Feed::new().store(trainer.store()))?;
        let x = plan.read_blocking("x")?;
        for (row, values) in x.floats().chunks(2).enumerate() {
            let want = if [1, 4].contains(&row) { 0.8 } else { 1.0 };
            assert!(values.iter().all(|v| (v - want).abs() < 1e-6), "{device}: {x:?}");
        }
        assert_eq!(plan.read_blocking("y")?.floats(), [1.0; 14]);
    }
    Ok(())
}

/// More hits than one thread squares: the norm has each of them once.
#[test]
fn the_norm_of_many_rows_clips_them() -> Result<()> {
    for device in common::devices() {
        let mut params = Params::new(1);
        params.add("table", [200, 2], Init::Zeros).group("table");
        let mut trainer = Trainer::builder(&device, params, Sgd::default().lr(1.0))
            .group("table", Group::default().rows(RowUpdates::PerRow))
            .clip(1.0)
            .compile_blocking(|g, p| p.get("table").gather(g.input("ids", TensorType::u32([200]))).sum_all())?;
        trainer.step(&[("ids", &Tensor::u32([200], (0..200).collect())?)])?;
        let table = pollster::block_on(trainer.read_params())?.value("table")?;
        // 400 gradients of 1 have a norm of 20.
        assert!(table.floats().iter().all(|x| (x + 0.05).abs() < 1e-6), "{device}: {table:?}");
    }
    Ok(())
}
