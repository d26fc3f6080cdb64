//! Checkpoints of the PyTorch packages, told by their names.

use safetensors::tensor::{Dtype, TensorView, serialize};
use wgrad::models::recognise::{present_names, recognise};
use wgrad::train::Checkpoint;

type Tensors = &'static [(&'static str, &'static [usize])];

/// The tensors by which each package is told, of this version or an older one.
const FILES: [(&str, Tensors); 5] = [
    (
        "infini",
        &[
            ("token_emb.weight", &[5, 4]),
            ("layers.0.0.fastweight_mem.head_gates", &[2]),
            ("layers.0.0.to_qkv.weight", &[12, 4]),
        ],
    ),
    (
        "pkm",
        &[
            ("token_emb.weight", &[5, 4]),
            ("pos_emb.weight", &[3, 4]),
            ("layers.0.0.to_qkv.weight", &[12, 4]),
            ("layers.0.1.keys", &[2, 3, 2, 1]),
            ("layers.0.1.values.0.weight", &[9, 2]),
            ("layers.0.1.values.3.weight", &[4, 2]),
        ],
    ),
    (
        "recurrent",
        &[
            ("token_emb.weight", &[5, 4]),
            ("layers.0.0.to_q.weight", &[4, 4]),
            ("layers.0.0.to_kv.weight", &[4, 4]),
            ("layers.0.0.init_state", &[3, 4]),
            ("layers.0.0.state_norm.gamma", &[4]),
            ("layers.0.0.attn.q_scale", &[2]),
            ("mem_manager.layers.0.1.1.weight", &[2, 2, 2]),
        ],
    ),
    (
        "recurrent",
        &[
            ("token_emb.weight", &[5, 4]),
            ("layers.0.0.to_q.weight", &[4, 4]),
            ("layers.0.0.to_kv.weight", &[4, 4]),
            ("layers.0.0.state_container.init_state", &[3, 4]),
        ],
    ),
    ("colt5", &[("routing_token", &[4]), ("light_attn.w", &[2]), ("heavy_attn.w", &[2])]),
];

fn file(tensors: Tensors) -> Vec<u8> {
    let data = [0u8; 512];
    let view = |shape: &[usize]| {
        let bytes = 4 * shape.iter().product::<usize>();
        TensorView::new(Dtype::F32, shape.to_vec(), &data[..bytes]).expect("a tensor")
    };
    serialize(tensors.iter().map(|(name, shape)| (*name, view(shape))), None).expect("a file")
}

/// Whole files, each of which is recognised.
pub fn seeds() -> Vec<Vec<u8>> {
    let whole = FILES.map(|(kind, tensors)| {
        let data = file(tensors);
        let found = recognise(&Checkpoint::from_bytes(data.clone()).expect("a checkpoint"));
        assert_eq!(found.expect("a model").kind, kind);
        data
    });
    whole.to_vec()
}

/// Any bytes.
pub fn fuzz_names(data: &[u8]) {
    let Ok(file) = Checkpoint::from_bytes(data.to_vec()) else { return };
    if let Some(found) = recognise(&file) {
        assert!(found.package == "wgrad" || found.options.is_object(), "{found:?}");
        assert!(found.package == "wgrad" || FILES.iter().any(|(kind, _)| found.kind == *kind), "{found:?}");
    }
    for (old, new) in present_names(&file) {
        assert!(file.contains(&old) && old != new, "{old} would be {new}");
    }
}
