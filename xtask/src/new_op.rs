//! `cargo xtask new-op NAME`: an operation to begin with, in the three places where one lives: kernel, operation with samples,
//! and a line in each list. What it makes compiles and passes the generic checks.

use std::fs;
use std::path::{Path, PathBuf};

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

/// A whole operation, which the unit tests check: `src/ops/mod.rs`.
const SHADER: &str = include_str!("../../shaders/elementwise/new_op.wgsl");
const OPERATION: &str = include_str!("../../src/ops/new_op.rs");

/// The lists that get a line, how their lines begin, and the line without the name.
const LISTS: [(&str, &str, &str); 3] = [
    ("src/ops/mod.rs", "pub mod ", "pub mod {name};"),
    ("src/ops/registry.rs", "    &ops::", "    &ops::{name}::{NAME},"),
    ("src/ops/samples.rs", "        ops::", "        ops::{name}::samples,"),
];

pub fn run(args: &NewOpArgs) -> Result<()> {
    let NewOpArgs { name, family } = args;
    check(name, family)?;
    let root = run::root();
    let (shader, op) = (root.join(format!("shaders/{family}/{name}.wgsl")), root.join(format!("src/ops/{name}.rs")));
    if shader.exists() {
        bail!("{} is there already", shader.display());
    }
    if let Some(taken) = module(name)? {
        bail!("{taken} is there already; choose another name");
    }
    if let Some(path) = method(name)? {
        bail!("{} has a method {name}; choose another name", path.display());
    }
    write(&shader, SHADER)?;
    write(&op, &renamed(OPERATION, name, family))?;
    for (list, begin, line) in LISTS {
        let path = root.join(list);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {list}"))?;
        let line = line.replace("{name}", name).replace("{NAME}", &name.to_uppercase());
        write(&path, &inserted(&text, begin, &line).with_context(|| format!("{list} has no list of \"{begin}\""))?)?;
    }
    // Long names need other breaks.
    if let Err(error) = run::run(run::command("rustfmt").args(["--edition", "2024"]).arg(&op)) {
        println!("not formatted: {error:#}");
    }
    println!("{}\n{}", shader.display(), op.display());
    println!("with lines in src/ops/mod.rs, src/ops/registry.rs and src/ops/samples.rs; now");
    println!("  WGRAD_SAMPLE={name} cargo test --test kernels --test gradients --test shaders");
    println!("and tests/random_programs, so that random programs use it: CONTRIBUTING.md says how");
    Ok(())
}

/// Refuses what cannot be the name of a module, a method and a shader.
fn check(name: &str, family: &str) -> Result<()> {
    let letters = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let proper = |text: &str| text.starts_with(|c: char| c.is_ascii_lowercase()) && letters(text);
    if !proper(name) || !proper(family) {
        bail!("\"{name}\" in \"{family}\": names are lower case letters, digits and underscores");
    }
    let words = "abstract as async await become box break const continue crate do dyn else enum extern false final fn for gen if \
                 impl in let loop macro match mod move mut override priv pub ref return self static struct super trait true \
                 try type typeof unsafe unsized use virtual where while yield";
    if words.split_whitespace().any(|word| word == name) {
        bail!("\"{name}\" is a word of Rust");
    }
    Ok(())
}

/// What has the name of the module: a file or a folder, or a line of the list.
fn module(name: &str) -> Result<Option<String>> {
    let (root, list) = (run::root(), LISTS[0].0);
    let mut places = [format!("src/ops/{name}.rs"), format!("src/ops/{name}")].into_iter();
    if let Some(place) = places.find(|place| root.join(place).exists()) {
        return Ok(Some(place));
    }
    let text = fs::read_to_string(root.join(list)).with_context(|| format!("cannot read {list}"))?;
    let end = format!("mod {name}");
    let named = |line: &str| line.trim_end_matches([';', '{', ' ']).ends_with(&end);
    Ok(text.lines().any(named).then(|| format!("\"{end}\" in {list}")))
}

