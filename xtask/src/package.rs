//! The npm package in `web/package`: small wasm, JavaScript, types, and the check of what they weigh.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::node::Node;
use crate::run;
use crate::web;

/// What the wasm uses; the optimizer must not use more.
const FEATURES: [&str; 8] = [
    "bulk-memory",
    "bulk-memory-opt",
    "reference-types",
    "simd",
    "sign-ext",
    "mutable-globals",
    "nontrapping-float-to-int",
    "multivalue",
];

/// What wasm and JavaScript may weigh together, gzipped. The aim is 350; this keeps what has been reached.
const BUDGET_KIB: u64 = 636;

/// Builds `web/package/dist`; returns what wasm and JavaScript weigh, gzipped, in bytes.
pub fn build(node: &Node, no_install: bool) -> Result<u64> {
    web::packages(node, no_install)?;
    let folder = run::root().join("web/package");
    let target = "wasm32-unknown-unknown";
    let mut cargo = run::cargo();
    cargo.args(["build", "--profile", "web", "--target", target, "--lib", "--package", "wgrad"]);
    run::run(cargo.args(["--no-default-features", "--features", "cpu"]))?;
    let wasm = run::target().join(target).join("web/wgrad.wasm");
    web::bindings(&wasm, &folder.join("pkg"), true)?;

    let dist = folder.join("dist");
    if dist.exists() {
        fs::remove_dir_all(&dist).context("cannot empty web/package/dist")?;
    }
    tool(node, &["tsc", "--project", "package"])?;
    tool(node, &["rolldown", "--config", "package/rolldown.config.js"])?;
    let features = FEATURES.map(|feature| format!("--enable-{feature}"));
    let mut words = vec!["wasm-opt", "--merge-similar-functions", "-Oz"];
    words.extend(["--strip-debug", "--strip-producers", "--strip-target-features"]);
    words.extend(features.iter().map(String::as_str));
    words.extend(["package/pkg/wgrad_bg.wasm", "-o", "package/dist/wgrad_bg.wasm"]);
    tool(node, &words)?;
    for license in ["LICENSE-APACHE", "LICENSE-MIT"] {
        fs::copy(run::root().join(license), folder.join(license)).context("cannot copy the licences")?;
    }
    let weight = weigh(node, &folder)?;
    println!("web: the npm package is in web/package: {} KiB gzipped", weight.div_ceil(1024));
    Ok(weight)
}

/// Checks the finished package: its weight, and what tools say of its `package.json` and types.
pub fn check(node: &Node) -> Result<String> {
    let folder = run::root().join("web/package");
    let weight = weigh(node, &folder)?.div_ceil(1024);
    if weight > BUDGET_KIB {
        bail!("the package weighs {weight} KiB gzipped, more than the {BUDGET_KIB} KiB it may");
    }
    harmless(node, &folder)?;
    tool(node, &["publint", "--strict", "package"])?;
    tool(node, &["attw", "--pack", "package", "--profile", "esm-only", "--exclude-entrypoints", "wgrad_bg.wasm"])?;
    Ok(format!("{weight} of {BUDGET_KIB} KiB gzipped"))
}

/// Refuses what would run on the machine of whoever installs the package, and packages of others that would come along.
fn harmless(node: &Node, folder: &Path) -> Result<()> {
    let script = "const p = require('./package.json'); \
        const all = [p.scripts, p.dependencies, p.optionalDependencies, p.bin && { bin: p.bin }]; \
        console.log(all.flatMap((part) => Object.keys(part ?? {})).join(' '))";
    let found = run::output(node.command("node").args(["--eval", script]).current_dir(folder))?;
    match found.trim() {
        "" => Ok(()),
        names => bail!("package.json has scripts, dependencies or programs ({names}); the package is to have none"),
    }
}

/// A line a file, and the sum.
fn weigh(node: &Node, folder: &Path) -> Result<u64> {
    let mut command = node.command("node");
    let text = run::output(command.arg("weigh.js").current_dir(folder))?;
    print!("{text}");
    let sum = text.lines().last().and_then(|line| line.split_whitespace().next()?.parse().ok());
    sum.context("weigh.js printed no sum")
}

/// One of the page's npm packages, run in the page's folder.
fn tool(node: &Node, words: &[&str]) -> Result<()> {
    run::run(node.npm().args(["exec", "--"]).args(words))
}
