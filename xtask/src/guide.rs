//! The guide under `docs/guide`: built by mdBook, none of its links leads nowhere, and no option of a model is missing.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{options, run};

/// Where the links of a page lead, in its own folder or below: no anchors, no other sites.
fn links(page: &str) -> Vec<&str> {
    let ends = ["href=\"", "src=\""].into_iter().flat_map(|start| page.split(start).skip(1));
    let targets = ends.filter_map(|rest| rest.split('"').next()).map(|link| link.split('#').next().unwrap_or(link));
    targets.filter(|link| !link.is_empty() && !link.contains(':')).collect()
}

/// Builds it into `target/guide`; says how many pages there are.
pub fn build() -> Result<String> {
    options::check()?;
    let mut cargo = run::cargo();
    cargo.args([
        "run",
        "--quiet",
        "--profile",
        "tool",
        "--package",
        "xtask",
        "--features",
        "book",
        "--bin",
        "book",
        "--",
    ]);
    run::run(cargo.arg(run::root().join("docs/guide")))?;
    let folder = run::root().join("target/guide");
    let (mut pages, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(&folder).context("the guide was not built")? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "html") {
            pages += 1;
            let text = fs::read_to_string(&path)?;
            let lost = links(&text).into_iter().filter(|link| !Path::new(&folder).join(link).exists());
            wrong.extend(lost.map(|link| format!("{}: {link}", path.display())));
        }
    }
    if !wrong.is_empty() {
        bail!("links that lead nowhere:\n{}", wrong.join("\n"));
    }
    Ok(format!("{pages} pages"))
}

#[cfg(test)]
mod tests {
    use super::links;

    #[test]
    fn links_of_the_own_site_are_found() {
        let page = r##"<a href="a.html#b"><a href="#c"><img src="d.svg"><a href="https://example.org/">"##;
        assert_eq!(links(page), ["a.html", "d.svg"]);
    }
}
