//! Block recurrence carries facts beyond the window of attention (Hutchins et al. 2022, arXiv 2203.07852): loss by distance to
//! the fact that a question needs, and by position in the text, for the memory of the last block alone (Transformer-XL, Dai et
//! al. 2019, arXiv 1901.02860), with recurrent states, and with a routed memory of all past inputs.
//!
//! `cargo run --release --example claims_recurrence`

mod recall;
mod support;

use recall::{Answer, Model, Needs, TOKENS, Task, VALUES, of};
use support::{Line, Picture, Report, over};
use wgrad::models::long_memory::{Lookback, RoutedMemoryConfig};
use wgrad::models::recurrent::{BlockRecurrentConfig, BlockRecurrentTransformer, Carried, LongMemoryLayers};
use wgrad::nn::{ParamVars, Params};
use wgrad::{Result, Var};

/// Tokens of a block and of a text; features.
const BLOCK: usize = 16;
const LENGTH: usize = 128;
const DIM: usize = 32;
/// Where ranges of distances, and of positions, begin.
const FROM: [usize; 4] = [0, 16, 32, 64];

impl Model for BlockRecurrentTransformer {
    fn init(&self, seed: u64) -> Params {
        BlockRecurrentTransformer::init(self, seed)
    }

    fn logits<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.forward_attached(p, ids, &Carried::default()).0
    }
}

fn model(states: bool, routed: bool) -> Result<BlockRecurrentTransformer> {
    let memory = RoutedMemoryConfig {
        heads: 2,
        dim_head: 16,
        lookback: Some(Lookback { latest: BLOCK, heads: 2, dim_head: 16 }),
        ..RoutedMemoryConfig::new(DIM, LENGTH, 2 * BLOCK)
    };
    BlockRecurrentTransformer::new(BlockRecurrentConfig {
        heads: 2,
        dim_head: 16,
        ff_mult: 2.0,
        block_width: BLOCK,
        max_seq_len: LENGTH,
        recurrent_layers: Some(if states { vec![1] } else { vec![] }),
        long_memory: routed.then_some(LongMemoryLayers { layers: vec![1], memory }),
        ..BlockRecurrentConfig::new(TOKENS, DIM, 2)
    })
}

/// The range that begins at `FROM[i]`.
fn within(i: usize, value: usize) -> bool {
    value >= FROM[i] && FROM.get(i + 1).is_none_or(|next| value < *next)
}

fn run(report: &mut Report) -> Result<()> {
    let steps = report.args.size(1200, 2);
    let arms =
        [("XL only", model(false, false)?), ("recurrent", model(true, false)?), ("routed memory", model(false, true)?)];
    let task = Task { length: LENGTH, things: 4, asking: 5, lasting: false };
    let all = report.args.each(&arms, |(_, model), seed| recall::train(model, task, seed, (steps, 5e-3)))?;
    let (mut rows, mut places) = (Vec::new(), Vec::new());
    let (mut lines, mut sizes) = (Vec::new(), Vec::new());
    for ((name, model), runs) in arms.iter().zip(all) {
        let far = |a: &Answer| if let Needs::Thing(distance) = a.needs { distance } else { 0 };
        let loss =
            |run: &[Answer], i: usize, of_what: fn(&Answer, usize) -> bool| of(run, |a| of_what(a, i), |a| a.loss);
        let by_distance =
            |i: usize| runs.iter().map(|run| of(run, |a| within(i, far(a)), |a| a.loss)).collect::<Vec<_>>();
        let at = |a: &Answer, i: usize| within(i, a.position);
        let right = over(&runs, 0, |run| 100.0 * of(run, |_| true, |a| f64::from(u8::from(a.right)))) + " %";
        let cells = (0..FROM.len()).map(|i| support::spread(&by_distance(i), 2));
        rows.push(std::iter::once((*name).to_owned()).chain(cells).chain([right]).collect());
        let cells = (0..FROM.len()).map(|i| over(&runs, 2, |run| loss(run, i, at)));
        places.push(std::iter::once((*name).to_owned()).chain(cells).collect());
        let points = (0..FROM.len()).map(|i| ((FROM[i] as f64 * 1.5).max(8.0), by_distance(i))).collect();
        lines.push(Line { name: (*name).to_owned(), points });
        let operations = recall::operations(model, LENGTH)?;
        sizes.push(format!(
            "{name}: {} parameters, {:.0}k operations a token",
            model.init(0).numel(),
            operations / 1e3
        ));
    }
    report.say(&format!("{steps} steps; {}. Chance is {:.2} nats.", sizes.join("; "), f64::from(VALUES).ln()));
    report.say("Loss in nats by the distance to the fact:");
    report.table(&["distance in tokens", "under 16", "16 to 31", "32 to 63", "64 to 127", "right"], &rows);
    report.say("Loss in nats by the position of the question:");
    report.table(&["position in the text", "under 16", "16 to 31", "32 to 63", "64 to 127"], &places);
    let axes = ["distance to the fact, tokens", "loss in nats"];
    let title = "Loss by distance to the needed fact";
    report.picture("recurrence", &Picture { title, axes, factors: [true, false], lines: &lines })
}

fn main() -> std::process::ExitCode {
    support::program("recurrence", run)
}
