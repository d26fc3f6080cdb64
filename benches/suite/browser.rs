//! The npm package in a browser's page: turns with other libraries on that page, and with this program on the browser's
//! own kind of adapter, SwiftShader, where the Vulkan loader has it.

use crate::kernels;
use crate::measure::{Effort, Times};
use crate::peers::Peer;
use crate::report::Row;
use crate::stats::spread;
use crate::steps;
use crate::work::{Case, Work, graph, wait};
use anyhow::{Context, Result};
use std::time::Instant;
use wgrad::{Device, GpuOptions};

/// What the device is called.
pub const LABEL: &str = "browser";

/// A page with its libraries, ours first, and the same adapter natively.
pub struct Browser {
    pub peers: Vec<Peer>,
    pub about: String,
    native: Option<Device>,
}

impl Browser {
    pub fn start(command: &str) -> Result<Browser> {
        let (peers, about) = Peer::page(command)?;
        let name = Some("SwiftShader".to_owned());
        let native = Device::gpu_blocking(GpuOptions { adapter: name, software: true, ..GpuOptions::default() });
        if let Err(error) = &native {
            eprintln!("not compared with native runs: {error}");
        }
        Ok(Browser { peers, about, native: native.ok() })
    }

    /// Versions of all.
    pub fn versions(&self) -> Vec<String> {
        let native = self.native.iter().map(|device| format!("native: {device}"));
        self.peers.iter().map(|p| format!("{}: {}", p.name, p.about)).chain(native).collect()
    }
}

/// Operations that the page has, as large as its libraries can bear.
pub fn kernels() -> Vec<Case> {
    let fits = |case: &Case| match (case.op, &case.dims[..]) {
        ("matmul", [m, k, n]) => m == k && k == n && *n <= 1024,
        ("top_k", [_, _, k]) => *k <= 32,
        (op, _) => ["softmax", "gather", "gather_grad"].contains(&op),
    };
    kernels::cases().into_iter().filter(fits).collect()
}

/// The same steps in the browser and natively.
pub fn steps() -> Vec<Case> {
    let chain = |count: usize| {
        let build = graph(move |s| {
            // Neither grows without end nor vanishes.
            let (x, w) = (s.floats([8, 8]), s.floats([8, 8]) * 0.35);
            vec![(0..count).fold(x, |x, _| x.matmul(w))]
        });
        Case::new("small_products", &[count], build)
    };
    vec![chain(200), steps::mlp_adam(256, 256, 1024)]
}

/// One that takes turns.
enum Contender<'a> {
    Page(&'a str),
    Native(&'a Device, Box<dyn Work>),
}

struct Turns<'a> {
    who: Contender<'a>,
    /// Runs in a row, which are waited for together.
    times: usize,
    taken: Times,
}

impl Turns<'_> {
    fn turn(&mut self, peers: &mut [Peer], times: usize) -> Result<f64> {
        match &mut self.who {
            Contender::Page(name) => {
                let peer = peers.iter_mut().find(|peer| peer.name == *name).context("a peer is gone")?;
                peer.run(times)?.0.first().copied().context("a peer took no time")
            }
            Contender::Native(device, work) => {
                let start = Instant::now();
                (0..times).try_for_each(|_| work.run())?;
                wait(device)?;
                Ok(1e3 * start.elapsed().as_secs_f64() / times as f64)
            }
        }
    }
}

/// Rows of one case: the control, every library that has the operation, and the native run.
pub fn measure(suite: &str, browser: &mut Browser, case: &Case, effort: Effort) -> Result<Vec<Row>> {
    let mut prepared: Vec<(String, f64)> = Vec::new();
    for peer in &mut browser.peers {
        prepared.extend(peer.prepare(case.op, &case.dims)?.map(|first| (peer.name.clone(), first)));
    }
    let Some((ours, first)) = prepared.first().filter(|(name, _)| name == "wgrad") else { return Ok(Vec::new()) };
    let mut all: Vec<Turns<'_>> = Vec::new();
    let turns = |who| Turns { who, times: 1, taken: Times::default() };
    all.push(turns(Contender::Page(ours)));
    all.extend(prepared.iter().map(|(name, _)| turns(Contender::Page(name))));
    if let Some(device) = &browser.native {
        all.push(turns(Contender::Native(device, (case.make)(device)?)));
    }
    contend(&mut browser.peers, &mut all, effort)?;
    let base = Row {
        suite: suite.to_owned(),
        op: case.op.to_owned(),
        shape: case.shape(),
        device: LABEL.to_owned(),
        ours_ms: all[0].taken.median(),
        ours_spread: spread(&all[0].taken.wall),
        bytes: case.bytes,
        flops: case.flops,
        first_ms: *first,
        runs: all[0].taken.wall.len() * all[0].times,
        ..Row::default()
    };
    let mut rows = vec![base.clone().against("control", &all[1].taken)];
    for ((name, first), turns) in prepared.iter().zip(&all[1..]).skip(1) {
        let row = base.clone().against(name, &turns.taken);
        rows.push(Row { peer_first_ms: Some(*first), ..row });
    }
    if let Some(Turns { who: Contender::Native(_, work), taken, .. }) = all.last() {
        rows.push(base.clone().against("native", taken));
        let dispatches: usize = work.plans().iter().map(|plan| plan.dispatches()).sum();
        // 15 % of the same adapter natively, and six microseconds a dispatch for the browser's checks and its other process.
        let allowed = 1.15 * taken.median() + 6e-3 * dispatches as f64;
        let what = format!("{}: of 1.15 times native and 6 µs a dispatch", case.op);
        rows.push(Row::number(suite, LABEL, &what, case.shape(), base.ours_ms / allowed, "x").limit(1.0));
    }
    drop(all);
    browser.peers.iter_mut().try_for_each(|peer| peer.forget().map(drop))?;
    Ok(rows)
}

fn contend(peers: &mut [Peer], all: &mut [Turns<'_>], effort: Effort) -> Result<()> {
    for turns in all.iter_mut() {
        turns.turn(peers, 1)?;
        turns.times = effort.times(turns.turn(peers, 1)?);
    }
    let begun = Instant::now();
    for round in 0..effort.rounds {
        if round >= 3 && 1e3 * begun.elapsed().as_secs_f64() > effort.enough {
            break;
        }
        for i in 0..all.len() {
            let turns = &mut all[(i + round) % all.len()];
            let ms = turns.turn(peers, turns.times)?;
            turns.taken.wall.push(ms);
        }
    }
    Ok(())
}
