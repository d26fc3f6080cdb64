//! What `wgrad convert` makes of numbers that do not fit and of trainers' checkpoints.

use crate::{good, refused};
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;
use tempfile::TempDir;
use wgrad::nn::{Init, Params};
use wgrad::train::{AdamW, Checkpoint, Group, LoadOptions, RowUpdates, Trainer};
use wgrad::{Device, Tensor, TensorType};

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn place(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().expect("a plain name").to_owned()
}

/// A file of one table [2, 3].
fn table(path: &str, dtype: Dtype, bytes: &[u8]) {
    let view = TensorView::new(dtype, vec![2, 3], bytes).expect("six elements");
    safetensors::serialize_to_file([("values.weight", view)], None, Path::new(path)).expect("the file is written");
}

fn single(values: [f32; 6]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn nothing_becomes_infinite() {
    let folder = folder();
    let (from, to) = (place(&folder, "from.safetensors"), place(&folder, "to.safetensors"));
    let says = |options: &[&str], parts: &[&str]| {
        let said = refused(&[&["convert", &from, &to], options].concat());
        for part in ["values.weight"].iter().chain(parts) {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!Path::new(&to).exists());
    };
    // 65519 rounds down to the largest half, 65520 up.
    table(&from, Dtype::F32, &single([1.0, 2.0, 65_519.0, 4.0, -65_520.0, 6.0]));
    says(&["--dtype", "f16"], &["values.weight[1, 1] is -65520", "65504", "--dtype bf16 or f32"]);
    says(&["--quantize", "weight", "--how", "f16"], &["row 1, column 1", "-65520", "clip it"]);
    good(&["convert", &from, &to, "--dtype", "bf16"]);
    std::fs::remove_file(&to).expect("it was written");
    table(&from, Dtype::F32, &single([1.0, 2.0, 65_519.0, 4.0, f32::MAX, 6.0]));
    says(&["--dtype", "bf16"], &["values.weight[1, 1] is 340282350", "--dtype f32"]);
    let double: Vec<u8> = [1.0f64, 2.0, 3.0, -1e300, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    table(&from, Dtype::F64, &double);
    for options in [&["--dtype", "f32"][..], &["--dtype", "f16"], &["--quantize", "weight"]] {
        says(options, &["values.weight[1, 0] is -1e300", "clip it"]);
    }
    // What is infinite already stays so in floats, and is no table of bytes.
    table(&from, Dtype::F32, &single([1.0, 2.0, 65_519.0, f32::NEG_INFINITY, f32::NAN, 6.0]));
    says(&["--quantize", "weight"], &["row 1, column 0", "-inf"]);
    good(&["convert", &from, &to, "--dtype", "f16"]);
    let tensor = Checkpoint::open(&to).and_then(|f| f.tensor("values.weight")).expect("a tensor");
    assert_eq!(tensor.floats()[..4], [1.0, 2.0, 65_504.0, f32::NEG_INFINITY]);
    assert!(tensor.floats()[4].is_nan());
}

fn params(begin: &str) -> Params {
    let mut params = Params::new(7);
    params.add(format!("{begin}values.weight"), [5, 3], Init::Normal { std: 1.0 }).group("tables");
    params.add(format!("{begin}bias"), [3], Init::Normal { std: 1.0 });
    params
}

/// A table updated by rows, a vector, and a state of the loss.
fn trainer(begin: &str) -> Trainer {
    let state = TensorType::f32([3]);
    Trainer::builder(&Device::cpu(), params(begin), AdamW::default().lr(0.1))
        .group("tables", Group::default().rows(RowUpdates::PerRow))
        .config("{\"what\":\"a test\"}")
        .carry([("old.seen".to_owned(), state.clone())])
        .compile_blocking(|graph, p| {
            let seen = graph.state("old.seen", state.clone());
            let rows = p.get(&format!("{begin}values.weight")).gather(graph.input("ids", TensorType::u32([4])));
            let sum = rows.sum(0).reshape([3]) + p.get(&format!("{begin}bias")) + seen;
            graph.assign(seen, sum * 0.5);
            sum.square().mean_all()
        })
        .unwrap_or_else(|e| panic!("{e}"))
}

fn step(trainer: &mut Trainer, number: u32) {
    let ids = Tensor::u32([4], vec![number % 5, 1, 4, 1]).expect("four");
    trainer.step(&[("ids", &ids)]).unwrap_or_else(|e| panic!("{e}"));
}

fn saved(trainer: &Trainer, path: &str) -> Checkpoint {
    pollster::block_on(trainer.save(path)).unwrap_or_else(|e| panic!("{e}"));
    Checkpoint::open(path).expect("a file")
}

#[test]
fn a_renamed_checkpoint_of_a_trainer_goes_on() {
    let folder = folder();
    let (from, to) = (place(&folder, "from.safetensors"), place(&folder, "to.safetensors"));
    let mut before = trainer("old.");
    (0..3).for_each(|i| step(&mut before, i));
    saved(&before, &from);
    good(&["convert", &from, &to, "--rename", "old.=new.", "--present-names"]);
    let mut after = trainer("new.");
    after.load(&to).unwrap_or_else(|e| panic!("{e}"));
    for trainer in [&mut before, &mut after] {
        (3..5).for_each(|i| step(trainer, i));
    }
    let (before, after) = (saved(&before, &from), saved(&after, &to));
    assert_eq!(before.names().len(), after.names().len());
    for name in before.names() {
        let new = if name.contains("carried") { name.clone() } else { name.replace("old.", "new.") };
        let (a, b) = (before.tensor(&name), after.tensor(&new));
        // Counts are no floats.
        assert!(name.starts_with("optim.count.") && b.is_err() || a.expect("ours") == b.expect("renamed"), "{name}");
    }
}

#[test]
fn a_rounded_checkpoint_of_a_trainer_is_its_parameters() {
    let folder = folder();
    let (from, to) = (place(&folder, "from.safetensors"), place(&folder, "to.safetensors"));
    let mut trained = trainer("");
    (0..3).for_each(|i| step(&mut trained, i));
    saved(&trained, &from);
    let rounded = ["bias", "values.weight"];
    let cases: [(&[&str], &[&str]); 3] = [
        (&["--dtype", "bf16"], &rounded),
        (&["--quantize", "values.weight", "--how", "f16"], &rounded),
        (&["--quantize", "values.weight", "--dtype", "f16"], &["bias", "values.weight", "values.weight.scales"]),
    ];
    for (options, names) in cases {
        let said = good(&[&["convert", &from, &to, "--force"], options].concat());
        assert!(said.contains("training cannot go on from it"), "{said}");
        let file = Checkpoint::open(&to).expect("a file");
        assert_eq!(file.names(), names, "{options:?}");
        assert_eq!(file.metadata_keys(), ["format", "wgrad.config"], "{options:?}");
        // It loads like any file of parameters, and trainers say what it lacks.
        file.load_into(&mut params(""), &LoadOptions::default()).unwrap_or_else(|e| panic!("{options:?}: {e}"));
        let error = trainer("").load(&to).expect_err("no trainer's file").to_string();
        assert!(error.contains("no trainer's state"), "{error}");
    }
    // The file as it was, otherwise.
    good(&["convert", &from, &to, "--force"]);
    trainer("").load(&to).unwrap_or_else(|e| panic!("{e}"));
}
