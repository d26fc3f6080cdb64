//! `cargo xtask bench`: builds and runs the suite of `benches/suite`, with the peers of `benches/peers`: processes, and
//! libraries of a browser's page.

use std::env;

use anyhow::{Result, bail};
use clap::Args;

use crate::setup::Setup;
use crate::{find, package, run, web};

#[derive(Args)]
pub struct BenchArgs {
    /// kernels, layers, steps, overhead or scale, several by commas; all by default
    #[arg(long)]
    suite: Option<String>,
    /// cpu, gpu, browser or part of an adapter's name, several by commas; the CPU, and a hardware GPU if there is one, by
    /// default
    #[arg(long)]
    device: Option<String>,
    /// Libraries to compare with: burn, candle and torch, and in the browser tfjs, ort and jax
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
    let (pages, others): (Vec<String>, Vec<String>) =
        args.peers.iter().cloned().partition(|name| PAGE.contains(&name.as_str()));
    let peers: Vec<String> = others.iter().map(|name| peer(name)).collect::<Result<_>>()?;
    let browser = "browser".to_owned();
    let device = match &args.device {
        None if !pages.is_empty() && others.is_empty() => Some(browser.clone()),
        device => device.clone(),
    };
    let page = device.iter().any(|names| names.split(',').any(|name| name == browser));
    if !pages.is_empty() && !page {
        bail!("{} run in a browser: add `--device browser`", pages.join(", "));
    }
    let mut cargo = run::cargo();
    if page {
        // Natively the same adapter as the browser's.
        let (chromium, _) = find::chromium()?;
        if let (None, Ok(manifest)) = (env::var_os("VK_DRIVER_FILES"), find::swiftshader(&chromium)) {
            cargo.env("VK_DRIVER_FILES", manifest);
        }
        cargo.env("WGRAD_CHROMIUM", chromium);
    }
    cargo.args(["bench", "--package", "wgrad", "--bench", "suite", "--"]);
    if page {
        cargo.args(["--browser", &command(&pages)?]);
    }
    let texts = [("--suite", &args.suite), ("--device", &device), ("--filter", &args.filter)];
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

/// Those of the page in `benches/peers/web`.
const PAGE: [&str; 3] = ["tfjs", "ort", "jax"];

/// Builds the npm package, installs the page's libraries, and returns the command that opens the page.
fn command(pages: &[String]) -> Result<String> {
    const FOLDER: &str = "benches/peers/web";
    let mut setup = Setup::new(false);
    setup.target("wasm32-unknown-unknown")?;
    let node = setup.node()?;
    package::build(&node, false)?;
    web::install(&node, FOLDER, false)?;
    let script = run::root().join(FOLDER).join("peer.js");
    Ok(format!("{} {} {}", word(&node.program()), word(&script.to_string_lossy()), pages.join(",")))
}

/// A word of a command line that is cut at spaces.
fn word(text: &str) -> String {
    text.replace(' ', "%20")
}

/// Builds a peer and returns `NAME=COMMAND`, spaces in words as %20.
fn peer(name: &str) -> Result<String> {
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
            // That of `test --pytorch`, if it was run.
            let own = Some(crate::setup::python()).filter(|own| own.is_file());
            let own = own.map_or_else(|| "python3".into(), |own| own.to_string_lossy().into_owned());
            let python = env::var("WGRAD_PYTHON").unwrap_or(own);
            let script = folder.join("torch_peer.py");
            Ok(format!("torch={} {}", word(&python), word(&script.to_string_lossy())))
        }
        other => bail!("no peer is called {other}: there are burn, candle, torch, tfjs, ort and jax"),
    }
}
