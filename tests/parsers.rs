//! Everything that reads what others wrote, on files spoiled in every way: no crash, no more memory than the file's own
//! size explains, and nothing half loaded.

// The tests' own reader of golden files; here only its parsing is of interest.
#[path = "parity/fixture.rs"]
mod fixture;
#[path = "parsers/names.rs"]
mod names;
#[path = "common/spoil.rs"]
mod spoil;
#[cfg(feature = "tokenizers")]
#[path = "parsers/tokenizers.rs"]
mod tokenizers;

use peak_alloc::PeakAlloc;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView, serialize};
use spoil::{bent, misspelt, reworded};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use wgrad::models::mix::{MemoryConfig, MemoryTransformer};
use wgrad::nn::{Embedding, Init, Linear, Params};
use wgrad::train::{AdamW, Checkpoint, Group, LoadOptions, RowUpdates, Trainer};
use wgrad::{Device, Error, Result, Tensor, TensorType};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Memory is counted for the whole program: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A file may take so many times its size, and a little: names and numbers of the header become strings and maps, and
/// 16-bit floats double.
const TIMES: usize = 40;
const LITTLE: usize = 256 << 10;

fn trainer() -> Result<Trainer> {
    let mut params = Params::new(3);
    let table = Embedding::new(&mut params, "tokens", 9, 4);
    let out = Linear::new(&mut params, "out", 4, 2, true);
    params.get_mut("tokens.weight")?.group("table");
    Trainer::builder(&Device::cpu(), params, AdamW::default().lr(0.1))
        .config("{\"dim\": 4, \"heads\": [1, 2]}")
        .group("table", Group::default().rows(RowUpdates::PerRow))
        .compile_blocking(move |g, p| {
            let ids = g.input("ids", TensorType::u32([6]));
            out.forward(p, table.forward(p, ids)).square().mean_all()
        })
}

fn step(trainer: &mut Trainer) -> Result<()> {
    let ids = Tensor::u32([6], vec![3, 7, 3, 8, 0, 3])?;
    trainer.step(&[("ids", &ids)])
}

fn bytes(trainer: &Trainer) -> Vec<u8> {
    pollster::block_on(trainer.to_bytes()).expect("a checkpoint")
}

fn params() -> Params {
    let mut params = Params::new(1);
    params.add("w", [2, 3], Init::Ones);
    params.add("h", [4], Init::Ones);
    params.add("none", [0, 5], Init::Ones);
    params
}

/// A file with every element type that is read, and some that are not.
fn mixed() -> Vec<u8> {
    let data = [0x3cu8; 48];
    let tensors = [
        ("w", Dtype::F64, vec![2, 3], 48),
        ("h", Dtype::F16, vec![4], 8),
        ("none", Dtype::BF16, vec![0, 5], 0),
        ("i", Dtype::I64, vec![2], 16),
        ("b", Dtype::BOOL, vec![3], 3),
    ];
    let views = tensors.map(|(n, d, s, len)| (n, TensorView::new(d, s, &data[..len]).expect("a tensor")));
    let metadata = HashMap::from([("wgrad.config".to_owned(), "{}".to_owned())]);
    serialize(views, Some(metadata)).expect("a file")
}

// Entry points: any bytes.

/// Opening a file and looking at everything in it.
fn fuzz_checkpoint(data: &[u8]) {
    let Ok(file) = Checkpoint::from_bytes(data.to_vec()) else { return };
    for name in file.names() {
        assert!(file.contains(&name));
        if let Ok(tensor) = file.tensor(&name) {
            assert_eq!(tensor.shape().numel(), tensor.floats().len());
        }
    }
    let _ = (file.metadata("wgrad.config"), file.metadata("no such key"), file.tensor("no such tensor"));
}

/// Parameters from a file: all, or none.
fn fuzz_params(data: &[u8]) {
    let Ok(file) = Checkpoint::from_bytes(data.to_vec()) else { return };
    for (allow_missing, allow_extra, prefix) in [(false, false, ""), (true, true, ""), (true, true, "out.")] {
        let mut target = params();
        let prefix = prefix.to_owned();
        let options = LoadOptions { allow_missing, allow_extra, prefix, ..Default::default() };
        match file.load_into(&mut target, &options) {
            Ok(_) => assert!(target.values().all(|(_, t)| t.shape().numel() == t.floats().len())),
            Err(Error::Checkpoint { .. }) => assert!(target.values().eq(params().values()), "half loaded"),
            Err(other) => panic!("{other}"),
        }
    }
}