/// The file that has a method of this name.
fn method(name: &str) -> Result<Option<PathBuf>> {
    // Elementwise methods come from lists.
    find(&run::root().join("src"), &[format!("pub fn {name}(self"), format!("\n    {name} => ")])
}

/// The text of the operation `new_op` under another name.
fn renamed(text: &str, name: &str, family: &str) -> String {
    let text = text.replace("elementwise/new_op", &format!("{family}/{name}")).replace("NewOp", &camel(name));
    text.replace("NEW_OP", &name.to_uppercase()).replace("new_op", name)
}

/// A file below `folder` that has one of the parts.
fn find(folder: &Path, parts: &[String]) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, parts)? {
                return Ok(Some(found));
            }
        } else if fs::read_to_string(&path).is_ok_and(|text| parts.iter().any(|part| text.contains(part))) {
            return Ok(Some(path));
        }
    }
    Ok(None)
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

/// The text with a line more in the list of those that begin alike, where it sorts first of all that follow it; `None` if there
/// is no such list.
fn inserted(text: &str, begin: &str, new: &str) -> Option<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    let listed: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].starts_with(begin)).collect();
    let last = listed.last()?;
    let mut at = listed.iter().copied().find(|i| lines[*i] > new).unwrap_or(last + 1);
    // Attributes stay with their line.
    while at > 0 && lines[at - 1].trim_start().starts_with("#[") {
        at -= 1;
    }
    lines.insert(at, new);
    Some(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_types() {
        assert_eq!(camel("soft_clip"), "SoftClip");
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        assert!(check("soft_clip2", "norm").is_ok());
        for (name, family) in [("SoftClip", "norm"), ("2nd", "norm"), ("", "norm"), ("match", "norm"), ("a", "../norm")]
        {
            assert!(check(name, family).is_err(), "{name} {family}");
        }
    }

    #[test]
    fn modules_that_are_there_are_found() {
        for name in ["memory", "bank", "custom", "elementwise", "optim", "route", "softmax", "registry", "tests"] {
            assert!(module(name).is_ok_and(|taken| taken.is_some()), "{name}");
        }
        for name in ["soft_clip", "max", "ops", "emory"] {
            assert!(module(name).is_ok_and(|taken| taken.is_none()), "{name}");
        }
    }

    #[test]
    fn methods_that_are_there_are_found() {
        let file =
            |name: &str| method(name).expect("the sources").and_then(|path| path.file_name().map(ToOwned::to_owned));
        assert_eq!(file("max").as_deref(), Some("reduce.rs".as_ref()));
        assert_eq!(file("relu"), file("maximum"));
        assert!(file("relu").is_some() && file("soft_clip").is_none());
    }

    /// What the unit tests of the library compile as `new_op`, under a name of another length.
    #[test]
    fn nothing_of_the_first_name_is_left() {
        let text = renamed(OPERATION, "soft_clip", "route");
        assert!(!text.to_lowercase().replace('_', "").contains("newop"), "{text}");
        for part in
            ["static SOFT_CLIP", "\"route/soft_clip\"", "struct SoftClip;", "pub fn soft_clip(self)", "\"soft_clip {"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!SHADER.to_lowercase().contains("new_op"));
    }

    #[test]
    fn each_list_gets_one_line() {
        for name in ["aaa", "new_norm", "soft_clip", "zzz"] {
            for (list, begin, line) in LISTS {
                let text = fs::read_to_string(run::root().join(list)).expect("a list");
                let line = line.replace("{name}", name).replace("{NAME}", &name.to_uppercase());
                let more = inserted(&text, begin, &line).expect("a list of lines that begin alike");
                let at = more.lines().position(|l| l == line).expect("the new line");
                let beside = [at.wrapping_sub(1), at + 1].map(|i| more.lines().nth(i).unwrap_or_default());
                assert!(beside.iter().any(|l| l.starts_with(begin)), "{list}: {beside:?}");
                assert_eq!(more.replacen(&format!("{line}\n"), "", 1), text, "{list}");
            }
        }
    }
}
