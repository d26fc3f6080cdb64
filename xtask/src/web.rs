//! `cargo xtask web`: the page, over the npm package and, for its self-check, the crate's own wasm with its oracle.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::node::Node;
use crate::run;

/// Builds `web/pkg` and `web/dist`; returns the wasm's size in bytes.
pub fn build(node: &Node, no_install: bool) -> Result<u64> {
    let root = run::root();
    if !root.join("web/package/dist/wgrad_bg.wasm").exists() {
        bail!("web/package/dist is not there: the step `package` builds it");
    }
    let target = "wasm32-unknown-unknown";
    run::run(run::cargo().args(["build", "--release", "--target", target, "--lib", "--package", "wgrad"]))?;
    let wasm = run::target().join(target).join("release/wgrad.wasm");
    bindings(&wasm, &root.join("web/pkg"), false)?;
    packages(node, no_install)?;
    run::run(node.npm().args(["run", "build"]))?;
    let size = fs::metadata(root.join("web/pkg/wgrad_bg.wasm")).context("wasm-bindgen wrote no wasm")?.len();
    println!("web: web/pkg/wgrad_bg.wasm has {} KiB; the page is in web/dist", size / 1024);
    Ok(size)
}

/// Installs the page's npm packages unless the lock file's are there already.
pub fn packages(node: &Node, no_install: bool) -> Result<()> {
    install(node, "web", no_install)
}

/// The same of another folder of the repository.
pub fn install(node: &Node, folder: &str, no_install: bool) -> Result<()> {
    let place = run::root().join(folder);
    let age = |path: &str| fs::metadata(place.join(path)).and_then(|data| data.modified()).ok();
    if age("node_modules/.package-lock.json").is_some_and(|installed| Some(installed) >= age("package-lock.json")) {
        return Ok(());
    }
    if no_install {
        bail!("{folder}/node_modules is missing or older than {folder}/package-lock.json: run `npm ci` there");
    }
    println!("setup: npm packages of {folder}: npm ci");
    run::output(node.npm().current_dir(place).args(["ci", "--no-audit", "--no-fund"])).map(drop)
}

/// The bindings come from a program of their own, so that nobody else waits for its dependencies.
pub fn bindings(wasm: &Path, folder: &Path, package: bool) -> Result<()> {
    let mut cargo = run::cargo();
    cargo.args(["run", "--quiet", "--package", "xtask", "--features", "bindgen", "--bin", "bindgen", "--"]);
    run::run(cargo.arg(wasm).arg(folder).args(package.then_some("package")))
}
