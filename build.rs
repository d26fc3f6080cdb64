//! Puts the shaders where `kernel!` finds them: as they are, or for the browser, whose users download them, without comments
//! and indentation.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=shaders");
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name| env::var_os(name).map(PathBuf::from).ok_or(io::ErrorKind::NotFound);
    let small = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "wasm32");
    copy(&variable("CARGO_MANIFEST_DIR")?.join("shaders"), &variable("OUT_DIR")?.join("shaders"), small)
}

fn copy(from: &Path, to: &Path, small: bool) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to, small)?;
        } else {
            let text = fs::read_to_string(&from)?;
            fs::write(&to, if small { shortened(&text) } else { text })?;
        }
    }
    Ok(())
}

/// The text without comments, indentation and empty lines. WGSL has no strings, so `//` always begins a comment; block
/// comments are not used.
fn shortened(text: &str) -> String {
    let line = |line: &str| {
        let line = line.trim();
        if line.starts_with("// #include ") {
            line.to_owned()
        } else {
            line.split("//").next().unwrap_or("").trim_end().to_owned()
        }
    };
    text.lines().map(line).filter(|line| !line.is_empty()).map(|line| line + "\n").collect()
}
