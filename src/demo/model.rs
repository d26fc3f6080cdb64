//! The model of the page: a byte-level Infini-attention transformer, small enough for a software driver.

use crate::device::Device;
use crate::error::Result;
use crate::graph::Mode;
use crate::models::infini::{InfiniConfig, InfiniTransformer, SegmentLoss};
use crate::train::{AdamW, Schedule, Trainer};
use crate::types::TensorType;

/// Pieces of text in one step.
pub const BATCH: usize = 8;
/// Tokens of a segment; what lies before it is seen through the memory only.
pub const SEGMENT: usize = 32;
/// Segments of a piece.
const SEGMENTS: usize = 2;
/// Bytes of a piece: every one but the first is predicted.
pub const LENGTH: usize = SEGMENT * SEGMENTS + 1;

/// The model, and the trainer of a fresh one.
pub async fn create(device: &Device, seed: u64) -> Result<(InfiniTransformer, Trainer)> {
    // The reference starts almost without memory; short runs learn faster with half-open gates.
    let config = InfiniConfig { heads: 2, dim_head: 32, head_gate_init_value: 0.0, ..InfiniConfig::new(256, 64, 2) };
    let model = InfiniTransformer::new(config)?;
    let trainer = Trainer::builder(device, model.init(seed), AdamW::default().lr(2e-3))
        .schedule(Schedule::Warmup { steps: 20 })
        .clip(1.0)
        .compile(|graph, params| {
            let ids = graph.input("ids", TensorType::u32([BATCH, LENGTH]));
            let options = SegmentLoss { segment_length: SEGMENT, ..Default::default() };
            model.segment_loss(params, ids, options, Mode::Train)
        })
        .await?;
    Ok((model, trainer))
}
