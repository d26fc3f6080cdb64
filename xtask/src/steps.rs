//! The steps of `cargo xtask test`, in the order in which they run: the quick ones first.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::claims;
use crate::counts::Counts;
use crate::dependencies;
use crate::examples;
use crate::floors;
use crate::guide;
use crate::job;
use crate::lab::{Gpu, Lab, Need};
use crate::package;
use crate::pytorch;
use crate::run;
use crate::summary::{Done, Stop};
use crate::test::{Step, version};
use crate::validation;
use crate::web;

const WASM: &str = "wasm32-unknown-unknown";

pub const ALL: &[Step] = &[
    Step { name: "fmt", about: "formatting", needs: &[], run: fmt },
    Step { name: "floors", about: "imports run down the floors only", needs: &[], run: imports },
    Step { name: "clippy", about: "lints, native", needs: &[], run: clippy },
    Step { name: "clippy-wasm", about: "lints, wasm32", needs: &[], run: clippy_wasm },
    Step { name: "docs", about: "the documentation builds without warnings", needs: &[], run: docs },
    Step { name: "guide", about: "the guide is built, and its links lead somewhere", needs: &[], run: book },
    Step {
        name: "wasm-tree",
        about: "the wasm holds no shader translator and no native core",
        needs: &[],
        run: wasm_tree,
    },
    Step {
        name: "dependencies",
        about: "licences and sources of everything the crate builds on",
        needs: &[],
        run: dependencies::step,
    },
    Step { name: "windows", about: "type-check for Windows", needs: &[], run: windows },
    Step { name: "macos", about: "type-check for macOS", needs: &[], run: macos },
    Step { name: "unit", about: "unit tests", needs: &[], run: unit },
    Step { name: "doctests", about: "the examples in the documentation", needs: &[], run: doctests },
    Step { name: "shaders", about: "every shader through naga, to SPIR-V, MSL and HLSL", needs: &[], run: shaders },
    Step { name: "native", about: "kernels, gradients, parity, faults", needs: &[Need::Gpu], run: native },
    Step { name: "portable", about: "the same within WebGPU's default limits", needs: &[Need::Gpu], run: portable },
    Step {
        name: "swiftshader",
        about: "kernels and failing allocations on a second driver",
        needs: &[Need::SwiftShader],
        run: swiftshader,
    },
    Step { name: "parity", about: "the references' golden results, a line each", needs: &[Need::Gpu], run: parity },
    Step {
        name: "hardware-kernels",
        about: "the kernel variants that hardware gets, on the software driver",
        needs: &[Need::Gpu],
        run: hardware_kernels,
    },
    Step {
        name: "validation",
        about: "plans, faults and kernels under Vulkan's validation layer",
        needs: &[Need::Gpu, Need::ValidationLayer],
        run: validation::step,
    },
    Step { name: "job", about: "the main job at a small size, resumed and interrupted", needs: &[], run: job },
    Step { name: "examples", about: "every example at a small size", needs: &[Need::Gpu], run: all_examples },
    Step { name: "claims", about: "the programs of docs/claims.md, a few steps each", needs: &[], run: claims },
    Step { name: "package", about: "the npm package, its weight and its manners", needs: &[Need::Node], run: npm },
    Step { name: "web", about: "the page", needs: &[Need::Node], run: page },
    Step {
        name: "browser-shaders",
        about: "every shader through the browser's compiler",
        needs: &[Need::Node, Need::Chromium],
        run: browser_shaders,
    },
    Step {
        name: "browser",
        about: "the page in Chromium, with WebGPU and without",
        needs: &[Need::Node, Need::Chromium],
        run: browser,
    },
    Step {
        name: "packed",
        about: "the packed npm package in a plain page, in Vite's and webpack's, and in Node, alone and with Dawn",
        needs: &[Need::Node, Need::Chromium, Need::SwiftShader],
        run: packed,
    },
];

/// What `cargo xtask test --mpi` runs: `mpi/` lies outside the workspace, so that nothing else needs Open MPI.
pub const MPI: &[Step] = &[
    Step { name: "mpi-fmt", about: "formatting of mpi/", needs: &[], run: mpi_fmt },
    Step { name: "mpi-clippy", about: "lints of mpi/", needs: &[Need::Mpi], run: mpi_clippy },
    Step {
        name: "mpi-docs",
        about: "documentation of mpi/ and its examples, the guide's among them",
        needs: &[Need::Mpi],
        run: mpi_docs,
    },
    Step {
        name: "mpi",
        about: "2 and 4 ranks on this machine make the steps of one process",
        needs: &[Need::Mpi, Need::Gpu],
        run: mpi,
    },
];

