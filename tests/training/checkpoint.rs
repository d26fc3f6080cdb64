//! Checkpoints: going on bit for bit, files from elsewhere, and files that must change nothing.

use crate::common;
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::collections::HashMap;
use wgrad::graph::Mode;
use wgrad::nn::{Init, Linear, Params};
use wgrad::train::{AdamW, Checkpoint, LoadOptions, Optimizer, Schedule, Sgd, Trainer};
use wgrad::{Device, Error, Result, Tensor, TensorType};

const BATCH: usize = 8;

fn batch(step: usize) -> Result<[Tensor; 2]> {
    let wave = |i: usize, k: f64| ((i as f64 + 1.0) * k + step as f64 * 0.61).sin() as f32;
    let x: Vec<f32> = (0..2 * BATCH).map(|i| wave(i, 1.9)).collect();
    let y = x.chunks(2).map(|p| p[0] * p[1]).collect();
    Ok([Tensor::f32([BATCH, 2], x)?, Tensor::f32([BATCH, 1], y)?])
}

/// A small network with dropout and a buffer.
fn trainer(device: &Device, optimizer: impl Into<Optimizer>, seed: u64, micro: u32) -> Result<Trainer> {
    let mut params = Params::new(seed);
    let a = Linear::new(&mut params, "a", 2, 24, true);
    let b = Linear::new(&mut params, "b", 24, 1, true);
    params.add("scale", [1], Init::Constant(0.5)).buffer();
    Trainer::builder(device, params, optimizer)
        .clip(1.0)
        .accumulate(micro)
        .config("{\"width\":24}")
        .schedule(Schedule::Cosine { warmup: 3, total: 20, floor: 0.1 })
        .compile_blocking(move |g, p| {
            let x = g.input("x", TensorType::f32([BATCH, 2]));
            let y = g.input("y", TensorType::f32([BATCH, 1]));
            let h = a.forward(p, x).tanh();
            let h = h.dropout(0.2, 1, Mode::Train);
            (b.forward(p, h) * p.get("scale") - y).square().mean_all()
        })
}

fn run(trainer: &mut Trainer, steps: std::ops::Range<usize>) -> Result<Vec<u32>> {
    steps
        .map(|s| {
            let [x, y] = batch(s)?;
            trainer.step(&[("x", &x), ("y", &y)])?;
            Ok(trainer.loss_blocking().map_or(0, f32::to_bits))
        })
        .collect()
}

fn bytes(trainer: &Trainer) -> Result<Vec<u8>> {
    pollster::block_on(trainer.to_bytes())
}

/// All tensors of a checkpoint, in order.
fn contents(bytes: Vec<u8>) -> Result<Vec<(String, Tensor)>> {
    let file = Checkpoint::from_bytes(bytes)?;
    file.names().into_iter().map(|n| Ok((n.clone(), file.tensor(&n)?))).collect()
}

#[test]
fn resumed_steps_are_the_same_bit_for_bit() -> Result<()> {
    let optimizers =
        || -> [Optimizer; 2] { [AdamW::default().lr(0.03).into(), Sgd::default().lr(0.05).momentum(0.9).into()] };
    for device in common::devices() {
        for (optimizer, micro) in optimizers().into_iter().zip([1, 2]) {
            let mut whole = trainer(&device, optimizer.clone(), 9, micro)?;
            let all = run(&mut whole, 0..20)?;
            let mut first = trainer(&device, optimizer.clone(), 9, micro)?;
            run(&mut first, 0..10)?;
            let saved = bytes(&first)?;
            let mut second = trainer(&device, optimizer, 1234, micro)?;
            second.from_bytes(saved)?;
            assert!(matches!(second.loss_blocking(), Err(Error::Argument { .. })));
            let rest = run(&mut second, 10..20)?;
            assert_eq!(all[10 + micro as usize..], rest[micro as usize..], "{device}");
            // Equal contents also give equal files.
            assert_eq!(bytes(&whole)?, bytes(&second)?);
        }
    }
    Ok(())
}

