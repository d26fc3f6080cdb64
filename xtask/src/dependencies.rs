//! Licences and sources of all that the library and its program build on, by what cargo itself knows: no tool, no network. `cargo xtask deny` looks closer.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::lab::Lab;
use crate::run;
use crate::summary::{Done, Stop};
use crate::test::version;

pub fn step(_: &Lab) -> Result<Done, Stop> {
    let note = check()?;
    Ok(Done { place: version("cargo", &["--version"]), note })
}

fn check() -> Result<String> {
    let text = fs::read_to_string(run::root().join("deny.toml")).context("cannot read deny.toml")?;
    let allowed = allowed(&text);
    let mut tree = run::cargo();
    tree.args([
        "tree",
        "--locked",
        "--package",
        "wgrad",
        "--package",
        "wgrad-cli",
        "--all-features",
        "--target",
        "all",
        "-e",
        "normal,build,dev",
    ]);
    tree.args(["--prefix", "none", "--format", "{p}|{l}"]);
    let packages = run::output(&mut tree)?;
    let packages: BTreeSet<&str> =
        packages.lines().map(|line| line.trim_end_matches(" (*)")).filter(|line| line.contains('|')).collect();
    let mut faults = Vec::new();
    for line in &packages {
        let (package, licence) = line.rsplit_once('|').context("cargo tree prints `package|licence`")?;
        if !fits(licence, &allowed) {
            faults.push(format!("{package}: the licence {licence:?} is not allowed in deny.toml"));
        }
        if package.contains("://") {
            faults.push(format!("{package} is of no registry"));
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(format!("{} packages; known weaknesses: `cargo xtask deny --advisories`", packages.len()))
}

/// The list `allow` of deny.toml.
fn allowed(text: &str) -> Vec<&str> {
    let list = text.split("allow = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap_or_default();
    list.split('"').skip(1).step_by(2).collect()
}

/// Whether an SPDX expression can be met with these licences.
fn fits(licence: &str, allowed: &[&str]) -> bool {
    let spaced = licence.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    either(&mut words, allowed) && words.next().is_none()
}

type Words<'a, 'w> = &'a mut std::iter::Peekable<std::str::SplitWhitespace<'w>>;

fn either(words: Words<'_, '_>, allowed: &[&str]) -> bool {
    let mut fits = both(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        fits |= both(words, allowed);
    }
    fits
}

fn both(words: Words<'_, '_>, allowed: &[&str]) -> bool {
    let mut fits = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        fits &= one(words, allowed);
    }
    fits
}

fn one(words: Words<'_, '_>, allowed: &[&str]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let fits = either(words, allowed);
        return words.next() == Some(")") && fits;
    }
    let mut name = words.next().unwrap_or_default().to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        name = format!("{name} WITH {}", words.next().unwrap_or_default());
    }
    allowed.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_met_by_what_is_allowed() {
        let allowed = allowed("[licenses]\nallow = [\n    \"MIT\",\n    \"Apache-2.0 WITH LLVM-exception\",\n]\n");
        assert_eq!(allowed, ["MIT", "Apache-2.0 WITH LLVM-exception"]);
        for good in ["MIT", "MIT OR GPL-3.0", "GPL-3.0/MIT", "(GPL-3.0 OR MIT) AND MIT", "GPL-2.0 AND X OR MIT"] {
            assert!(fits(good, &allowed), "{good}");
        }
        assert!(fits("Apache-2.0 WITH LLVM-exception OR Apache-2.0", &allowed));
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "(MIT", "MIT X", "MIT AND (GPL-3.0 OR ISC)"] {
            assert!(!fits(bad, &allowed), "{bad}");
        }
    }
}