/// What `cargo xtask test --pytorch` runs: it needs PyTorch on the other side.
pub const PYTORCH: &[Step] = &[Step {
    name: "pytorch",
    about: "checkpoints of the four originals, from PyTorch and back",
    needs: &[Need::PyTorch, Need::Gpu],
    run: pytorch::step,
}];

fn mpi_cargo() -> Command {
    let mut cargo = run::cargo();
    // A folder of its own: its lock file is another one, and cargo would take one build of wgrad for the other.
    cargo.current_dir(run::root().join("mpi")).env("CARGO_TARGET_DIR", run::target().join("mpi"));
    cargo
}

fn mpi_fmt(_: &Lab) -> Result<Done, Stop> {
    run::run(mpi_cargo().args(["fmt", "--check"]))?;
    done(version("rustfmt", &["--version"]), "")
}

fn mpi_clippy(lab: &Lab) -> Result<Done, Stop> {
    lab.mpi()?;
    run::run(mpi_cargo().args(["clippy", "--all-targets", "--", "-D", "warnings"]))?;
    done(version("cargo-clippy", &["--version"]), "")
}

fn mpi_docs(lab: &Lab) -> Result<Done, Stop> {
    lab.mpi()?;
    run::run(mpi_cargo().args(["doc", "--no-deps", "--lib"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    let mut cargo = mpi_cargo();
    let mut counts = Counts::default();
    counts.watch(cargo.args(["test", "--doc"]))?;
    done(version("rustdoc", &["--version"]), &counts.note()?)
}

fn mpi(lab: &Lab) -> Result<Done, Stop> {
    let version = lab.mpi()?.clone();
    // The tests start the example.
    run::run(mpi_cargo().args(["build", "--examples"]))?;
    let mut cargo = mpi_cargo();
    cargo.args(["test", "--lib", "--tests", "--", "--test-threads=1", "--nocapture"]);
    let mut place = format!("{version}, CPU executor");
    // The ranks of one test share an adapter.
    match lab.gpu() {
        Ok(gpu) => {
            gpu.apply(&mut cargo);
            place = format!("{place} and {}", gpu.place());
        }
        Err(Stop::Missing(_)) if lab.allow_missing => {}
        Err(stop) => return Err(stop),
    }
    let mut counts = Counts::default();
    counts.watch(&mut cargo)?;
    done(place, &counts.note()?)
}

fn fmt(_: &Lab) -> Result<Done, Stop> {
    run::run(run::cargo().args(["fmt", "--all", "--check"]))?;
    done(version("rustfmt", &["--version"]), "")
}

fn imports(_: &Lab) -> Result<Done, Stop> {
    let note = floors::check()?;
    done("ARCHITECTURE.md".into(), &note)
}

fn clippy(_: &Lab) -> Result<Done, Stop> {
    let mut cargo = run::cargo();
    run::run(cargo.args(["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]))?;
    done(version("cargo-clippy", &["--version"]), "")
}

fn clippy_wasm(lab: &Lab) -> Result<Done, Stop> {
    lab.target(WASM).map_err(|error| Stop::Missing(format!("{error:#}")))?;
    run::run(run::cargo().args(["clippy", "--target", WASM, "--lib", "--", "-D", "warnings"]))?;
    done(version("cargo-clippy", &["--version"]), "")
}

fn docs(_: &Lab) -> Result<Done, Stop> {
    let mut cargo = run::cargo();
    run::run(cargo.args(["doc", "--no-deps", "--lib", "--package", "wgrad"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    done(version("rustdoc", &["--version"]), "")
}

fn book(_: &Lab) -> Result<Done, Stop> {
    let note = guide::build()?;
    done("mdBook".into(), &note)
}

fn wasm_tree(_: &Lab) -> Result<Done, Stop> {
    let mut cargo = run::cargo();
    let tree = run::output(cargo.args(["tree", "--target", WASM, "-e", "normal", "--prefix", "none", "-p", "wgrad"]))?;
    let crates: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    let native = ["naga", "wgpu-core", "wgpu-hal"];
    if let Some(name) = native.iter().find(|name| crates.contains(*name)) {
        return Err(anyhow!("{name} is in the wasm: see `cargo tree --target {WASM} -e normal -i {name}`").into());
    }
    done("cargo tree".into(), &format!("{} crates", crates.len()))
}

fn windows(lab: &Lab) -> Result<Done, Stop> {
    check(lab, "x86_64-pc-windows-msvc")
}

fn macos(lab: &Lab) -> Result<Done, Stop> {
    check(lab, "aarch64-apple-darwin")
}

/// A type-check for another system, where its standard library is here or can be fetched.
fn check(lab: &Lab, target: &str) -> Result<Done, Stop> {
    lab.target(target).map_err(|error| Stop::Skipped(format!("{error:#}")))?;
    run::run(run::cargo().args(["check", "--package", "wgrad", "--lib", "--target", target]))?;
    done(target.into(), "")
}

fn unit(_: &Lab) -> Result<Done, Stop> {
    tests(None, |cargo| cargo.args(["--package", "xtask", "--bins"]))?;
    tests(None, |cargo| cargo.args(["--package", "wgrad-cli", "--test", "cli"]))?;
    let tokenizers = ["--package", "wgrad", "--features", "tokenizers", "--test", "training", "--test", "parsers"];
    tests(None, |cargo| cargo.args(tokenizers).args(["--", "data::", "spoiled_tokenizers"]))?;
    tests(None, |cargo| cargo.args(["--package", "wgrad", "--lib"]))
}

fn doctests(_: &Lab) -> Result<Done, Stop> {
    tests(None, |cargo| cargo.args(["--package", "wgrad", "--doc"]))
}

fn shaders(_: &Lab) -> Result<Done, Stop> {
    let folder = dump();
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot empty target/shaders")?;
    }
    let mut counts = Counts::default();
    let mut cargo = run::cargo();
    cargo.args(["test", "--package", "wgrad", "--test", "shaders"]).env("WGRAD_DUMP_SHADERS", &folder);
    counts.watch(&mut cargo)?;
    let tree = run::output(run::cargo().args(["tree", "-p", "naga", "--depth", "0", "--prefix", "none"]))?;
    done(tree.trim().to_owned(), &counts.note()?)
}

fn native(lab: &Lab) -> Result<Done, Stop> {
    let names = integration(&[])?;
    match lab.gpu() {
        // The tests check the CPU executor alone when they are told that an adapter may be missing.
        Err(Stop::Missing(reason)) if lab.allow_missing => {
            let done = tests(None, |cargo| cargo.args(&names).env("WGRAD_ALLOW_MISSING", "1"))?;
            Ok(Done { note: format!("{}; no adapter: {reason}", done.note), ..done })
        }
        gpu => tests(Some(gpu?), |cargo| cargo.args(&names)),
    }
}

fn portable(lab: &Lab) -> Result<Done, Stop> {
    let mut names = integration(&CPU_ONLY)?;
    names.extend(["--test", "parity"].map(str::to_owned));
    tests(Some(lab.gpu()?), |cargo| cargo.args(&names).env("WGRAD_PORTABLE_LIMITS", "1"))
}

fn parity(lab: &Lab) -> Result<Done, Stop> {
    let names = ["--package", "wgrad", "--test", "parity", "--", "--nocapture", "--test-threads=1"];
    tests(Some(lab.gpu()?), |cargo| cargo.args(names))
}

fn hardware_kernels(lab: &Lab) -> Result<Done, Stop> {
    let names = ["--package", "wgrad", "--test", "kernels", "--test", "parity"];
    tests(Some(lab.gpu()?), |cargo| cargo.args(names).env("WGRAD_HARDWARE_KERNELS", "1"))
}

fn swiftshader(lab: &Lab) -> Result<Done, Stop> {
    let gpu = lab.swiftshader()?;
    // It says when the machine gives it no memory; lavapipe does not.
    tests(Some(gpu), |cargo| cargo.args(["--package", "wgrad", "--test", "reliability", "memory::"]))?;
    tests(Some(gpu), |cargo| cargo.args(["--package", "wgrad", "--test", "kernels"]))
}

fn job(_: &Lab) -> Result<Done, Stop> {
    let note = job::check()?;
    done("CPU executor".into(), &note)
}

fn all_examples(lab: &Lab) -> Result<Done, Stop> {
    // Without an adapter all of them but the renderer run on the CPU executor.
    let gpu = match lab.gpu() {
        Err(Stop::Missing(_)) if lab.allow_missing => None,
        gpu => Some(gpu?),
    };
    let note = examples::check(gpu)?;
    done(gpu.map_or_else(|| "CPU executor".to_owned(), Gpu::place), &note)
}

fn claims(_: &Lab) -> Result<Done, Stop> {
    let note = claims::check()?;
    done("CPU executor".into(), &note)
}

fn npm(lab: &Lab) -> Result<Done, Stop> {
    let node = lab.node()?;
    package::build(node, lab.no_install)?;
    let note = package::check(node)?;
    done(node.place(), &note)
}

fn page(lab: &Lab) -> Result<Done, Stop> {
    let node = lab.node()?;
    let size = web::build(node, lab.no_install)?;
    done(node.place(), &format!("{} KiB of wasm", size / 1024))
}

fn browser_shaders(lab: &Lab) -> Result<Done, Stop> {
    let folder = dump();
    if !folder.exists() {
        return Err(anyhow!("target/shaders is not there: the step `shaders` writes it").into());
    }
    playwright(lab, &["shaders"], |npx| npx.env("WGRAD_DUMP_SHADERS", &folder))
}

fn browser(lab: &Lab) -> Result<Done, Stop> {
    if !run::root().join("web/dist/index.html").exists() {
        return Err(anyhow!("web/dist is not there: the step `web` builds it").into());
    }
    let reference = reference()?;
    playwright(lab, &["webgpu", "canvas", "no-webgpu"], |npx| npx.env("WGRAD_WEB_REFERENCE", &reference))
}

fn packed(lab: &Lab) -> Result<Done, Stop> {
    if !run::root().join("web/package/dist/wgrad_bg.wasm").exists() {
        return Err(anyhow!("web/package/dist is not there: the step `package` builds it").into());
    }
    // For Dawn; where Chromium carries no such driver, Dawn looks for one of the system's.
    let driver = lab.swiftshader().ok();
    playwright(lab, &["packed-webgpu", "packed-no-webgpu"], |npx| {
        if let Some(driver) = driver {
            driver.apply(npx);
        }
        npx
    })
}

/// Writes the losses of the page's training run as this machine computes them.
fn reference() -> Result<PathBuf> {
    let mut cargo = run::cargo();
    let losses = run::output(cargo.args(["run", "--quiet", "--package", "wgrad", "--example", "web_reference"]))?;
    let path = run::target().join("web-reference.json");
    fs::write(&path, losses).context("cannot write target/web-reference.json")?;
    Ok(path)
}

fn playwright(lab: &Lab, projects: &[&str], set: impl Fn(&mut Command) -> &mut Command) -> Result<Done, Stop> {
    let (path, version) = lab.chromium()?;
    let node = lab.node()?;
    web::packages(node, lab.no_install)?;
    let mut command = node.npm();
    command.args(["exec", "--", "playwright", "test", "--project"]).args(projects).env("WGRAD_CHROMIUM", path);
    let mut counts = Counts::default();
    counts.watch(set(&mut command))?;
    let note = counts.note()?;
    done(format!("{version}, {}", counts.adapter.as_deref().unwrap_or("adapter not said")), &note)
}

/// `cargo test`, with an adapter where one is given; the place names it, and the CPU executor that it is held against.
fn tests(gpu: Option<&Gpu>, set: impl Fn(&mut Command) -> &mut Command) -> Result<Done, Stop> {
    let mut cargo = run::cargo();
    set(cargo.args(["test", "--no-fail-fast"]));
    let mut place = "CPU executor".to_owned();
    if let Some(gpu) = gpu {
        gpu.apply(&mut cargo);
        place = format!("{place} and {}", gpu.place());
    }
    let mut counts = Counts::default();
    counts.watch(&mut cargo)?;
    done(place, &counts.note()?)
}

/// Tests that no adapter's limits concern.
const CPU_ONLY: [&str; 2] = ["gradients", "parsers"];

/// Picks every integration test but those left out, and the shaders' and the parity test, which have steps of their own.
fn integration(left_out: &[&str]) -> Result<Vec<String>> {
    let entries = fs::read_dir(run::root().join("tests")).context("no integration tests")?;
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs") || path.join("main.rs").exists())
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .filter(|name| !["shaders", "parity"].iter().chain(left_out).any(|other| other == name))
        .collect();
    names.sort();
    let words = names.into_iter().flat_map(|name| ["--test".to_owned(), name]);
    Ok(["--package".to_owned(), "wgrad".to_owned()].into_iter().chain(words).collect())
}

/// Where the shader tests write the text of every shader.
fn dump() -> PathBuf {
    run::target().join("shaders")
}

fn done(place: String, note: &str) -> Result<Done, Stop> {
    Ok(Done { place, note: note.to_owned() })
}
