//! Block-recurrent transformer beyond parity.
//!
//! One file a subject, on the same small models.

pub mod extents;
pub mod faults;
pub mod gradients;
pub mod segments;
pub mod stream;

use wgrad::models::long_memory::{Lookback, RoutedMemoryConfig};
use wgrad::models::recurrent::{
    BlockRecurrentConfig, BlockRecurrentTransformer, GateConfiguration, GateKind, LongMemoryLayers,
};
use wgrad::nn::{Params, Storage};
use wgrad::{Graph, Tensor, TensorType, Var};

pub const VOCABULARY: usize = 11;
pub const WIDTH: usize = 4;
pub const SEGMENT: usize = 8;

pub fn tiny() -> BlockRecurrentConfig {
    BlockRecurrentConfig {
        dim_head: 4,
        heads: 2,
        block_width: WIDTH,
        max_seq_len: SEGMENT,
        num_state_vectors: Some(3),
        recurrent_layers: Some(vec![2]),
        ..BlockRecurrentConfig::new(VOCABULARY, 8, 2)
    }
}

pub fn variants() -> Vec<(&'static str, BlockRecurrentConfig)> {
    let t = tiny;
    vec![
        ("plain", tiny()),
        ("norms", BlockRecurrentConfig { all_layers_qk_rmsnorm: true, qk_rmsnorm_scale: Some(8.0), ..t() }),
        ("compressed", BlockRecurrentConfig { compressed_mem_factor: Some(2), ..t() }),
        ("unevenly compressed", BlockRecurrentConfig { compressed_mem_factor: Some(3), ..t() }),
        ("0.3.2", tiny().as_0_3_2()),
        ("enhanced", BlockRecurrentConfig { enhanced_recurrence: true, ..t() }),
        ("two banks", BlockRecurrentConfig { recurrent_layers: Some(vec![1, 2]), ..t() }),
        (
            "read lower",
            BlockRecurrentConfig {
                recurrent_layers: Some(vec![2, 3]),
                read_recurrent_layers: Some(vec![1, 1]),
                depth: 3,
                ..t()
            },
        ),
        ("some remember", BlockRecurrentConfig { xl_memories_layers: Some(vec![2]), ..t() }),
        ("none remembers", BlockRecurrentConfig { xl_memories_layers: Some(Vec::new()), ..t() }),
        ("no states", BlockRecurrentConfig { recurrent_layers: Some(Vec::new()), ..t() }),
        ("LSTM gate", BlockRecurrentConfig { gate: GateKind::Lstm, ..t() }),
        ("single gate", BlockRecurrentConfig { gates: GateConfiguration::Single, flat_state_names: true, ..t() }),
        ("dual gates", BlockRecurrentConfig { gates: GateConfiguration::Dual, ..t() }),
        ("dual LSTM gates", BlockRecurrentConfig { gate: GateKind::Lstm, gates: GateConfiguration::Dual, ..t() }),
    ]
}

/// Long memories in `layers`, of fewer inputs than the texts of the tests have.
pub fn long(layers: &[usize]) -> BlockRecurrentConfig {
    let memory = RoutedMemoryConfig {
        heads: 2,
        dim_head: 4,
        lookback: Some(Lookback { latest: 3, heads: 2, dim_head: 4 }),
        ..RoutedMemoryConfig::new(8, 10, 3)
    };
    BlockRecurrentConfig { long_memory: Some(LongMemoryLayers { layers: layers.to_vec(), memory }), ..tiny() }
}

/// The variants, and those with long memories.
pub fn with_long() -> Vec<(&'static str, BlockRecurrentConfig)> {
    // Not the first layer: a token's inputs are equal there wherever it stands, their scores tie but for rounding, and
    // which one is picked shows in its position. Not halves: rounding flips their last bit.
    let mut other = long(&[2]);
    if let Some(LongMemoryLayers { memory, .. }) = &mut other.long_memory {
        (memory.storage, memory.lookback, memory.max_distance) = (Storage::F32, None, Some(6));
        (memory.routes, memory.straight_through) = (2, false);
    }
    let mut all = variants();
    all.extend([("long", long(&[1, 2])), ("long, two routes with positions", other)]);
    all
}

pub fn model(config: &BlockRecurrentConfig) -> (BlockRecurrentTransformer, Params) {
    let model = BlockRecurrentTransformer::new(config.clone()).unwrap();
    let params = model.init(5);
    (model, params)
}

/// Texts u32 `[batch, n]`.
pub fn texts(batch: usize, n: usize, seed: u32) -> Tensor {
    let token = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 7) % VOCABULARY as u32;
    Tensor::u32([batch, n], (0..(batch * n) as u32).map(token).collect()).unwrap()
}

pub fn graph_input<'g>(g: &'g Graph, name: &str, shape: &[usize]) -> Var<'g> {
    g.input(name, TensorType::f32(shape))
}
