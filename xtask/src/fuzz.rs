//! `cargo xtask fuzz`: random programs and mutated files for as long as one likes.

use anyhow::Result;
use clap::Args;

use crate::lab::Lab;
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
    #[arg(long, value_parser = TESTS.map(|[name, ..]| name))]
    test: Option<String>,
    /// On a second driver, SwiftShader
    #[arg(long)]
    swiftshader: bool,
}

/// What `--test` names, the test program and the ignored test in it, which runs as long as it is told to.
const TESTS: [[&str; 3]; 3] = [
    ["random_programs", "random_programs", "fuzz"],
    ["invalid_programs", "engine", "invalid_programs::fuzz"],
    ["parsers", "parsers", "fuzz"],
];

pub fn run(args: &FuzzArgs) -> Result<()> {
    let lab = Lab::new(false, false);
    let gpu = if args.swiftshader { lab.swiftshader()? } else { lab.gpu()? };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let seed = args.seed.unwrap_or(now * 1_000_000);
    println!("from seed {seed} on, on {}", gpu.place());
    let chosen = |name: &str| args.test.as_deref().is_none_or(|test| test == name);
    for [_, program, test] in TESTS.into_iter().filter(|[name, ..]| chosen(name)) {
        let mut cargo = run::cargo();
        cargo.args(["test", "--package", "wgrad", "--test", program, "--", "--ignored", "--nocapture", test]);
        gpu.apply(&mut cargo);
        cargo.env("WGRAD_FUZZ_MINUTES", args.minutes.to_string()).env("WGRAD_FUZZ_SEED", seed.to_string());
        run::run(&mut cargo)?;
    }
    Ok(())
}
