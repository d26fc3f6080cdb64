//! `cargo xtask fuzz`: random programs, wrong arguments and spoiled files for as long as one likes.

use anyhow::Result;
use clap::Args;

use crate::lab::Lab;
use crate::package;
use crate::run;

#[derive(Args)]
pub struct FuzzArgs {
    /// For how long each test runs
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// First seed; every program has the next one. Without: the time of day
    #[arg(long)]
    seed: Option<u64>,
    /// Only this test
    #[arg(long, value_parser = TESTS.map(|(name, _)| name))]
    test: Option<String>,
    /// On a second driver, SwiftShader
    #[arg(long)]
    swiftshader: bool,
}

/// What `--test` names, and the ignored test that runs as long as it is told to.
const TESTS: [(&str, &[&str]); 5] = [
    ("random_programs", &["--package", "wgrad", "--test", "random_programs", "--", "fuzz"]),
    ("invalid_programs", &["--package", "wgrad", "--test", "engine", "--", "invalid_programs::fuzz"]),
    ("parsers", &["--package", "wgrad", "--features", "tokenizers", "--test", "parsers", "--", "fuzz"]),
    ("cli", &["--package", "wgrad-cli", "--test", "cli", "--", "spoiled::fuzz"]),
    (WASM, &[]),
];
/// The npm package, in Node.
const WASM: &str = "wasm";

pub fn run(args: &FuzzArgs) -> Result<()> {
    let lab = Lab::new(false, false);
    let gpu = if args.swiftshader { lab.swiftshader()? } else { lab.gpu()? };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let seed = args.seed.unwrap_or(now * 1_000_000);
    println!("from seed {seed} on, on {}", gpu.place());
    let chosen = |name: &str| args.test.as_deref().is_none_or(|test| test == name);
    for (name, test) in TESTS.into_iter().filter(|(name, _)| chosen(name)) {
        let mut command = if name == WASM {
            let node = lab.node()?;
            package::build(node, lab.no_install)?;
            let mut command = node.command("node");
            command.arg("tests/fuzz.js");
            command
        } else {
            let mut cargo = run::cargo();
            cargo.arg("test").args(test).args(["--ignored", "--nocapture"]);
            gpu.apply(&mut cargo);
            // Crates that panic at a spoiled file would fill pages.
            cargo.env("RUST_BACKTRACE", "0");
            cargo
        };
        command.env("WGRAD_FUZZ_MINUTES", args.minutes.to_string()).env("WGRAD_FUZZ_SEED", seed.to_string());
        run::run(&mut command)?;
    }
    Ok(())
}
