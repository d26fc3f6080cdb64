//! `cargo xtask bench`: builds and runs the suite of `benches/suite`, with the peers of `benches/peers`.

use std::env;

use anyhow::{Result, bail};
use clap::Args;

use crate::run;

#[derive(Args)]
pub struct BenchArgs {
    /// kernels, layers, steps, overhead or scale, several by commas; all by default
    #[arg(long)]
    suite: Option<String>,
    /// cpu, gpu or part of an adapter's name, several by commas; the CPU, and a hardware GPU if there is one, by default
    #[arg(long)]
    device: Option<String>,
    /// Libraries to compare with, of burn, candle and torch
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Add all rows to this file, a line of JSON each
    #[arg(long)]
    json: Option<String>,
    /// Keep the results in docs/benchmarks and write BENCHMARKS.md
    #[arg(long)]
    write: bool,
    /// Few rounds, no large sizes: whether everything works
    #[arg(long)]
    quick: bool,
    /// Rounds of turns
    #[arg(long)]
    rounds: Option<usize>,
    /// Only operations whose names contain this
    #[arg(long)]
    filter: Option<String>,
}

pub fn run(args: &BenchArgs) -> Result<()> {
    let peers: Vec<String> = args.peers.iter().map(|name| peer(name)).collect::<Result<_>>()?;
    let mut cargo = run::cargo();
    cargo.args(["bench", "--package", "wgrad", "--bench", "suite", "--"]);
    let texts = [("--suite", &args.suite), ("--device", &args.device), ("--filter", &args.filter)];
    for (name, value) in texts {
        cargo.args(value.iter().flat_map(|value| [name, value]));
    }
    if let Some(json) = &args.json {
        // The program starts in the workspace's root, whoever called from elsewhere meant a file there.
        cargo.arg("--json").arg(env::current_dir()?.join(json));
    }
    cargo.args(args.rounds.iter().flat_map(|rounds| ["--rounds".to_owned(), rounds.to_string()]));
    cargo.args([("--write", args.write), ("--quick", args.quick)].iter().filter(|(_, set)| *set).map(|(name, _)| name));
    cargo.args(peers.iter().flat_map(|peer| ["--peer", peer]));
    run::run(&mut cargo)
}

/// Builds a peer and returns `NAME=COMMAND`, spaces in words as %20.
fn peer(name: &str) -> Result<String> {
    let word = |text: &str| text.replace(' ', "%20");
    let folder = run::root().join("benches/peers");
    match name {
        "burn" | "candle" => {
            let manifest = folder.join("Cargo.toml");
            let target = run::target().join("peers").join(name);
            let mut cargo = run::cargo();
            cargo.args(["build", "--release", "--features", name]).arg("--manifest-path").arg(manifest);
            run::run(cargo.arg("--target-dir").arg(&target))?;
            let program = target.join("release").join(format!("peers{}", env::consts::EXE_SUFFIX));
            Ok(format!("{name}={} {name}", word(&program.to_string_lossy())))
        }
        "torch" => {
            let python = env::var("WGRAD_PYTHON").unwrap_or_else(|_| "python3".into());
            let script = folder.join("torch_peer.py");
            Ok(format!("torch={} {}", word(&python), word(&script.to_string_lossy())))
        }
        other => bail!("no peer is called {other}: there are burn, candle and torch"),
    }
}
