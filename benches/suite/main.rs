//! Times of kernels, layers and training steps, overheads and growth, beside other libraries that take turns with ours.
//!
//! `cargo xtask bench` builds and runs this; its options are the ones below.

mod browser;
mod chart;
mod kernels;
mod layers;
mod measure;
mod overhead;
mod peers;
mod process;
mod report;
mod roofline;
mod scale;
mod stats;
mod steps;
mod work;

use anyhow::{Context, Result};
use browser::Browser;
use clap::{Parser, ValueEnum};
use measure::{Effort, measure};
use peers::Peer;
use report::{Results, Row};
use roofline::Roofline;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use wgrad::{Device, GpuOptions};
use work::Case;

#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Args {
    /// Suites to run; all of them by default
    #[arg(long, value_enum, value_delimiter = ',')]
    suite: Vec<Suite>,
    /// cpu, gpu (hardware before software drivers), browser, or part of an adapter's name; the CPU executor, and a hardware
    /// GPU where there is one, by default
    #[arg(long, value_delimiter = ',')]
    device: Vec<String>,
    /// NAME=COMMAND of a process that answers on its standard output, see benches/peers/README.md
    #[arg(long)]
    peer: Vec<String>,
    /// Command of the process that has a browser's page with libraries, see benches/peers/web
    #[arg(long)]
    browser: Option<String>,
    /// Adds every row to this file as a line of JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keeps the results in docs/benchmarks and writes BENCHMARKS.md
    #[arg(long)]
    write: bool,
    /// Few rounds, no large sizes: whether everything works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Rounds; fewer where three of them take half a minute
    #[arg(long)]
    rounds: Option<usize>,
    /// Only operations whose names contain this
    #[arg(long, default_value = "")]
    filter: String,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Suite {
    Kernels,
    Layers,
    Steps,
    Overhead,
    Scale,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Suite::Kernels => "kernels",
            Suite::Layers => "layers",
            Suite::Steps => "steps",
            Suite::Overhead => overhead::SUITE,
            Suite::Scale => "scale",
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    // `cargo test --all-targets` starts benches without it.
    if !args.bench {
        println!("nothing measured: use `cargo xtask bench`");
        return Ok(());
    }
    let suites = if args.suite.is_empty() { Suite::value_variants().to_vec() } else { args.suite.clone() };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (pages, names): (Vec<String>, Vec<String>) =
        args.device.iter().cloned().partition(|name| name == browser::LABEL);
    if !pages.is_empty() {
        in_browser(&args, &suites, root)?;
    }
    let natively = pages.is_empty() || !names.is_empty();
    for (device, label) in if natively { devices(&names)? } else { Vec::new() } {
        println!("\ndevice: {device}");
        // Which peers run on the device they say themselves.
        let peers = args.peer.iter().map(|text| Peer::start(text, if device.is_gpu() { "gpu" } else { "cpu" }));
        let mut peers: Vec<Peer> = peers.collect::<Result<_>>()?;
        peers.retain(|peer| !peer.about.is_empty());
        peers.iter().for_each(|peer| println!("peer: {}: {}", peer.name, peer.about));
        let effort = Effort::new(args.rounds, args.quick);
        let roofline = Roofline::measure(&device, effort.rounds.min(5))?;
        println!("{roofline}");
        for suite in &suites {
            let rows = run(&args, *suite, &device, &label, &mut peers, &roofline, effort)?;
            let versions = peers.iter().map(|peer| format!("{}: {}", peer.name, peer.about)).collect();
            finish(
                &args,
                root,
                results(suite.name(), &label, device.to_string(), versions, &roofline.to_string(), effort, rows),
            )?;
        }
    }
    if args.write { report::write(root) } else { Ok(()) }
}

/// The suites that a page has.
fn in_browser(args: &Args, suites: &[Suite], root: &Path) -> Result<()> {
    let command = args.browser.as_ref().context("the device browser needs --browser")?;
    let mut page = Browser::start(command)?;
    let effort = Effort::new(args.rounds, args.quick);
    println!("\ndevice: {}\n{}", page.about, page.versions().join("\n"));
    for suite in suites {
        let cases = match suite {
            Suite::Kernels => browser::kernels(),
            Suite::Steps => browser::steps(),
            _ => continue,
        };
        let mut rows = Vec::new();
        for case in cases.iter().filter(|case| case.op.contains(&args.filter)) {
            progress(suite.name(), case)?;
            match browser::measure(suite.name(), &mut page, case, effort) {
                Ok(measured) => rows.extend(measured),
                Err(error) => eprintln!("\r{} {}: {error:#}", case.op, case.shape()),
            }
        }
        let (about, versions) = (page.about.clone(), page.versions());
        finish(args, root, results(suite.name(), browser::LABEL, about, versions, "", effort, rows))?;
    }
    Ok(())
}

