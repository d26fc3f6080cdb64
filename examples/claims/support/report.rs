//! What a program found: printed as it goes, and kept for docs/claims.md.

use super::{Args, Picture};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Instant;
use wgrad::{Error, Result};

/// Tables, pictures and sentences of one program.
pub struct Report {
    name: &'static str,
    pub args: Args,
    start: Instant,
    load: Option<String>,
    text: String,
    pictures: Vec<(&'static str, Picture)>,
}

/// Processes that wanted to run in the last minute, where the system says so.
fn load() -> Option<String> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next().map(str::to_owned)
}

fn failed(path: &Path, e: impl ToString) -> Error {
    Error::Io { path: path.display().to_string(), message: e.to_string() }
}

impl Report {
    pub fn begin(name: &'static str, args: Args) -> Report {
        Report { name, args, start: Instant::now(), load: load(), text: String::new(), pictures: vec![] }
    }

    /// A paragraph.
    pub fn say(&mut self, text: &str) {
        println!("{text}\n");
        let _ = writeln!(self.text, "{text}\n");
    }

    /// A table, the first column of which names its rows.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
        let rule = (0..head.len()).map(|i| if i == 0 { "---".to_owned() } else { "---:".to_owned() }).collect();
        let lines =
            [&head, &rule].into_iter().chain(rows).map(|cells: &Vec<String>| format!("| {} |", cells.join(" | ")));
        self.say(&lines.collect::<Vec<_>>().join("\n"));
    }

    /// A picture, as `docs/claims/{name}.svg`, and what it shows as `docs/claims/{name}.json`.
    pub fn picture(&mut self, name: &'static str, picture: Picture) {
        let _ = writeln!(self.text, "![{}](claims/{name}.svg)\n", picture.title);
        self.pictures.push((name, picture));
    }

    pub fn end(mut self) -> Result<()> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let load = self.load.take().map_or(String::new(), |load| format!(", load {load} when it began"));
        let seconds = self.start.elapsed().as_secs_f64();
        let (name, seeds) = (self.name, self.args.seeds);
        self.say(&format!(
            "`cargo run --release --example claims_{name}`: {seeds} seeds, mean ± standard deviation; {seconds:.0} s on the \
             CPU executor, {cores} cores{load}."
        ));
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        let page = docs.join("claims.md");
        let pictures = self.pictures.iter().map(|(name, picture)| {
            let drawn = picture.draw().map_err(|e| failed(Path::new(name), e))?;
            Ok((docs.join("claims").join(name), picture.json(), drawn))
        });
        let pictures = pictures.collect::<Result<Vec<_>>>()?;
        if !self.args.write {
            return Ok(());
        }
        if self.text.contains("NaN") || self.text.contains("inf ") || !self.pictures.iter().all(|(_, p)| p.is_finite())
        {
            return Err(failed(&page, "a result is not a finite number: nothing was written"));
        }
        let whole = fs::read_to_string(&page).map_err(|e| failed(&page, e))?;
        let marks = [format!("<!-- {name} -->\n"), format!("<!-- /{name} -->\n")];
        let missing = || failed(&page, format!("no {} in it", marks.concat().replace('\n', " ")));
        let (before, rest) = whole.split_once(&marks[0]).ok_or_else(missing)?;
        let (_, after) = rest.split_once(&marks[1]).ok_or_else(missing)?;
        let new = format!("{before}{}\n{}\n\n{}{after}", marks[0], self.text.trim_end(), marks[1]);
        fs::write(&page, new).map_err(|e| failed(&page, e))?;
        for (file, json, svg) in pictures {
            fs::write(file.with_extension("json"), json).map_err(|e| failed(&file, e))?;
            fs::write(file.with_extension("svg"), svg).map_err(|e| failed(&file, e))?;
        }
        Ok(())
    }
}