#[test]
fn files_are_replaced_whole() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("wgrad-checkpoint-{}", std::process::id()));
    let io = |e: std::io::Error| Error::argument("test folder", e.to_string());
    std::fs::create_dir_all(&folder).map_err(io)?;
    let path = folder.join("model.safetensors");
    let mut t = trainer(&Device::cpu(), AdamW::default(), 1, 1)?;
    pollster::block_on(t.save(&path))?;
    run(&mut t, 0..2)?;
    pollster::block_on(t.save(&path))?;
    let mut other = trainer(&Device::cpu(), AdamW::default(), 2, 1)?;
    other.load(&path)?;
    assert_eq!(contents(bytes(&t)?)?, contents(bytes(&other)?)?);
    assert_eq!(other.steps(), 2);
    // Parameters alone come from the same file.
    let mut params = other.params().clone();
    let options = LoadOptions::default();
    params.load(&path, &options)?;
    assert_eq!(Checkpoint::open(&path)?.metadata("wgrad.config"), Some("{\"width\":24}"));
    let nowhere = folder.join("missing").join("model.safetensors");
    assert!(matches!(params.save(&nowhere), Err(Error::Io { .. })));
    assert!(matches!(params.load(&nowhere, &options), Err(Error::Io { .. })));
    let files = std::fs::read_dir(&folder).map_err(io)?.count();
    assert_eq!(files, 1, "temporary files are left");
    std::fs::remove_dir_all(&folder).map_err(io)
}

/// A safetensors file of given tensors.
fn file(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)], metadata: &[(&str, &str)]) -> Vec<u8> {
    let views = tensors.iter().map(|(n, d, s, b)| {
        let view = TensorView::new(*d, s.clone(), b).expect("a valid tensor");
        (*n, view)
    });
    let metadata: HashMap<String, String> = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    serialize(views, Some(metadata)).expect("a valid file")
}

/// The tensors of a good checkpoint, to spoil.
type Entry = (String, Dtype, Vec<usize>, Vec<u8>);

fn spoiled(good: &[u8], spoil: impl Fn(&mut Vec<Entry>, &mut HashMap<String, String>)) -> Vec<u8> {
    let (_, header) = safetensors::SafeTensors::read_metadata(good).expect("a good file");
    let all = safetensors::SafeTensors::deserialize(good).expect("a good file");
    let mut tensors: Vec<Entry> =
        all.tensors().into_iter().map(|(n, v)| (n, v.dtype(), v.shape().to_vec(), v.data().to_vec())).collect();
    let mut metadata = header.metadata().clone().unwrap_or_default();
    spoil(&mut tensors, &mut metadata);
    let tensors: Vec<_> = tensors.iter().map(|(n, d, s, b)| (n.as_str(), *d, s.clone(), b.clone())).collect();
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    file(&tensors, &metadata)
}

#[test]
fn bad_files_change_nothing() -> Result<()> {
    let mut source = trainer(&Device::cpu(), AdamW::default(), 1, 1)?;
    run(&mut source, 0..3)?;
    let good = bytes(&source)?;
    let rename = |from: &'static str, to: &'static str| {
        spoiled(&good, move |t, _| {
            t.iter_mut().filter(|t| t.0 == from).for_each(|t| t.0 = to.to_owned());
        })
    };
    let meta = |key: &'static str, value: &'static str| {
        spoiled(&good, move |_, m| {
            m.insert(key.to_owned(), value.to_owned());
        })
    };
    let mut flipped = good.clone();
    flipped[20] ^= 0x55;
    let mut huge = good.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "safetensors"),
        ("no header", good[..6].to_vec(), "safetensors"),
        ("half a header", good[..40].to_vec(), "cut short"),
        ("one byte short", good[..good.len() - 1].to_vec(), "cut short"),
        ("one byte long", [&good[..], &[0]].concat(), "safetensors"),
        ("damaged header", flipped, "safetensors"),
        ("endless header", huge, "safetensors"),
        ("missing parameter", rename("b.weight", "c.weight"), "b.weight"),
        ("missing moment", rename("optim.v.a.bias", "optim.w.a.bias"), "optim.w.a.bias"),
        ("extra tensor", spoiled(&good, |t, _| t.push(("more".into(), Dtype::F32, vec![1], vec![0; 4]))), "more"),
        (
            "transposed",
            spoiled(&good, |t, _| {
                t.iter_mut().filter(|t| t.0 == "a.weight").for_each(|t| t.2.reverse());
            }),
            "expected shape [24, 2], the file has [2, 24]",
        ),
        (
            "integers",
            spoiled(&good, |t, _| {
                t.iter_mut().filter(|t| t.0 == "a.bias").for_each(|t| t.1 = Dtype::I32);
            }),
            "I32",
        ),
        ("other optimizer", meta("wgrad.optimizer", "sgd"), "adamw"),
        ("step is no number", meta("wgrad.steps", "three"), "wgrad.steps"),
    ];
    for device in common::devices() {
        let mut target = trainer(&device, AdamW::default(), 2, 1)?;
        run(&mut target, 0..2)?;
        let before = bytes(&target)?;
        for (name, bad, says) in &cases {
            match target.from_bytes(bad.clone()) {
                Err(e @ Error::Checkpoint { .. }) => {
                    assert!(e.to_string().contains(says), "{name}: {e}");
                }
                other => panic!("{name}: {other:?}"),
            }
            assert_eq!(contents(bytes(&target)?)?, contents(before.clone())?, "{name}");
            assert_eq!(target.steps(), 2);
        }
        target.from_bytes(good.clone())?;
        assert_eq!(contents(bytes(&target)?)?, contents(good.clone())?);
    }
    Ok(())
}