/// Shows rows, and keeps them where that was asked for.
fn finish(args: &Args, root: &Path, results: Results) -> Result<()> {
    println!("\r{:<60}\n{} on {}\n{}", "", results.suite, results.device, report::terminal(&results.rows));
    if let Some(path) = &args.json {
        append(path, &results.rows)?;
    }
    if args.write && !results.rows.is_empty() { report::keep(root, &results) } else { Ok(()) }
}

fn progress(suite: &str, case: &Case) -> Result<()> {
    print!("\r{:<60}", format!("{suite} {} {}", case.op, case.shape()));
    Ok(std::io::stdout().flush()?)
}

/// Devices with short names.
fn devices(names: &[String]) -> Result<Vec<(Device, String)>> {
    let gpu = |adapter: Option<String>, software| {
        Device::gpu_blocking(GpuOptions { adapter, software, timestamps: true, ..GpuOptions::default() })
    };
    let mut all = Vec::new();
    if names.is_empty() {
        all.push(Device::cpu());
        all.extend(gpu(None, false));
    }
    for name in names {
        all.push(match name.as_str() {
            "cpu" => Device::cpu(),
            "gpu" => gpu(None, true)?,
            name => gpu(Some(name.to_owned()), true)?,
        });
    }
    Ok(all.into_iter().map(|device| (label(&device), device)).map(|(label, device)| (device, label)).collect())
}

fn label(device: &Device) -> String {
    match device.as_gpu().and_then(|gpu| gpu.adapter()) {
        Some(info) => info.name.split(" (").next().unwrap_or(&info.name).to_owned(),
        None => "CPU executor".to_owned(),
    }
}

fn run(
    args: &Args,
    suite: Suite,
    device: &Device,
    label: &str,
    peers: &mut [Peer],
    roofline: &Roofline,
    effort: Effort,
) -> Result<Vec<Row>> {
    let chosen = |op: &str| op.contains(&args.filter);
    let cases = match suite {
        Suite::Kernels => kernels::cases(),
        Suite::Layers => layers::cases(),
        Suite::Steps => steps::cases(),
        Suite::Overhead => {
            let mut rows = overhead::rows(device, label, effort)?;
            let cases: Vec<_> = steps::cases().into_iter().filter(|case| !(case.large && args.quick)).collect();
            rows.extend(overhead::memory(device, label, &cases)?);
            return Ok(rows);
        }
        Suite::Scale => return scale::rows(device, label, effort, args.quick, &chosen),
    };
    let mut rows = Vec::new();
    for case in cases.iter().filter(|case| chosen(case.op) && !(case.large && args.quick)) {
        progress(suite.name(), case)?;
        match measure(suite.name(), device, label, case, peers, Some(roofline), effort) {
            Ok(measured) => rows.extend(measured),
            // What does not fit a device is no reason to lose the other rows.
            Err(error) => eprintln!("\r{} {}: {error:#}", case.op, case.shape()),
        }
    }
    Ok(rows)
}

fn append(path: &Path, rows: &[Row]) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let file = file.as_mut().map_err(|e| anyhow::anyhow!("cannot open {}: {e}", path.display()))?;
    for row in rows {
        writeln!(file, "{}", serde_json::to_string(row)?)?;
    }
    Ok(())
}

fn results(
    suite: &str,
    label: &str,
    adapter: String,
    others: Vec<String>,
    roofline: &str,
    effort: Effort,
    rows: Vec<Row>,
) -> Results {
    let mut versions = vec![format!("wgrad {}", env!("CARGO_PKG_VERSION"))];
    let rustc = std::process::Command::new("rustc").arg("--version").output();
    versions.extend(rustc.ok().map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()));
    versions.extend(others);
    Results {
        suite: suite.to_owned(),
        device: label.to_owned(),
        date: process::date(),
        machine: process::machine(),
        adapter,
        versions,
        roofline: roofline.to_owned(),
        rounds: effort.rounds,
        rows,
    }
}
