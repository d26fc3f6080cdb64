//! The example under `mpirun`, on one machine: what it learns does not depend on the number of ranks, and what happens when a
//! rank fails or dies.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use wgrad::train::{Checkpoint, Collective};

/// Texts of a step, of all ranks together.
const WHOLE: usize = 8;
/// What waits longer than this hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// The example, which cargo builds for the tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    let built = test.parent().and_then(Path::parent).expect("a build folder").join("examples/train");
    assert!(built.exists(), "{} is not there: run all of `cargo test`", built.display());
    built
}

fn text() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")
}

/// `mpirun`, also as root, and with more ranks than cores.
fn mpirun() -> Command {
    let mut command = Command::new("mpirun");
    command.arg("--oversubscribe").stdin(Stdio::null());
    command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
    // Containers forbid reading another process's memory.
    command.env("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
    // Two threads each are plenty.
    command.env("RAYON_NUM_THREADS", "2");
    command
}

/// Adds `ranks` ranks that share the whole batch, in one program of the job.
fn ranks<'a>(command: &'a mut Command, ranks: usize, of: usize, steps: u64, save: &Path) -> &'a mut Command {
    ranks_on(command, ranks, of, steps, save).args(["--device", "cpu"])
}

fn ranks_on<'a>(command: &'a mut Command, ranks: usize, of: usize, steps: u64, save: &Path) -> &'a mut Command {
    let [n, batch, steps] = [ranks as u64, (WHOLE / of) as u64, steps].map(|n| n.to_string());
    command.args(["-n", &n]).arg(example()).args(["--text", text(), "--batch", &batch, "--steps", &steps]);
    command.args(["--dim", "32", "--length", "32", "--save"]).arg(save)
}