#[test]
fn parameters_from_elsewhere() -> Result<()> {
    let mut params = Params::new(1);
    params.add("w", [2, 2], Init::Zeros);
    params.add("h", [2], Init::Ones);
    params.add("s", [], Init::Ones);
    let single: Vec<u8> = [1.0f32, -2.0, 3.5, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    // 1.5 and -0.25 as f16, 2 as bf16.
    let bytes = file(
        &[
            ("model.w", Dtype::F32, vec![2, 2], single),
            ("model.h", Dtype::F16, vec![2], vec![0x00, 0x3e, 0x00, 0xb4]),
            ("model.s", Dtype::BF16, vec![], vec![0x00, 0x40]),
            ("other.counter", Dtype::I64, vec![1], vec![0; 8]),
        ],
        &[],
    );
    let file = Checkpoint::from_bytes(bytes)?;
    let prefix = LoadOptions { prefix: "model.".into(), ..Default::default() };
    let strict = file.load_into(&mut params, &LoadOptions::default());
    assert!(matches!(strict, Err(Error::Checkpoint { .. })));
    assert_eq!(params.value("w")?.floats(), [0.0; 4]);
    file.load_into(&mut params, &prefix)?;
    assert_eq!(params.value("w")?.floats(), [1.0, -2.0, 3.5, 4.0]);
    assert_eq!(params.value("h")?.floats(), [1.5, -0.25]);
    assert_eq!(params.value("s")?.floats(), [2.0]);
    params.add("new", [3], Init::Ones);
    assert!(file.load_into(&mut params, &prefix).is_err());
    let loose = LoadOptions { allow_missing: true, ..prefix };
    assert_eq!(file.load_into(&mut params, &loose)?.missing, ["new"]);
    let mut small = Params::new(1);
    small.add("w", [2, 2], Init::Zeros);
    assert!(file.load_into(&mut small, &LoadOptions { allow_missing: false, ..loose.clone() }).is_err());
    let wide = LoadOptions { allow_extra: true, ..loose };
    assert_eq!(file.load_into(&mut small, &wide)?.extra, ["model.h", "model.s"]);
    // A file of our own comes back as it was.
    let mut copy = Params::new(77);
    copy.add("w", [2, 2], Init::Zeros);
    Checkpoint::from_bytes(small.to_bytes()?)?.load_into(&mut copy, &LoadOptions::default())?;
    assert_eq!(copy.value("w")?, small.value("w")?);
    Ok(())
}

#[test]
fn half_a_step_is_not_saved() -> Result<()> {
    let mut t = trainer(&Device::cpu(), AdamW::default(), 1, 2)?;
    run(&mut t, 0..1)?;
    assert!(matches!(bytes(&t), Err(Error::Argument { .. })));
    run(&mut t, 1..2)?;
    bytes(&t).map(|_| ())
}
