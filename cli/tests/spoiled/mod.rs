//! Spoiled files before the program's readers: an answer or an error, no panic, no signal, no memory beyond what the file's size
//! explains, and nothing half written.

#[path = "../../../tests/parsers/names.rs"]
mod names;
#[path = "../../../tests/common/spoil.rs"]
mod spoil;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use wgrad::train::Checkpoint;

/// Kilobytes of address space for a file of some kilobytes, most of it the program's own.
const MEMORY: u64 = 600_000;

fn bounded(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_wgrad");
    let mut command = if cfg!(target_os = "linux") {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -v {MEMORY}; exec \"$0\" \"$@\""), program]);
        shell
    } else {
        Command::new(program)
    };
    command.args(args).output().expect("the program starts")
}

const USES: [&[&str]; 6] = [
    &["inspect"],
    &["inspect", "--json"],
    &["convert", "--dtype", "bf16"],
    &["convert", "--present-names"],
    &["convert", "--quantize", "weight", "--dtype", "f16"],
    &["convert", "--quantize", "weight", "--how", "f16", "--rename", "layers.=l."],
];

/// A whole file with any numbers in it.
fn renumbered(rng: &mut ChaCha8Rng, good: &[u8]) -> Vec<u8> {
    let mut data = good.to_vec();
    let header = u64::from_le_bytes(good[..8].try_into().expect("eight bytes")) as usize;
    data[8 + header..].iter_mut().for_each(|byte| *byte = rng.random());
    data
}

/// Whether the program took the file.
fn check(seed: u64, files: &[Vec<u8>], folder: &Path) -> bool {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let good = &files[rng.random_range(0..files.len())];
    let data = match rng.random_range(0..3) {
        0 => spoil::bent(&mut rng, good),
        1 => spoil::reworded(&mut rng, good),
        _ => renumbered(&mut rng, good),
    };
    let [from, to] = ["from.safetensors", "to.safetensors"].map(|name| folder.join(name));
    std::fs::write(&from, &data).expect("a file");
    let _ = std::fs::remove_file(&to);
    let mut args = USES[rng.random_range(0..USES.len())].to_vec();
    let [from, written] = [&from, &to].map(|path| path.to_str().expect("a plain name"));
    let converts = args[0] == "convert";
    args.insert(1, from);
    if converts {
        args.insert(2, written);
    }
    let output = bounded(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {
            assert!(!converts || Checkpoint::open(&to).is_ok(), "seed {seed}: {args:?} wrote what cannot be read");
            true
        }
        Some(1) if said.starts_with("error: ") => {
            assert!(!to.exists(), "seed {seed}: {args:?} left half a file");
            false
        }
        code => panic!("seed {seed}: {args:?} ends with {code:?}: {said}"),
    }
}

fn try_all(seeds: impl Iterator<Item = u64>) -> [u64; 2] {
    let folder = tempfile::tempdir().expect("a folder");
    let files = names::seeds();
    files.iter().for_each(|file| names::fuzz_names(file));
    let mut counts = [0; 2];
    for seed in seeds {
        counts[usize::from(check(seed, &files, folder.path()))] += 1;
    }
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert!(left <= 2, "{left} files are left");
    counts
}

#[test]
fn spoiled_files_are_answered() {
    let [refused, taken] = try_all(0..150);
    assert!(refused > 20 && taken > 20, "{refused} refused, {taken} taken");
}

/// More of them for `WGRAD_FUZZ_MINUTES`: `cargo xtask fuzz --test cli`.
#[test]
#[ignore = "runs as long as it is told to"]
fn fuzz() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let end = Instant::now() + Duration::from_secs(60 * number("WGRAD_FUZZ_MINUTES").unwrap_or(1));
    let first = number("WGRAD_FUZZ_SEED").unwrap_or(1_000_000);
    let [refused, taken] = try_all((first..).take_while(|_| Instant::now() < end));
    println!("from seed {first} on: {refused} files refused, {taken} taken by the program");
}
