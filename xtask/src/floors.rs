//! Whether imports run down the floors: the rows of `ARCHITECTURE.md`, from the top, against what the files name. And whether
//! there is unsafe code that nobody explained.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::run;

/// The floors of `src/`, the highest first; a module's number is its row's.
fn floors(architecture: &str) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for (row, line) in architecture.lines().filter(|line| line.starts_with("| `")).enumerate() {
        let names = line.trim_start_matches("| ").split(" | ").next().unwrap_or_default();
        for name in names.split('`').filter_map(|word| word.strip_prefix("src/")) {
            all.insert(name.trim_end_matches('/').trim_end_matches(".rs").to_owned(), row);
        }
    }
    all
}

/// Names that the crate's root hands on, and the module each comes from.
fn handed_on(lib: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([("kernel".to_owned(), "kernels".to_owned())]);
    for line in lib.lines().filter_map(|line| line.strip_prefix("pub use ")) {
        if let Some((module, names)) = line.trim_end_matches(';').split_once("::") {
            let last = names.rsplit("::").next().unwrap_or(names);
            let words = last.trim_matches(['{', '}']).split(',').map(str::trim);
            all.extend(words.map(|word| (word.to_owned(), module.to_owned())));
        }
    }
    all
}

/// What a file names of its own crate, with the line: the first word behind every `crate::`. Comments and the unit tests at
/// the end are left out.
fn named(text: &str) -> Vec<(usize, String)> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    let mut all = Vec::new();
    for (at, line) in code.lines().enumerate() {
        let line = line.split("//").next().unwrap_or_default();
        for rest in line.split("crate::").skip(1) {
            let group = rest.strip_prefix('{').and_then(|group| group.split('}').next());
            let words = group.map_or_else(|| vec![rest], |group| group.split(", ").collect());
            let word = |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned);
            all.extend(words.into_iter().filter_map(word).map(|word| (at + 1, word)));
        }
    }
    all
}

/// Files that hold unsafe code, each explained in `docs/reliability.md` and tested, and how many blocks. The compiler refuses
/// others natively; for the browser it cannot, since what wasm-bindgen generates is unsafe.
const UNSAFE: [(&str, usize); 2] = [("data/map.rs", 1), ("kernels/gemm.rs", 1)];

/// Unsafe blocks, functions and implementations in a file.
fn unsafe_code(text: &str) -> usize {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let after = code.flat_map(|line| line.split("unsafe ").skip(1));
    after.filter(|rest| ["{", "fn ", "impl", "extern ", "trait "].iter().any(|word| rest.starts_with(word))).count()
}

/// Every file of Rust in a folder and below.
pub fn visit(folder: &Path, each: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            visit(&path, each)?;
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            each(&path)?;
        }
    }
    Ok(())
}

/// Every import that runs up, as an error; otherwise how many files and imports there are.
pub fn check() -> Result<String> {
    let src = run::root().join("src");
    let floors = floors(&fs::read_to_string(run::root().join("ARCHITECTURE.md"))?);
    let handed_on = handed_on(&fs::read_to_string(src.join("lib.rs"))?);
    let (mut files, mut imports, mut wrong) = (0, 0, Vec::new());
    visit(&src, &mut |path| {
        let inside = path.strip_prefix(&src)?;
        let text = fs::read_to_string(path)?;
        let allowed = UNSAFE.iter().find(|(file, _)| inside == Path::new(file)).map_or(0, |(_, blocks)| *blocks);
        if unsafe_code(&text) != allowed {
            bail!("src/{}: {} unsafe parts, {allowed} are explained", inside.display(), unsafe_code(&text));
        }
        let own = inside.components().next().map(|part| part.as_os_str().to_string_lossy().replace(".rs", ""));
        let own = own.filter(|own| own != "lib").unwrap_or_default();
        if own.is_empty() {
            return Ok(());
        }
        let Some(floor) = floors.get(&own) else { bail!("ARCHITECTURE.md has no floor for src/{own}") };
        files += 1;
        if let Some((_, at)) = text.lines().zip(1..).find(|(line, _)| line.trim_end().ends_with("crate::{")) {
            bail!(
                "src/{}:{at}: a list of crate's parts in one line, please: it is read line by line",
                inside.display()
            );
        }
        for (line, word) in named(&text) {
            let module = handed_on.get(&word).unwrap_or(&word);
            let Some(other) = floors.get(module) else { continue };
            imports += 1;
            if other < floor {
                wrong.push(format!("src/{}:{line} imports {module}, which is above {own}", inside.display()));
            }
        }
        Ok(())
    })?;
    if !wrong.is_empty() {
        bail!("imports run down the floors of ARCHITECTURE.md only:\n{}", wrong.join("\n"));
    }
    Ok(format!("{files} files, {imports} imports"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_is_counted() {
        let text =
            "// unsafe {\nlet x = unsafe { 1 };\nunsafe fn f() {}\nunsafe impl Send for X {}\n#![deny(unsafe_code)]\n";
        assert_eq!(unsafe_code(text), 3);
    }

    #[test]
    fn floors_and_names_are_read() {
        let found =
            floors("| floor | what |\n|---|---|\n| `src/ops/` | a |\n| `src/types/`, `src/error.rs` | `src/b/` |\n");
        assert_eq!(found, [("error", 1), ("ops", 0), ("types", 1)].map(|(n, row)| (n.to_owned(), row)).into());
        let lib = handed_on("pub use exec::{Feed, Plan};\npub use ops::custom::CustomOp;\n");
        assert_eq!((lib["Plan"].as_str(), lib["CustomOp"].as_str()), ("exec", "ops"));
        let text = "use crate::{Feed, ops::copy};\n// crate::no\nlet x = crate::kernel!(1);\n#[cfg(test)]\nmod tests { crate::no }";
        let words = [(1, "Feed"), (1, "ops"), (3, "kernel")];
        assert_eq!(named(text), words.map(|(line, word)| (line, word.to_owned())));
    }
}
