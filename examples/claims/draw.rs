//! Draws the pictures of docs/claims.md anew from the results that are kept beside them, without measuring anything.
//!
//! `cargo run --example claims_draw`; with `--check` nothing is written, and a picture that differs is an error.

#[path = "support/picture/mod.rs"]
#[allow(dead_code, reason = "what measures makes pictures, this only reads them")]
mod picture;

use anyhow::{Context, bail};
use clap::Parser;
use picture::Picture;
use std::fs;
use std::path::Path;

/// Pictures of docs/claims.md from the results beside them.
#[derive(Parser)]
struct Args {
    /// Only say whether they are as they should be
    #[arg(long)]
    check: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/claims");
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let file = entry?.path();
        if file.extension().is_none_or(|kind| kind != "json") {
            continue;
        }
        let kept: Picture = serde_json::from_str(&fs::read_to_string(&file)?)
            .with_context(|| format!("{} is not what a program of the claims wrote", file.display()))?;
        let drawn = kept.draw().map_err(|e| anyhow::anyhow!("{}: {e}", file.display()))?;
        let svg = file.with_extension("svg");
        match (args.check, fs::read_to_string(&svg).is_ok_and(|old| old == drawn)) {
            (_, true) => println!("{} is as it should be", svg.display()),
            (false, false) => {
                fs::write(&svg, drawn)?;
                println!("drew {}", svg.display());
            }
            (true, false) => bail!("{} differs from its results: cargo run --example claims_draw", svg.display()),
        }
    }
    Ok(())
}
