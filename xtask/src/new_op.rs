//! `cargo xtask new-op NAME`: an operation to begin with, in the three places where one lives: kernel, operation with samples,
//! and a line in each list. What it makes compiles and passes the generic checks.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::run;

#[derive(Args)]
pub struct NewOpArgs {
    /// Name in lower case with underscores, such as soft_clip
    name: String,
    /// Folder of the kernel below shaders/
    #[arg(long, default_value = "elementwise")]
    family: String,
}

const SHADER: &str = include_str!("new_op/kernel.wgsl.txt");
const OPERATION: &str = include_str!("new_op/op.rs.txt");

pub fn run(args: &NewOpArgs) -> Result<()> {
    let NewOpArgs { name, family } = args;
    let letters = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let proper = |text: &str| text.starts_with(|c: char| c.is_ascii_lowercase()) && letters(text);
    if !proper(name) || !proper(family) {
        bail!("\"{name}\" in \"{family}\": names are lower case letters, digits and underscores");
    }
    let root = run::root();
    let (shader, op) = (root.join(format!("shaders/{family}/{name}.wgsl")), root.join(format!("src/ops/{name}.rs")));
    for path in [&shader, &op] {
        if path.exists() {
            bail!("{} is there already", path.display());
        }
    }
    let filled = |text: &str| {
        let text = text.replace("{NAME}", &name.to_uppercase()).replace("{Name}", &camel(name));
        text.replace("{name}", name).replace("{family}", family)
    };
    write(&shader, &filled(SHADER))?;
    write(&op, &filled(OPERATION))?;
    let line = |path: &str, before: &str, new: String| insert(&root.join(path), before, &new);
    line("src/ops/mod.rs", "pub mod ", format!("pub mod {name};"))?;
    line("src/ops/registry.rs", "    &ops::", format!("    &ops::{name}::{},", name.to_uppercase()))?;
    line("src/ops/samples.rs", "        ops::", format!("        ops::{name}::samples,"))?;
    println!("{}\n{}", shader.display(), op.display());
    println!("with lines in src/ops/mod.rs, src/ops/registry.rs and src/ops/samples.rs; now");
    println!("  WGRAD_SAMPLE={name} cargo test --test kernels --test gradients --test shaders");
    println!("and a line in tests/random_programs/ops.rs lets random programs use it");
    Ok(())
}

fn camel(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    name.split('_').map(word).collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Adds a line to the list of those that begin alike, where it sorts first of all that follow it.
fn insert(path: &Path, begin: &str, new: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines: Vec<&str> = text.lines().collect();
    let listed: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].starts_with(begin)).collect();
    let Some(last) = listed.last() else { bail!("{} has no list of \"{begin}\"", path.display()) };
    let mut at = listed.iter().copied().find(|i| lines[*i] > new).unwrap_or(last + 1);
    // Attributes stay with their line.
    while at > 0 && lines[at - 1].starts_with("#[") {
        at -= 1;
    }
    lines.insert(at, new);
    fs::write(path, lines.join("\n") + "\n").with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_become_types() {
        assert_eq!(super::camel("soft_clip"), "SoftClip");
    }
}