/// Waits for a job, and ends it if it hangs.
fn ended(mut child: Child) -> Output {
    let begun = Instant::now();
    while child.try_wait().expect("a status").is_none() {
        if begun.elapsed() > LIMIT {
            let _ = child.kill();
            panic!("the job hangs: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("its output")
}

fn output(command: &mut Command) -> Output {
    ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mpirun"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn succeeds(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

fn losses(path: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(path).expect("records");
    text.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap())
        .collect()
}

/// The largest difference of two checkpoints.
fn apart(a: &Path, b: &Path) -> f32 {
    let [a, b] = [a, b].map(|path| Checkpoint::open(path).expect("a checkpoint"));
    assert_eq!(a.names(), b.names());
    let of = |name: &String| {
        let [a, b] = [&a, &b].map(|file| file.tensor(name));
        // Touches of rows are whole numbers.
        let (Ok(a), Ok(b)) = (a, b) else { return 0.0 };
        assert_eq!(a.shape(), b.shape(), "{name}");
        // A NaN is as far apart as can be.
        let off = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
        a.floats().iter().zip(b.floats()).map(off).fold(0.0, f32::max)
    };
    a.names().iter().map(of).fold(0.0, f32::max)
}

/// Losses and parameters of 12 steps, dropout and touched rows included, on 1, 2 and 4 ranks.
#[test]
fn ranks_make_the_steps_of_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let file = |n: usize, kind: &str| folder.path().join(format!("{n}.{kind}"));
    for n in [1, 2, 4] {
        let mut command = mpirun();
        let said = succeeds(ranks(&mut command, n, n, 12, &file(n, "safetensors")).arg("--json").arg(file(n, "jsonl")));
        assert!((0..n).all(|rank| said.contains(&format!("rank {rank} of {n}: process"))), "{said}");
    }
    let alone = losses(&file(1, "jsonl"));
    assert!(alone.len() == 12 && alone[11] < alone[0] - 0.1, "{alone:?}");
    for n in [2, 4] {
        let several = losses(&file(n, "jsonl"));
        assert_eq!(several.len(), alone.len());
        let far = alone.iter().zip(several).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let apart = apart(&file(1, "safetensors"), &file(n, "safetensors"));
        println!("{n} ranks: losses differ by {far:.1e}, parameters and moments by {apart:.1e}");
        assert!(far <= 1e-5 && apart <= 1e-4, "{n} ranks: losses {far}, parameters {apart}");
    }
}

/// The same on the adapter that `WGRAD_TEST_ADAPTER` names, dealt out to both ranks.
#[test]
fn ranks_share_an_adapter() {
    let Ok(adapter) = std::env::var("WGRAD_TEST_ADAPTER") else {
        println!("SKIPPED: WGRAD_TEST_ADAPTER names no adapter");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    succeeds(ranks(&mut mpirun(), 1, 1, 3, &file("cpu")).arg("--json").arg(file("cpu.jsonl")));
    let mut command = mpirun();
    let command = ranks_on(&mut command, 2, 2, 3, &file("gpu")).arg("--json").arg(file("gpu.jsonl"));
    let said = succeeds(command.args(["--device", "gpu", "--adapter", &adapter]));
    assert!(said.matches(adapter.as_str()).count() >= 2, "{said}");
    let (cpu, gpu) = (losses(&file("cpu.jsonl")), losses(&file("gpu.jsonl")));
    assert!(cpu.len() == 3 && gpu.len() == 3, "{cpu:?}, {gpu:?}");
    for (cpu, gpu) in cpu.into_iter().zip(gpu) {
        assert!((cpu - gpu).abs() < 1e-3, "{cpu} and {gpu}");
    }
}

/// Killed in the middle of a long run: the job ends by itself and says so, and goes on from the last checkpoint, on another
/// number of ranks too.
#[test]
fn a_rank_that_is_killed_ends_the_job_and_leaves_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (save, more) = (folder.path().join("killed"), folder.path().join("more"));
    let mut command = mpirun();
    ranks(&mut command, 2, 2, 1_000_000, &save).args(["--save-every", "5"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mpirun");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let mut victim = None;
    for line in lines.by_ref() {
        if let Some(rest) = line.strip_prefix("rank 1 of 2: process ") {
            victim = rest.split(',').next().map(str::to_owned);
        }
        if line.starts_with("step 20:") {
            break;
        }
    }
    let victim = victim.expect("rank 1 says its process");
    assert!(Command::new("kill").args(["-KILL", &victim]).status().expect("kill").success());
    let rest = thread::spawn(move || lines.count());
    let output = ended(child);
    rest.join().unwrap();
    let said = said(&output);
    assert!(!output.status.success() && said.contains("rank 1") && said.contains("Killed"), "{said}");
    let saved = Checkpoint::open(&save).expect("a whole checkpoint");
    let steps: u64 = saved.metadata("wgrad.steps").expect("steps").parse().expect("a number");
    assert!(steps >= 15 && steps.is_multiple_of(5), "{steps}");
    succeeds(ranks(&mut mpirun(), 4, 4, steps + 2, &more).arg("--resume").arg(&save));
    assert_eq!(Checkpoint::open(&more).unwrap().metadata("wgrad.steps"), Some((steps + 2).to_string().as_str()));
}

/// An error of one rank, here a text that is not there, is the end of all, with its words.
#[test]
fn a_rank_that_fails_ends_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("none");
    let mut command = mpirun();
    ranks(&mut command, 1, 2, 50, &save).arg(":");
    ranks(&mut command, 1, 2, 50, &save).args(["--resume", "/no/such/checkpoint"]);
    let failed = output(&mut command);
    let said = said(&failed);
    assert!(!failed.status.success() && !save.exists(), "{said}");
    assert!(said.contains("error: rank 1 of 2: ") && said.contains("/no/such/checkpoint"), "{said}");
    assert!(said.contains("the job ends"), "{said}");
}

/// A rank of [`what_ranks_do_not_do_alike_is_an_error`], under `mpirun`: what it is asked for, and how the others take it.
#[test]
#[ignore = "mpirun starts it"]
fn a_rank_of_its_own_mind() {
    let done = wgrad_mpi::run(|ranks| {
        let last = ranks.rank() + 1 == ranks.ranks();
        let refused = |result: wgrad::Result<Vec<u32>>, word: &str| match result {
            Err(wgrad::Error::Rank { message, .. }) if message.contains(word) => Ok(()),
            other => Err(format!("not {word}: {other:?}")),
        };
        let count = if last { 2 } else { 4 };
        refused(ranks.gather(&vec![1; count]), "words where rank")?;
        let word = "another call";
        if last {
            refused(ranks.gather(&[1; 2]), word)?
        } else {
            refused(ranks.exchange(&[1; 2]), word)?
        };
        assert_eq!(ranks.gather(&[ranks.rank() as u32]).map_err(|error| error.to_string())?, [0, 1]);
        if !last {
            // The other's work is over; said as often as asked.
            refused(ranks.gather(&[1]), "is gone")?;
            refused(ranks.exchange(&[1; 2]), "is gone")?;
            println!("rank 0 was told");
        }
        Ok::<_, String>(())
    });
    assert_eq!(done, std::process::ExitCode::SUCCESS);
}

#[test]
fn what_ranks_do_not_do_alike_is_an_error() {
    let mut command = mpirun();
    command.args(["-n", "2"]).arg(std::env::current_exe().expect("this program"));
    let said = succeeds(command.args(["--exact", "a_rank_of_its_own_mind", "--ignored", "--nocapture"]));
    assert!(said.contains("rank 0 was told"), "{said}");
}

/// A rank that makes fewer steps than the others keeps nobody waiting.
#[test]
fn a_rank_that_ends_early_ends_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("none");
    let mut command = mpirun();
    ranks(&mut command, 1, 2, 50, &save).arg(":");
    ranks(&mut command, 1, 2, 3, &save);
    let failed = output(&mut command);
    let said = said(&failed);
    assert!(!failed.status.success() && !save.exists(), "{said}");
    // It saves, where the other makes a step; either of them may be the first to say so.
    let unlike = ["made another call", "words where rank"].iter().any(|words| said.contains(words));
    assert!(unlike && said.contains("the job ends"), "{said}");
}

/// Ranks that would train different things do not begin.
#[test]
fn ranks_that_disagree_do_not_train() {
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("none");
    let mut command = mpirun();
    ranks(&mut command, 1, 2, 50, &save).arg(":");
    ranks(&mut command, 1, 2, 50, &save).args(["--seed", "5"]);
    let failed = output(&mut command);
    let said = said(&failed);
    assert!(!failed.status.success() && !save.exists(), "{said}");
    assert!(said.contains("rank 1: trains something else than rank 0"), "{said}");
    // With other batches, sums would be of unlike parts.
    let mut command = mpirun();
    ranks(&mut command, 1, 2, 50, &save).arg(":");
    ranks(&mut command, 1, 4, 50, &save);
    let failed = output(&mut command);
    let said = self::said(&failed);
    assert!(!failed.status.success() && said.contains("ids u32[2, 33]") && said.contains("ids u32[4, 33]"), "{said}");
}