/// A trainer that goes on from a file, or stays as it was.
fn fuzz_trainer(trainer: &mut Trainer, good: &[u8], data: &[u8]) {
    match trainer.from_bytes(data.to_vec()) {
        Ok(()) => {
            // It can save and step.
            let saved = bytes(trainer);
            step(trainer).expect("a step");
            trainer.from_bytes(saved).expect("its own file");
            trainer.from_bytes(good.to_vec()).expect("the good file");
        }
        Err(Error::Checkpoint { .. }) => assert!(bytes(trainer) == good, "half loaded"),
        Err(other) => panic!("{other}"),
    }
}

/// The description of a model: refused with its place, or one that can be written, read and built.
fn fuzz_config(text: &str) {
    let config = match MemoryConfig::from_json(text) {
        Ok(config) => config,
        Err(Error::Argument { what, .. }) => return assert!(what.starts_with("MemoryConfig"), "{what}"),
        Err(Error::Limit { hint, limit, .. }) => return assert!(format!("{limit} {hint}").contains("MemoryConfig")),
        Err(other) => panic!("{other}"),
    };
    let again = MemoryConfig::from_json(&config.to_json()).expect("what was written");
    assert_eq!(config, again);
    let Ok(model) = MemoryTransformer::new(config) else { return };
    let params = model.init(1);
    // What cannot be had is an error, not an attempt.
    let numbers = params.iter().fold(0usize, |n, p| n.saturating_add(p.shape().numel()));
    if !(1 << 14..=1 << 44).contains(&numbers) {
        match params.store(&Device::cpu()) {
            Ok(_) => assert!(numbers < 1 << 14),
            Err(Error::Limit { .. } | Error::OutOfMemory { .. }) => assert!(numbers > 1 << 44),
            Err(other) => panic!("{other}"),
        }
    }
}

/// A golden file: a case, or a refusal that names the file.
fn fuzz_fixture(data: &[u8]) {
    match fixture::Case::parse(std::path::Path::new("some/case.safetensors"), data) {
        Ok(case) => {
            assert!(case.tensors.values().all(|t| t.shape().numel() * 4 == t.data().bytes().len()));
            let _ = (case.int("heads", 1), case.size("dim", 1), case.sizes("shape"), case.float("eps", 0.0));
        }
        Err(Error::Argument { what, .. }) => assert!(what.contains("case.safetensors") || what == "fixture", "{what}"),
        Err(Error::Limit { .. }) => {}
        Err(other) => panic!("{other}"),
    }
}

// Spoiled files.

/// Memory that `f` takes at its peak.
fn taken(f: &mut impl FnMut()) -> usize {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    f();
    MEMORY.peak_usage().saturating_sub(before)
}

/// Runs `f` on so many bytes, and holds it to memory in proportion. What only a first use takes, such as a pool of threads, is
/// not the file's: a second try decides.
fn bounded(seed: u64, bytes: usize, mut f: impl FnMut()) {
    let most = TIMES * bytes + LITTLE;
    if taken(&mut f) > most {
        let again = taken(&mut f);
        assert!(again <= most, "seed {seed}: {again} bytes of memory for {bytes}");
    }
}

struct Parsers {
    trainer: Trainer,
    good: Vec<u8>,
    seeds: Vec<Vec<u8>>,
    fixture: Vec<u8>,
}

const FIXTURE: &str = "tests/fixtures/primitives/prim_coor_descent_mask_full_row.safetensors";

/// A description with every kind of layer.
const CONFIG: &str = r#"{"num_tokens": 11, "dim": 8, "segment": 5, "heads": 2, "ff_mult": 2.5, "layers": [
    {"attention": {"kind": "full", "context": 4}, "long_memory": {"memories": 5, "selected": 3, "half": true}},
    {"attention": {"kind": "local", "window": 5}, "feed_forward": {"kind": "product_key", "num_keys": 4, "topk": 2}},
    {"attention": {"kind": "infini", "delta_rule": true}, "feed_forward": {"kind": "routed", "heavy_tokens": 3}},
    {"attention": {"kind": "recurrent", "states": 3, "gate": "lstm", "gates": "dual"}},
    {"attention": {"kind": "routed", "memories": 6, "selected": 3, "heavy_queries": 5}, "feed_forward": {"kind": "dense"}}
]}"#;

