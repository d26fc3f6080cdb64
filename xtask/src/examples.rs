//! The examples at a small size, each as its documentation starts it.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail, ensure};

use crate::floors::visit;
use crate::lab::Gpu;
use crate::run;

/// What makes each example small.
const SMALL: &[(&str, &str)] = &[
    ("custom_op", ""),
    ("long_memory", "--device cpu --memories 2000 --selected 16 --block 32 --dim 64 --blocks 1"),
    ("million_memories", "--device cpu --memories 5000 --queries 32 --dim 64 --routed-queries 8 --routed-memories 32"),
    ("pkm_finetune", ""),
    ("pkm_usage", "--steps 2 --keys 8"),
    ("router_learns", "--steps 10 --seeds 1"),
    ("routing", "--device cpu --steps 2 --length 256"),
];

/// The renderer, which wants a GPU.
const SHARED: &str = "--steps 20 --particles 100 --frames 4";

/// Examples with checks of their own, as have those whose names begin like the first, and one that PyTorch has to write files
/// for.
const ELSEWHERE: [&str; 4] = ["claims_", "train_text", "web_reference", "pytorch"];

/// Folders and files of examples, and those that the manifest names.
fn names() -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(run::root().join("examples")).context("no examples")? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "rs") || path.join("main.rs").exists() {
            all.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    let manifest = fs::read_to_string(run::root().join("Cargo.toml"))?;
    let named = manifest.split("[[example]]\nname = \"").skip(1).filter_map(|rest| rest.split('"').next());
    all.extend(named.map(str::to_owned));
    Ok(all)
}

/// One idea a file: every file is shorter than 100 lines, and every example stands in the list of them.
fn short_and_listed() -> Result<()> {
    let folder = run::root().join("examples");
    visit(&folder, &mut |file| {
        let lines = fs::read_to_string(file)?.lines().count();
        ensure!(lines < 100, "{} has {lines} lines; an example has one idea, in less than 100", file.display());
        Ok(())
    })?;
    let list = fs::read_to_string(folder.join("README.md")).context("no examples/README.md")?;
    for name in names()? {
        ensure!(list.contains(&format!("`{name}`")), "examples/README.md lacks `{name}`");
    }
    Ok(())
}

/// Builds and runs all of them; says how many.
pub fn check(gpu: Option<&Gpu>) -> Result<String> {
    short_and_listed()?;
    let listed: BTreeSet<&str> = SMALL.iter().map(|(name, _)| *name).chain(["shared_device"]).collect();
    let known =
        |name: &&String| listed.contains(name.as_str()) || ELSEWHERE.iter().any(|begin| name.starts_with(begin));
    if let Some(name) = names()?.iter().find(|name| !known(name)) {
        bail!("xtask/src/examples.rs does not say how to run the example {name} at a small size");
    }
    run::run(run::cargo().args(["build", "--package", "wgrad", "--examples"]))?;
    let mut count = 0;
    for (name, small) in SMALL.iter().copied().chain(gpu.map(|_| ("shared_device", SHARED))) {
        let mut example =
            run::command(run::target().join("debug/examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX)));
        example.args(small.split_whitespace());
        if let Some(gpu) = gpu {
            gpu.apply(&mut example);
        }
        if name == "shared_device" {
            example.arg("--out").arg(run::target().join("job.png"));
        }
        run::run(&mut example)?;
        count += 1;
    }
    Ok(format!("{count} examples"))
}
