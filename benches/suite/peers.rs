//! Other libraries, each in a process of its own that answers one line for each line: `prepare OP NUMBER..`, `run TIMES`,
//! `drop`. So turns alternate, and neither has the other's threads or memory. Those of a browser share one page.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;

/// A peer that was started.
pub struct Peer {
    pub name: String,
    /// Its version and where it runs.
    pub about: String,
    process: Rc<RefCell<Process>>,
    /// What stands before its words where the process is not its own.
    lead: String,
}

struct Process {
    name: String,
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Process {
    /// Starts a command and reads its first line; words are separated by spaces, a `%20` in a word is one.
    fn start(name: &str, command: &str, more: Option<&str>) -> Result<(Process, Value)> {
        let mut words = command.split(' ').filter(|word| !word.is_empty()).map(|word| word.replace("%20", " "));
        let program = words.next().context("expected a command")?;
        let mut command = Command::new(&program);
        command.args(words).args(more).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start the peer {name}: {program}"))?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let (Some(to), Some(from)) = (to, from) else { bail!("the peer {name} has no pipes") };
        let mut process = Process { name: name.to_owned(), child, to, from: BufReader::new(from) };
        let hello = process.answer()?;
        Ok((process, hello))
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.from.read_line(&mut line)? == 0 {
                bail!("the peer {} ended: {:?}", self.name, self.child.wait()?);
            }
            // Libraries may print, too.
            if let Ok(value @ Value::Object(_)) = serde_json::from_str(&line) {
                return Ok(value);
            }
        }
    }

    fn ask(&mut self, line: &str) -> Result<Value> {
        writeln!(self.to, "{line}")?;
        self.to.flush()?;
        self.answer()
    }
}

impl Peer {
    /// Starts `NAME=COMMAND`.
    pub fn start(text: &str, device: &str) -> Result<Peer> {
        let (name, command) = text.split_once('=').context("expected NAME=COMMAND")?;
        let (process, hello) = Process::start(name, command, Some(device))?;
        let about = hello["about"].as_str().unwrap_or_default().to_owned();
        let process = Rc::new(RefCell::new(process));
        Ok(Peer { name: name.to_owned(), about, process, lead: String::new() })
    }

    /// Starts one process for several, ours first, and says in which browser they are.
    pub fn page(command: &str) -> Result<(Vec<Peer>, String)> {
        let (process, hello) = Process::start("browser", command, None)?;
        let process = Rc::new(RefCell::new(process));
        let mut peers = Vec::new();
        for (name, about) in hello["about"].as_object().into_iter().flatten() {
            let about = about.as_str().unwrap_or_default().to_owned();
            peers.push(Peer { name: name.clone(), about, process: process.clone(), lead: format!("{name} ") });
        }
        peers.sort_by_key(|peer| peer.name != "wgrad");
        Ok((peers, hello["browser"].as_str().unwrap_or("browser").to_owned()))
    }

    fn ask(&mut self, verb: &str, rest: &str) -> Result<Value> {
        self.process.borrow_mut().ask(format!("{verb} {}{rest}", self.lead).trim_end())
    }

    /// Milliseconds of the first run with everything before it; `None` if the peer does not have the operation.
    pub fn prepare(&mut self, op: &str, dims: &[usize]) -> Result<Option<f64>> {
        let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
        let answer = self.ask("prepare", &format!("{op} {}", dims.join(" ")))?;
        if let Some(error) = answer["error"].as_str() {
            eprintln!("{}: {op}: {error}", self.name);
        }
        Ok(answer["first_ms"].as_f64())
    }

    /// Milliseconds of each of `times` runs, or of one of them on average, and of all threads in all of them.
    pub fn run(&mut self, times: usize) -> Result<(Vec<f64>, Option<f64>)> {
        let answer = self.ask("run", &times.to_string())?;
        let ms = answer["ms"].as_array().map(|all| all.iter().filter_map(Value::as_f64).collect());
        let ms: Vec<f64> = ms.with_context(|| format!("the peer {} did not run: {answer}", self.name))?;
        Ok((ms, answer["cpu_ms"].as_f64()))
    }

    /// Frees what was prepared; MiB that it took at the most.
    pub fn forget(&mut self) -> Result<Option<f64>> {
        Ok(self.ask("drop", "")?["peak_mib"].as_f64())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its standard input ends, and it with it; one that hangs is ended.
        let _ = writeln!(self.to, "quit");
        let _ = self.to.flush();
        std::thread::sleep(std::time::Duration::from_millis(200));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
