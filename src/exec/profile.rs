//! How long each kernel took.

use super::explain::{Explanation, bytes, count};
use super::{Executor, Feed, Plan};
use crate::error::{Error, Result};
use crate::trace::{span, within};
use serde_json::{Value, json};
use std::fmt;
use std::time::Duration;

/// When a dispatch ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the start of the first one on.
    pub start: Duration,
    /// How long it took; 0 where the device's clock did not move, or the driver gave no time.
    pub time: Duration,
}

/// All dispatches of one kernel for one operation.
#[derive(Clone, Debug)]
pub struct KernelTime {
    /// The operation.
    pub operation: &'static str,
    /// The kernel.
    pub kernel: String,
    /// How often.
    pub calls: usize,
    /// Together.
    pub time: Duration,
    /// Bytes read and written, as in [`Explained`](super::Explained).
    pub bytes: u64,
    /// Operations, as in [`Explained`](super::Explained).
    pub operations: u64,
}

/// How long each dispatch of a run took ([`Plan::profile`]). Print it for a table of kernels, then of the slowest
/// dispatches with the lines that asked for them.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What the dispatches do.
    pub explanation: Explanation,
    /// When they ran, in the same order.
    pub timings: Vec<Timing>,
}

/// Dispatches that the printed table shows one by one.
const SLOWEST: usize = 10;

impl Profile {
    /// All dispatches together, without gaps between them.
    pub fn total(&self) -> Duration {
        self.timings.iter().map(|t| t.time).sum()
    }

    /// Sums by operation and kernel, the slowest first.
    pub fn kernels(&self) -> Vec<KernelTime> {
        let mut all: Vec<KernelTime> = Vec::new();
        for (d, t) in self.explanation.dispatches.iter().zip(&self.timings) {
            let known = all.iter().position(|k| k.operation == d.operation && k.kernel == d.kernel);
            let at = known.unwrap_or(all.len());
            if known.is_none() {
                let (operation, kernel) = (d.operation, d.kernel.clone());
                all.push(KernelTime { operation, kernel, calls: 0, time: Duration::ZERO, bytes: 0, operations: 0 });
            }
            let sum = &mut all[at];
            sum.calls += 1;
            sum.time += t.time;
            sum.bytes += d.bytes;
            sum.operations += d.operations;
        }
        all.sort_by_key(|k| std::cmp::Reverse(k.time));
        all
    }

    /// The run in the format of Chrome's tracing: for `chrome://tracing`, Perfetto or Speedscope.
    pub fn chrome_trace(&self) -> String {
        let micros = |d: Duration| d.as_nanos() as f64 / 1e3;
        let one = |(d, t): (&super::Explained, &Timing)| {
            let lines: Vec<String> = d.calls.iter().map(ToString::to_string).collect();
            json!({
                "ph": "X", "pid": 1, "tid": 1, "name": d.operation, "cat": d.kernel,
                "ts": micros(t.start), "dur": micros(t.time),
                "args": {
                    "kernel": d.kernel, "lines": lines, "workgroups": d.workgroups,
                    "bytes": d.bytes, "operations": d.operations,
                },
            })
        };
        let name = json!({
            "ph": "M", "pid": 1, "name": "process_name", "args": { "name": self.explanation.device },
        });
        let events: Vec<Value> =
            std::iter::once(name).chain(self.explanation.dispatches.iter().zip(&self.timings).map(one)).collect();
        json!({ "displayTimeUnit": "ns", "traceEvents": events }).to_string()
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total().as_secs_f64().max(1e-12);
        let heads = ["calls", "time", "share", "GB/s", "Gop/s"];
        let [calls, time, share, rate, work] = heads;
        writeln!(f, "{:<18} {:<26} {calls:>5} {time:>10} {share:>6} {rate:>7} {work:>7}", "operation", "kernel")?;
        for k in self.kernels() {
            let seconds = k.time.as_secs_f64();
            let per = |n: u64| if seconds > 0.0 { format!("{:.1}", n as f64 / seconds / 1e9) } else { "-".into() };
            writeln!(
                f,
                "{:<18} {:<26} {:>5} {:>10} {:>4.1} % {:>7} {:>7}",
                k.operation,
                k.kernel,
                k.calls,
                format!("{:.1?}", k.time),
                100.0 * seconds / total,
                per(k.bytes),
                per(k.operations)
            )?;
        }
        let mut order: Vec<usize> = (0..self.timings.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(self.timings[*i].time));
        writeln!(f, "slowest:")?;
        for i in order.into_iter().take(SLOWEST) {
            let (Some(d), Some(t)) = (self.explanation.dispatches.get(i), self.timings.get(i)) else { continue };
            let time = format!("{:.1?}", t.time);
            let (size, work) = (bytes(d.bytes), count(d.operations as f64));
            let least = match self.explanation.roofline {
                Some(r) => format!(", at least {:.1?}", r.time(d.bytes, d.operations)),
                None => String::new(),
            };
            writeln!(
                f,
                "{i:4}  {time:>10}  {:<18} {:<26} {size}, {work} op{least}  {}",
                d.operation,
                d.kernel,
                d.place()
            )?;
        }
        writeln!(f, "{:.1?} in {} dispatches; {}", self.total(), self.timings.len(), self.explanation.device)
    }
}

impl Plan {
    /// Runs once, waits, and returns how long each kernel took: on a GPU by its own clock, with a pass for each dispatch,
    /// which makes the run as a whole slower; on the CPU executor by the host's, step by step.
    ///
    /// A GPU device must have been made with [`GpuOptions::timestamps`](crate::GpuOptions::timestamps), on an adapter that
    /// has them. Browsers round timestamps to 100 µs unless told otherwise.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Error::Argument`] if a GPU device has no timestamps.
    pub async fn profile(&self, feed: &Feed<'_>) -> Result<Profile> {
        feed.lives_on(&self.device)?;
        let spans = within(span!(DEBUG, "profile", step = feed.step), self.spans(feed)).await?;
        let timings = spans.into_iter().map(|(start, time)| Timing { start, time }).collect();
        Ok(Profile { explanation: self.explain(), timings })
    }

    async fn spans(&self, feed: &Feed<'_>) -> Result<Vec<(Duration, Duration)>> {
        match &self.executor {
            Executor::Gpu(p) => p.profile(feed).await?.ok_or_else(|| {
                Error::argument(
                    "profile",
                    "the device has no timestamps; make it with GpuOptions::timestamps, on an adapter that has them",
                )
            }),
            #[cfg(feature = "cpu")]
            Executor::Cpu32(p) => p.profile(feed),
            #[cfg(feature = "oracle")]
            Executor::Cpu64(p) => p.profile(feed),
        }
    }

    /// [`profile`](Self::profile), waiting on this thread.
    ///
    /// # Errors
    /// As [`profile`](Self::profile).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn profile_blocking(&self, feed: &Feed<'_>) -> Result<Profile> {
        pollster::block_on(self.profile(feed))
    }
}
