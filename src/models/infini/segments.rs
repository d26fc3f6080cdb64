//! Training over long sequences, segment by segment.

use super::EnhancedRecurrence;
use super::memory::Memory;
use super::transformer::InfiniTransformer;
use crate::error::Error;
use crate::graph::{Graph, Mode, Var};
use crate::nn::ParamVars;

/// How a sequence is cut for training; defaults are those of the package's wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentLoss {
    /// Tokens of a segment; the last may be shorter.
    pub segment_length: usize,
    /// Gradients flow through memories within runs of this many segments (truncated backpropagation).
    pub detach_mems_every_num_segments: usize,
    /// Label that does not count, beside `u32::MAX`.
    pub ignore_index: Option<i64>,
    /// Run segments one after the other even where the prefix sum would do; for tests.
    pub sequential: bool,
}

impl Default for SegmentLoss {
    fn default() -> Self {
        SegmentLoss { segment_length: 512, detach_mems_every_num_segments: 2, ignore_index: None, sequential: false }
    }
}

impl InfiniTransformer {
    /// Mean cross entropy of the next token over a sequence of ids `[b, n + 1]`, all segments in one graph. Tokens whose
    /// label is ignored do not count; if none counts the loss is 0. Ids outside the vocabulary (such as `u32::MAX` for
    /// padding) embed to zeros.
    ///
    /// Without the delta rule and enhanced recurrence all segments run side by side and memories are a prefix sum.
    #[track_caller]
    pub fn segment_loss<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, options: SegmentLoss, mode: Mode) -> Var<'g> {
        let n = ids.dim(1).saturating_sub(1);
        let inputs = ids.slice(1, 0, n);
        let labels = ids.slice(1, 1.min(ids.dim(1)), n);
        self.segment_loss_of(p, inputs, labels, options, mode)
    }

    /// [`segment_loss`](Self::segment_loss) of labels u32 `[b, n]` of their own, for ids `[b, n]`: what stands behind a token may
    /// count or not (`u32::MAX`), or be another than the next one.
    #[track_caller]
    pub fn segment_loss_of<'g>(
        &self,
        p: &ParamVars<'g>,
        ids: Var<'g>,
        labels: Var<'g>,
        options: SegmentLoss,
        mode: Mode,
    ) -> Var<'g> {
        let (logits, labels) = self.segment_logits(p, ids, labels, options, mode);
        let rows = labels.shape().numel();
        let logits = logits.reshape([rows, self.config().num_tokens]);
        logits.cross_entropy_mean(labels.reshape([rows]), options.ignore_index)
    }

    /// Logits of ids `[b, n]` and the labels beside them, both filled up to whole segments.
    #[track_caller]
    fn segment_logits<'g>(
        &self,
        p: &ParamVars<'g>,
        ids: Var<'g>,
        labels: Var<'g>,
        options: SegmentLoss,
        mode: Mode,
    ) -> (Var<'g>, Var<'g>) {
        for (what, value) in [
            ("segment_length", options.segment_length),
            ("detach_mems_every_num_segments", options.detach_mems_every_num_segments),
        ] {
            if value == 0 {
                let what = format!("SegmentLoss::{what}");
                ids.graph().fail(Error::argument(what, "is 0; expected at least 1"));
            }
        }
        let (b, n) = (ids.dim(0), ids.dim(1));
        let (length, detach) = (options.segment_length.max(1), options.detach_mems_every_num_segments);
        let config = self.config();
        let parallel = !config.use_mem_delta_rule && config.enhanced_recurrence == EnhancedRecurrence::Off;
        if !parallel || options.sequential {
            return (self.one_by_one(p, ids, length, detach, mode), labels);
        }
        let segments = n.div_ceil(length).max(1);
        // One short segment needs no padding; several get a full last one, which nothing reads.
        let length = if segments == 1 { n } else { length };
        let fill = |x| padded(x, segments * length).reshape([b * segments, length]);
        (self.side_by_side(p, fill(ids), segments, detach, mode), fill(labels))
    }

    /// Cross entropy f32 `[b, n]` of each next token of ids `[b, n + 1]`, read as by [`segment_loss`](Self::segment_loss).
    #[track_caller]
    pub fn segment_losses<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, options: SegmentLoss) -> Var<'g> {
        let (b, n) = (ids.dim(0), ids.dim(1).saturating_sub(1));
        let labels = ids.slice(1, 1.min(ids.dim(1)), n);
        let (logits, labels) = self.segment_logits(p, ids.slice(1, 0, n), labels, options, Mode::Eval);
        let rows = labels.shape().numel();
        let losses = logits.reshape([rows, self.config().num_tokens]).cross_entropy(labels.reshape([rows]), None);
        losses.reshape([b, rows / b.max(1)]).slice(1, 0, n)
    }

    /// Logits `[b s, n, num_tokens]` of all segments at once, ids `[b s, n]`.
    #[track_caller]
    fn side_by_side<'g>(
        &self,
        p: &ParamVars<'g>,
        ids: Var<'g>,
        segments: usize,
        detach_every: usize,
        mode: Mode,
    ) -> Var<'g> {
        let g = ids.graph();
        let mut x = self.embed(p, ids);
        for (i, layer) in self.layers.iter().enumerate() {
            let step = || {
                let y = layer.forward_segments(p, x, segments, detach_every, mode);
                self.feed_forward(p, i, x + y, mode, 0)
            };
            x = if self.config().recompute { g.recompute(step) } else { step() };
        }
        self.logits(p, x)
    }

    /// Logits `[b, n, num_tokens]`, one segment after the other.
    #[track_caller]
    fn one_by_one<'g>(
        &self,
        p: &ParamVars<'g>,
        ids: Var<'g>,
        length: usize,
        detach_every: usize,
        mode: Mode,
    ) -> Var<'g> {
        let n = ids.dim(1);
        let segments = n.div_ceil(length).max(1);
        let mut parts = Vec::new();
        let mut memories = None;
        for s in 0..segments {
            let piece = ids.slice(1, s * length, length.min(n - s * length));
            let last = s + 1 == segments;
            let (logits, written) = self.forward_written(p, piece, memories.as_deref(), !last, mode, s as u32);
            parts.push(logits);
            let cut = (s + 1) % detach_every.max(1) == 0;
            // Cut before memories are passed down, so that what mixes them learns across a cut too.
            let cut_off = |m: Vec<Memory<'g>>| if cut { m.into_iter().map(Memory::detach).collect() } else { m };
            memories = written.map(|m| self.pass_down(p, cut_off(m)));
        }
        parts[0].concat(&parts[1..], 1)
    }
}

/// `x` `[b, n]` with `u32::MAX` up to `length`.
fn padded(x: Var<'_>, length: usize) -> Var<'_> {
    let (b, n) = (x.dim(0), x.dim(1));
    if length <= n {
        return x;
    }
    let g: &Graph = x.graph();
    x.concat(&[g.full_u32([b, length - n], u32::MAX)], 1)
}
