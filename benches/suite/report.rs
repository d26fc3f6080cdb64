//! Rows, the table in the terminal, and `BENCHMARKS.md` from all results that were kept.

use crate::chart::chart;
use crate::measure::Times;
use crate::stats::spread;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// One comparison, or one number of a suite that compares with nobody. `ratio` is the peer's time over ours.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    pub suite: String,
    pub op: String,
    pub shape: String,
    pub device: String,
    pub ours_ms: f64,
    pub peer: Option<String>,
    pub peer_ms: Option<f64>,
    pub ratio: Option<f64>,
    pub roofline_share: Option<f64>,
    /// Median distances from the medians, as shares of them.
    pub ours_spread: f64,
    pub peer_spread: Option<f64>,
    /// Time of all threads of the process.
    pub ours_cpu_ms: Option<f64>,
    pub peer_cpu_ms: Option<f64>,
    /// Time by the device's own clock.
    pub gpu_ms: Option<f64>,
    /// What the algorithm must move and do.
    pub bytes: f64,
    pub flops: f64,
    /// Graph to plan with states filled, and the first run.
    pub compile_ms: f64,
    pub first_ms: f64,
    pub peer_first_ms: Option<f64>,
    /// What the process took beyond its start; what plan and states take.
    pub peak_mib: Option<f64>,
    pub peer_peak_mib: Option<f64>,
    pub device_mib: f64,
    pub dispatches: usize,
    pub runs: usize,
    /// What a row of another kind says, its unit, and what is wished for at the most.
    pub value: Option<f64>,
    pub unit: Option<String>,
    pub limit: Option<f64>,
}

impl Row {
    pub fn against(mut self, peer: &str, times: &Times) -> Row {
        let ms = times.median();
        self.peer = Some(peer.to_owned());
        self.peer_ms = Some(ms);
        self.ratio = Some(ms / self.ours_ms);
        self.peer_spread = Some(spread(&times.wall));
        self.peer_cpu_ms = times.cpu();
        self
    }

    /// A number that is no time of an operation.
    pub fn number(suite: &str, device: &str, op: &str, shape: String, value: f64, unit: &str) -> Row {
        let [suite, op, device] = [suite, op, device].map(str::to_owned);
        Row { suite, op, shape, device, value: Some(value), unit: Some(unit.to_owned()), ..Row::default() }
    }

    pub fn limit(mut self, limit: f64) -> Row {
        self.limit = Some(limit);
        self
    }

    fn is_control(&self) -> bool {
        self.peer.as_deref() == Some("control")
    }
}

/// What one run of a suite on a device left.
#[derive(Serialize, Deserialize)]
pub struct Results {
    pub suite: String,
    pub device: String,
    pub date: String,
    pub machine: String,
    /// Adapter and driver, or what the CPU executor runs with.
    pub adapter: String,
    /// Ours, the compiler's, the peers'.
    pub versions: Vec<String>,
    pub roofline: String,
    pub rounds: usize,
    pub rows: Vec<Row>,
}

/// Three digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => "–".into(),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        v if v >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

fn maybe(value: Option<f64>) -> String {
    value.map_or_else(String::new, short)
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share))
}

const TIMES: [&str; 13] = [
    "operation",
    "shape",
    "ours ms",
    "±",
    "device ms",
    "peer",
    "peer ms",
    "±",
    "ratio",
    "cpu ms",
    "roofline",
    "first ms",
    "peak MiB",
];

fn cells(row: &Row) -> [String; 13] {
    let beside = |ours: String, theirs: Option<f64>| theirs.map_or(ours.clone(), |t| format!("{ours} / {}", short(t)));
    [
        row.op.clone(),
        row.shape.clone(),
        short(row.ours_ms),
        percent(Some(row.ours_spread)),
        maybe(row.gpu_ms),
        row.peer.clone().unwrap_or_default(),
        maybe(row.peer_ms),
        percent(row.peer_spread),
        row.ratio.map_or_else(String::new, |r| format!("{}x", short(r))),
        beside(maybe(row.ours_cpu_ms), row.peer_cpu_ms),
        percent(row.roofline_share),
        beside(maybe(Some(row.compile_ms + row.first_ms).filter(|ms| *ms > 0.0)), row.peer_first_ms),
        beside(maybe(row.peak_mib), row.peer_peak_mib),
    ]
}

const NUMBERS: [&str; 5] = ["what", "shape", "value", "unit", "wished for"];

fn numbers(row: &Row) -> [String; 5] {
    let wished = row.limit.map_or_else(String::new, |l| format!("at most {}", short(l)));
    [row.op.clone(), row.shape.clone(), maybe(row.value), row.unit.clone().unwrap_or_default(), wished]
}

