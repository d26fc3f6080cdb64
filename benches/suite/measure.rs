//! Turns in rounds: ours, the same again as a control, then each peer, each round beginning with another one. What
//! disturbs the machine for a while disturbs all of them.

use crate::peers::Peer;
use crate::process::{Peak, cpu_ms};
use crate::report::Row;
use crate::roofline::Roofline;
use crate::stats::{median, spread};
use crate::work::{Case, Work, wait};
use anyhow::Result;
use std::time::{Duration, Instant};
use wgrad::Device;

/// How long to measure.
#[derive(Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    /// Milliseconds of a turn, if a run is shorter.
    pub turn: f64,
    /// Milliseconds in which no new round begins any more once three are done.
    pub enough: f64,
}

impl Effort {
    pub fn new(rounds: Option<usize>, quick: bool) -> Effort {
        match quick {
            true => Effort { rounds: rounds.unwrap_or(2), turn: 5.0, enough: 2_000.0 },
            false => Effort { rounds: rounds.unwrap_or(11), turn: 40.0, enough: 30_000.0 },
        }
    }

    /// Runs of one turn.
    pub fn times(&self, ms: f64) -> usize {
        ((self.turn / ms.max(1e-3)) as usize).clamp(1, 50)
    }
}

/// Pause after another process's turn, while its threads go to sleep.
const SETTLE: Duration = Duration::from_millis(15);

/// Milliseconds above which a run needs none before it to warm up.
const LONG: f64 = 300.0;

/// Times of one contender.
#[derive(Default)]
pub struct Times {
    pub wall: Vec<f64>,
    pub cpu: Vec<f64>,
}

impl Times {
    pub fn median(&self) -> f64 {
        median(&mut self.wall.clone())
    }

    pub fn cpu(&self) -> Option<f64> {
        (!self.cpu.is_empty()).then(|| median(&mut self.cpu.clone()))
    }
}

/// Milliseconds of one run, waited for.
pub fn once(device: &Device, work: &mut dyn Work) -> Result<f64> {
    let start = Instant::now();
    work.run()?;
    wait(device)?;
    Ok(1e3 * start.elapsed().as_secs_f64())
}

fn turn(device: &Device, work: &mut dyn Work, times: usize, warm: bool, into: &mut Times) -> Result<()> {
    if warm {
        once(device, work)?;
    }
    let cpu = cpu_ms();
    for _ in 0..times {
        into.wall.push(once(device, work)?);
    }
    if let (Some(before), Some(after)) = (cpu, cpu_ms()) {
        into.cpu.push((after - before) / times as f64);
    }
    Ok(())
}

/// Operations of all matrix products of a run: what models that count nothing themselves do at the least.
fn products(work: &dyn Work) -> f64 {
    let steps = work.plans().into_iter().flat_map(|plan| &plan.program().steps);
    let each = |step: &wgrad::plan::Step| match (step.op.name(), step.inputs.first(), step.outputs.first()) {
        ("matmul", Some(a), Some(y)) => 2.0 * y.numel() as f64 * a.ty.shape.last().copied().unwrap_or(1) as f64,
        _ => 0.0,
    };
    steps.map(each).sum()
}

/// A peer that has the operation.
struct Rival<'a> {
    peer: &'a mut Peer,
    first: f64,
    times: usize,
    taken: Times,
}

impl<'a> Rival<'a> {
    fn prepare(peer: &'a mut Peer, case: &Case, effort: Effort) -> Result<Option<Rival<'a>>> {
        let Some(first) = peer.prepare(case.op, &case.dims)? else { return Ok(None) };
        let (once, _) = peer.run(1)?;
        let times = effort.times(once.first().copied().unwrap_or(1.0));
        Ok(Some(Rival { peer, first, times, taken: Times::default() }))
    }

    fn turn(&mut self) -> Result<()> {
        if self.taken.wall.last().is_none_or(|ms| *ms < LONG) {
            self.peer.run(1)?;
        }
        let (ms, cpu) = self.peer.run(self.times)?;
        self.taken.wall.extend(ms);
        self.taken.cpu.extend(cpu.map(|cpu| cpu / self.times as f64));
        std::thread::sleep(SETTLE);
        Ok(())
    }
}

/// Turns in rounds until they are enough: ours and the control, which are the same, then the rivals.
fn contend(
    device: &Device,
    work: &mut dyn Work,
    rivals: &mut [Rival<'_>],
    effort: Effort,
    estimate: f64,
) -> Result<[Times; 2]> {
    let mut own = [Times::default(), Times::default()];
    let (times, warm) = (effort.times(estimate), estimate < LONG);
    let begun = Instant::now();
    let contenders = own.len() + rivals.len();
    for round in 0..effort.rounds {
        if round >= 3 && 1e3 * begun.elapsed().as_secs_f64() > effort.enough {
            break;
        }
        for i in 0..contenders {
            match (i + round) % contenders {
                i if i < own.len() => turn(device, work, times, warm, &mut own[i])?,
                i => rivals[i - own.len()].turn()?,
            }
        }
    }
    Ok(own)
}

/// Measures one case: the row of the control, then one for each peer that has it.
pub fn measure(
    suite: &str,
    device: &Device,
    label: &str,
    case: &Case,
    peers: &mut [Peer],
    roofline: Option<&Roofline>,
    effort: Effort,
) -> Result<Vec<Row>> {
    let peak = Peak::start();
    let start = Instant::now();
    let mut work = (case.make)(device)?;
    wait(device)?;
    let compile_ms = 1e3 * start.elapsed().as_secs_f64();
    let first_ms = once(device, &mut *work)?;
    let estimate = once(device, &mut *work)?;
    let mut rivals = Vec::new();
    for peer in peers.iter_mut() {
        rivals.extend(Rival::prepare(peer, case, effort)?);
    }
    let own = contend(device, &mut *work, &mut rivals, effort, estimate)?;
    let mut device_times = Vec::new();
    for _ in 0..effort.rounds.min(5) {
        device_times.extend(work.timed()?.map(|t| 1e3 * t.as_secs_f64()));
    }
    let gpu_ms = (!device_times.is_empty()).then(|| median(&mut device_times));
    let ours_ms = own[0].median();
    // The device's own time is what a kernel takes; the wall has the waiting in it.
    let flops = if case.flops > 0.0 { case.flops } else { products(&*work) };
    let share = |r: &Roofline| 1e3 * r.seconds(case.bytes, flops) / gpu_ms.unwrap_or(ours_ms).min(ours_ms);
    let device_mib = work.bytes() as f64 / 1048576.0;
    let row = Row {
        suite: suite.to_owned(),
        op: case.op.to_owned(),
        shape: case.shape(),
        device: label.to_owned(),
        ours_ms,
        roofline_share: roofline.map(share),
        ours_spread: spread(&own[0].wall),
        ours_cpu_ms: own[0].cpu(),
        gpu_ms,
        bytes: case.bytes,
        flops,
        compile_ms,
        first_ms,
        // Memory that was freed before may be taken again unnoticed.
        peak_mib: peak.mib().map(|mib| mib.max(device_mib)),
        device_mib,
        dispatches: work.plans().iter().map(|p| p.dispatches()).sum(),
        runs: own[0].wall.len(),
        ..Row::default()
    };
    drop(work);
    let mut rows = vec![row.clone().against("control", &own[1])];
    for rival in rivals {
        let peak = rival.peer.forget()?;
        let against = row.clone().against(&rival.peer.name, &rival.taken);
        rows.push(Row { peer_first_ms: Some(rival.first), peer_peak_mib: peak, ..against });
    }
    Ok(rows)
}
