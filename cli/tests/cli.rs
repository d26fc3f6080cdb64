//! The program as a user runs it.

mod converted;
mod spoiled;

use std::path::Path;
use std::process::{Command, Output};
use wgrad::nn::{Init, Params};
use wgrad::train::Checkpoint;
use wgrad::{Shape, Tensor};

fn wgrad(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wgrad")).args(args).output().expect("the program starts")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn good(args: &[&str]) -> String {
    let output = wgrad(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output));
    text(&output)
}

fn refused(args: &[&str]) -> String {
    let output = wgrad(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output));
    text(&output)
}

fn write(path: &Path, tensors: &[(&str, &[usize])]) {
    let mut params = Params::new(3);
    for (name, shape) in tensors {
        params.add(*name, Shape(shape.to_vec()), Init::Normal { std: 1.0 });
    }
    params.save(path).expect("the file is written");
}

/// The tensors by which an Infini-transformer is told.
const INFINI: [(&str, &[usize]); 3] = [
    ("token_emb.weight", &[256, 32]),
    ("layers.0.0.fastweight_mem.head_gates", &[2]),
    ("layers.0.0.to_qkv.weight", &[96, 32]),
];

#[test]
fn inspect_lists_tensors_and_says_which_model_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.safetensors");
    write(&file, &INFINI);
    let path = file.to_str().expect("a plain name");
    let said = good(&["inspect", path]);
    assert!(said.contains("token_emb.weight") && said.contains("[256, 32]"), "{said}");
    assert!(said.contains("3 tensors, 11266 numbers, 44.0 KiB"), "{said}");
    assert!(said.contains("fits: infini (infini-transformer-pytorch)") && said.contains("\"dimHead\":16"), "{said}");
    let json: serde_json::Value = serde_json::from_str(&good(&["inspect", path, "--json"])).expect("JSON");
    assert_eq!(json["model"]["options"]["depth"], 1);
    assert_eq!(json["tensors"].as_array().map(Vec::len), Some(3));
    write(&file, &[("something", &[2])]);
    assert!(good(&["inspect", path]).contains("no model known here"));
}

/// A file with a hole of 64 GiB where the tensors are: nothing but the header is read.
#[cfg(unix)]
#[test]
fn inspect_reads_no_tensor() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("large.safetensors");
    let file = std::fs::File::create(&path).expect("a file");
    let rows = 1u64 << 28;
    let tensors = [("token_emb.weight", vec![rows, 64]), ("layers.0.0.fastweight_mem.head_gates", vec![2])];
    let mut end = 0;
    let place = tensors.into_iter().chain([("layers.0.0.to_qkv.weight", vec![96, 64])]).map(|(name, shape)| {
        let start = end;
        end += 4 * shape.iter().product::<u64>();
        (name.to_owned(), serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }))
    });
    let header = serde_json::Value::Object(place.collect()).to_string();
    let length = header.len() as u64;
    std::io::Write::write_all(&mut &file, &[&length.to_le_bytes()[..], header.as_bytes()].concat()).expect("a header");
    file.set_len(8 + length + end).expect("a file with a hole");
    let said = good(&["inspect", path.to_str().expect("a plain name")]);
    assert!(said.contains("[268435456, 64]") && said.contains("fits: infini"), "{said}");
}

#[test]
fn files_that_are_none_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.safetensors");
    let path = file.to_str().expect("a plain name");
    let missing = refused(&["inspect", path]);
    assert!(missing.contains(path) && missing.contains("os error 2"), "{missing}");
    for bytes in [&b""[..], b"no such thing", &[255; 64]] {
        std::fs::write(&file, bytes).expect("the file is written");
        assert!(refused(&["inspect", path]).contains("error: "));
        assert!(refused(&["convert", path, "/dev/null/x"]).contains("error: "));
    }
}

