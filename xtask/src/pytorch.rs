//! `cargo xtask test --pytorch`: the example that takes checkpoints from PyTorch and back, with PyTorch on the other side.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::lab::{Gpu, Lab};
use crate::run;
use crate::summary::{Done, Stop};

const SCRIPT: &str = "examples/pytorch/originals.py";
const ORIGINALS: [&str; 4] = ["infini", "pkm", "recurrent", "colt5"];

pub fn step(lab: &Lab) -> Result<Done, Stop> {
    let (python, version) = lab.pytorch()?;
    let gpu = match lab.gpu() {
        Err(Stop::Missing(_)) if lab.allow_missing => None,
        gpu => Some(gpu?),
    };
    let (there, back) = journey(python, gpu)?;
    let adapter = gpu.map_or_else(String::new, |gpu| format!(" and {}", gpu.place()));
    let note =
        format!("outputs within {there:.1e} of PyTorch's, those of the trained models within {back:.1e} of ours");
    Ok(Done { place: format!("{version}, CPU executor{adapter}"), note })
}

/// Export, training and the way back on each executor; the largest differences there and back.
fn journey(python: &Path, gpu: Option<&Gpu>) -> Result<(f64, f64)> {
    let folder = run::target().join("pytorch");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot empty target/pytorch")?;
    }
    let script = |what: &str| run::output(run::command(python).args([SCRIPT, what]).arg(&folder));
    print!("{}", script("export")?);
    let (mut there, mut back) = (0.0, 0.0);
    for gpu in [None].into_iter().chain(gpu.map(Some)) {
        let mut example = run::cargo();
        example.args(["run", "--quiet", "--package", "wgrad", "--example", "pytorch", "--"]).arg(&folder);
        match gpu {
            None => example.args(["--device", "cpu"]),
            Some(gpu) => {
                gpu.apply(&mut example);
                example.args(["--device", &gpu.name()])
            }
        };
        for (command, worst) in [(run::output(&mut example)?, &mut there), (script("check")?, &mut back)] {
            print!("{command}");
            *worst = differences(&command)?.into_iter().fold(*worst, f64::max);
        }
    }
    Ok((there, back))
}

/// What stands behind "within", for each of the originals.
fn differences(said: &str) -> Result<Vec<f64>> {
    let each = ORIGINALS.map(|name| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let word = line.and_then(|line| line.split("within ").nth(1)?.split(' ').next());
        word.with_context(|| format!("nothing was said of {name}:\n{said}"))?.parse::<f64>().context("no number")
    });
    let each = each.into_iter().collect::<Result<Vec<f64>>>()?;
    ensure!(each.iter().all(|d| d.is_finite()), "not a number:\n{said}");
    Ok(each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_read_for_all_originals() {
        let line = |name: &str| format!("{name}: outputs within 1.5e-7 of PyTorch's; loss 5.5 to 4.2 in 20 steps\n");
        let all: String = ORIGINALS.map(line).concat();
        assert_eq!(differences(&all).expect("four numbers"), [1.5e-7; 4]);
        assert!(differences(&line("pkm")).is_err());
        assert!(differences(&all.replace("1.5e-7", "nan")).is_err());
    }
}