/// Columns side by side, the first two to the left.
fn table<const N: usize>(head: [&str; N], rows: &[[String; N]], lead: &str, between: &str, rule: bool) -> String {
    let mut widths = head.map(|h| h.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    let mut line = |cells: &[String; N]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(i, (cell, width))| if i < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") })
            .collect();
        let end: String = lead.chars().rev().collect();
        text.push_str(format!("{lead}{}{end}", padded.join(between)).trim_end());
        text.push('\n');
    };
    line(&head.map(str::to_owned));
    if rule {
        line(&std::array::from_fn(|i| match i {
            0 | 1 => "-".repeat(widths[i]),
            _ => format!("{}:", "-".repeat(widths[i].max(2) - 1)),
        }));
    }
    rows.iter().for_each(line);
    text
}

/// Times first, then other numbers.
fn tables(rows: &[Row], lead: &str, between: &str, rule: bool) -> String {
    let (other, times): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.value.is_some());
    let mut parts = Vec::new();
    if !times.is_empty() {
        let cells: Vec<_> = times.into_iter().map(cells).collect();
        parts.push(table(TIMES, &cells, lead, between, rule));
    }
    if !other.is_empty() {
        let cells: Vec<_> = other.into_iter().map(numbers).collect();
        parts.push(table(NUMBERS, &cells, lead, between, rule));
    }
    parts.join("\n")
}

/// For the terminal.
pub fn terminal(rows: &[Row]) -> String {
    tables(rows, "", "  ", false)
}

fn slug(text: &str) -> String {
    let plain: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' }).collect();
    plain.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

fn folder(root: &Path) -> PathBuf {
    root.join("docs/benchmarks")
}

/// Keeps the results, in place of older ones of the same suite and device.
pub fn keep(root: &Path, results: &Results) -> Result<()> {
    let folder = folder(root);
    fs::create_dir_all(&folder).context("cannot make docs/benchmarks")?;
    let path = folder.join(format!("{}-{}.json", slug(&results.device), results.suite));
    fs::write(&path, serde_json::to_string_pretty(results)? + "\n").context("cannot keep the results")
}

/// Writes `BENCHMARKS.md` and its charts from all results that were kept.
pub fn write(root: &Path) -> Result<()> {
    let folder = folder(root);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
    paths.sort();
    let mut text = INTRODUCTION.to_owned();
    for path in paths {
        let kept = fs::read_to_string(&path)?;
        let results: Results =
            serde_json::from_str(&kept).with_context(|| format!("{} holds no results", path.display()))?;
        section(&mut text, &folder, &path, &results)?;
    }
    fs::write(root.join("BENCHMARKS.md"), text).context("cannot write BENCHMARKS.md")
}

const INTRODUCTION: &str = "# Benchmarks

Written by `cargo xtask bench --write`; do not edit. Every row is from one run: ours, a control (the same plan once more, which
must come out at 1.0x) and the peers take turns in rounds, each after a run to warm up, and medians are compared. ± is the median
distance from the median. The ratio is the peer's time over ours: above 1 we are faster. The roofline is the time that the
bytes and operations of the algorithm need at the speeds measured in the same run; its share is of the device's own time where
the device has a clock (device ms), else of the wall's; of layers and steps without counts only matrix products count. Cpu ms is
the time of all threads of the process in a run. First ms is from the graph to the first result, compiling included; peak MiB is
what the process took beyond its start, and at least what plan and states hold. Where there are two numbers the second is the
peer's. Rows that are lost stay in.
";

fn section(text: &mut String, folder: &Path, path: &Path, results: &Results) -> Result<()> {
    writeln!(text, "\n## {} on {}\n", results.suite, results.device)?;
    writeln!(text, "- {}, {} rounds", results.date, results.rounds)?;
    writeln!(text, "- {}", results.machine)?;
    writeln!(text, "- {}", results.adapter)?;
    writeln!(text, "- {}", results.versions.join("; "))?;
    if !results.roofline.is_empty() {
        writeln!(text, "- {}", results.roofline)?;
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(picture) = chart(&results.rows) {
        let name = format!("{stem}.svg");
        fs::write(folder.join(&name), picture).context("cannot write a chart")?;
        writeln!(text, "\n![{} on {}](docs/benchmarks/{name})", results.suite, results.device)?;
    }
    let worst = results.rows.iter().filter(|row| row.is_control()).filter_map(|row| row.ratio);
    let worst = worst.max_by(|a, b| (a.ln().abs()).total_cmp(&b.ln().abs()));
    if let Some(worst) = worst {
        writeln!(text, "\nThe control farthest from 1 is at {}x.", short(worst))?;
    }
    // The control stands for operations that nobody was compared with.
    let compared = |row: &Row| {
        let same = |r: &&Row| r.op == row.op && r.shape == row.shape;
        !row.is_control() || results.rows.iter().filter(same).count() == 1
    };
    let rows: Vec<Row> = results.rows.iter().filter(|row| compared(row)).cloned().collect();
    write!(text, "\n{}", tables(&rows, "| ", " | ", true))?;
    Ok(())
}