#[test]
fn convert_changes_types_quantises_and_renames() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name).to_str().expect("a plain name").to_owned();
    let (from, to) = (place("from.safetensors"), place("to.safetensors"));
    write(Path::new(&from), &[("m.values.weight", &[10, 7]), ("m.keys", &[3, 5]), ("old.bias", &[4])]);
    let said =
        good(&["convert", &from, &to, "--dtype", "bf16", "--quantize", "values.weight", "--rename", "old.=new."]);
    assert!(said.contains("4 tensors"), "{said}");
    assert!(refused(&["convert", &from, &to]).contains("--force"));
    let listed = good(&["inspect", &to]);
    for part in ["m.values.weight", "I8", "m.values.weight.scales", "BF16", "new.bias"] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    // The library reads it like any quantised file of its own.
    let (before, after) = (Checkpoint::open(&from).expect("a file"), Checkpoint::open(&to).expect("a file"));
    let off = |a: &str, b: &str| {
        let (a, b) = (before.tensor(a).expect("a tensor"), after.tensor(b).expect("a tensor"));
        assert_eq!(a.shape(), b.shape());
        a.floats().iter().zip(b.floats()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(off("m.values.weight", "m.values.weight") < 0.02);
    assert!(off("m.keys", "m.keys") < 0.02 && off("old.bias", "new.bias") < 0.02);
    // Back to floats, and to halves.
    let back = place("back.safetensors");
    good(&["convert", &to, &back, "--dtype", "f32"]);
    let listed = good(&["inspect", &back]);
    assert!(["I8", ".scales", "BF16"].iter().all(|part| !listed.contains(part)), "{listed}");
    let floats = |file: &Checkpoint| file.tensor("m.values.weight").expect("a tensor");
    assert_eq!(floats(&Checkpoint::open(&back).expect("a file")), floats(&after));
    good(&["convert", &from, &to, "--quantize", "values.weight", "--how", "f16", "--force"]);
    let after = Checkpoint::open(&to).expect("a file");
    assert!(good(&["inspect", &to]).contains("F16"));
    assert_eq!(after.tensor("m.keys").expect("a tensor"), before.tensor("m.keys").expect("a tensor"));
    // What cannot be is said.
    let to = place("none.safetensors");
    assert!(refused(&["convert", &from, &to, "--quantize", "nothing"]).contains("no table"));
    assert!(refused(&["convert", &from, &to, "--quantize", "bias"]).contains("tables [rows, width]"));
    assert!(refused(&["convert", &from, &to, "--rename", "old.bias=m.keys"]).contains("two tensors would be called"));
    assert!(!Path::new(&to).exists());
}

#[test]
fn convert_gives_present_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name).to_str().expect("a plain name").to_owned();
    let (from, to) = (place("from.safetensors"), place("to.safetensors"));
    let older: [(&str, &[usize]); 6] = [
        ("pkm.values.0.weight", &[9, 4]),
        ("pkm.values.3.weight", &[4, 4]),
        ("plain.values.weight", &[9, 4]),
        ("layers.1.0.init_state", &[3, 4]),
        ("layers.1.0.to_q.weight", &[4, 4]),
        ("layers.1.0.state_norm.gamma", &[4]),
    ];
    write(Path::new(&from), &older);
    good(&["convert", &from, &to, "--present-names"]);
    let names = Checkpoint::open(&to).expect("a file").names();
    let present = [
        "layers.1.0.state_container.init_state",
        "layers.1.0.state_container.state_norm.gamma",
        "layers.1.0.to_q.weight",
        "pkm.maybe_concat_combine.2.weight",
        "pkm.values.weight",
        "plain.values.weight",
    ];
    assert_eq!(names, present);
    let tensor: Tensor = Checkpoint::open(&to).and_then(|f| f.tensor("pkm.values.weight")).expect("a tensor");
    assert_eq!(tensor.shape()[..], [9, 4]);
}

#[test]
fn adapters_and_bench_run_anywhere() {
    assert!(good(&["adapters"]).contains("would run: "));
    let said = good(&["bench", "--device", "cpu", "--quick"]);
    assert!(said.contains("matrix product") && said.contains("rows of a table"), "{said}");
    assert!(refused(&["bench", "--device", "no such adapter"]).contains("no such adapter"));
}