impl Parsers {
    fn new() -> Parsers {
        let mut trainer = trainer().expect("a trainer");
        step(&mut trainer).expect("a step");
        let good = bytes(&trainer);
        let params = params().to_bytes().expect("a file");
        let mut seeds = vec![good.clone(), mixed(), params];
        seeds.extend(names::seeds());
        let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(FIXTURE);
        let fixture = std::fs::read(fixture).expect("a golden file");
        fuzz_fixture(&fixture);
        MemoryConfig::from_json(CONFIG).unwrap_or_else(|e| panic!("{e}"));
        Parsers { trainer, good, seeds, fixture }
    }

    fn check(&mut self, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let source = &self.seeds[rng.random_range(0..self.seeds.len())];
        let data = if rng.random() { bent(&mut rng, source) } else { reworded(&mut rng, source) };
        bounded(seed, data.len(), || {
            fuzz_checkpoint(&data);
            names::fuzz_names(&data);
            fuzz_params(&data);
        });
        bounded(seed, data.len() + self.good.len(), || fuzz_trainer(&mut self.trainer, &self.good, &data));
    }

    /// Descriptions of models and golden files.
    fn check_metadata(&self, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(!seed);
        let spoil = |rng: &mut ChaCha8Rng, text: &str| match rng.random() {
            true => String::from_utf8_lossy(&bent(rng, text.as_bytes())).into_owned(),
            false => misspelt(rng, text),
        };
        let text = spoil(&mut rng, CONFIG);
        let golden = if rng.random() { bent(&mut rng, &self.fixture) } else { reworded(&mut rng, &self.fixture) };
        bounded(seed, text.len() + golden.len(), || {
            fuzz_config(&text);
            fuzz_fixture(&golden);
        });
    }
}

#[test]
fn spoiled_files_are_errors() {
    let _alone = ALONE.lock();
    let mut parsers = Parsers::new();
    for seed in 0..6_000 {
        parsers.check(seed);
    }
}

#[test]
fn spoiled_descriptions_and_golden_files_are_errors() {
    let _alone = ALONE.lock();
    let parsers = Parsers::new();
    for seed in 0..6_000 {
        parsers.check_metadata(seed);
    }
}

#[cfg(feature = "tokenizers")]
#[test]
fn spoiled_tokenizers_are_errors() {
    let _alone = ALONE.lock();
    for seed in 0..2_000 {
        tokenizers::check(seed);
    }
}

#[test]
fn spoiled_configurations_are_named() {
    let _alone = ALONE.lock();
    let mut parsers = Parsers::new();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let good = "{\"dim\": 4, \"heads\": [1, 2]}";
    for _ in 0..500 {
        // Text of every kind in the place of the configuration and of the rules of tables.
        let text = String::from_utf8_lossy(&bent(&mut rng, good.as_bytes())).into_owned();
        let (key, old) = if rng.random() { ("wgrad.config", good) } else { ("wgrad.rows", "") };
        let file = safetensors::SafeTensors::deserialize(&parsers.good).expect("a good file");
        let (_, header) = safetensors::SafeTensors::read_metadata(&parsers.good).expect("a good file");
        let mut metadata = header.metadata().clone().unwrap_or_default();
        metadata.insert(key.to_owned(), text.clone());
        let data = serialize(file.tensors(), Some(metadata)).expect("a file");
        let result = parsers.trainer.from_bytes(data);
        let refused = matches!(result, Err(Error::Checkpoint { .. }));
        assert!(refused || text == old || (key == "wgrad.config" && text.is_empty()), "{key} {text}: {result:?}");
    }
}

/// Says which seed it was, if what is tried panics.
struct UnderWay(u64);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("failed: try WGRAD_FUZZ_SEED={}", self.0);
        }
    }
}

/// More spoiled files for `WGRAD_FUZZ_MINUTES`: `cargo xtask fuzz`.
#[test]
#[ignore = "runs as long as it is told to"]
fn fuzz() {
    let _alone = ALONE.lock();
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let end = Instant::now() + Duration::from_secs(60 * number("WGRAD_FUZZ_MINUTES").unwrap_or(1));
    let first = number("WGRAD_FUZZ_SEED").unwrap_or(1_000_000);
    let mut parsers = Parsers::new();
    println!("from seed {first} on");
    let mut tried = 0u64;
    for seed in (first..).take_while(|_| Instant::now() < end) {
        let _under_way = UnderWay(seed);
        parsers.check(seed);
        parsers.check_metadata(seed);
        #[cfg(feature = "tokenizers")]
        tokenizers::check(seed);
        tried += 1;
    }
    println!("{tried} checkpoints, and as many descriptions and golden files, from seed {first} on");
    #[cfg(feature = "tokenizers")]
    println!("and as many tokenizers");
}
