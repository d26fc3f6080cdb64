"""The four originals in PyTorch: exports a checkpoint of each, and reads back what wgrad has trained.

    pip install -r benches/peers/requirements.txt
    python examples/pytorch/originals.py export target/pytorch
    cargo run --release --example pytorch -- target/pytorch
    python examples/pytorch/originals.py check target/pytorch

All of it by one command, PyTorch installed if need be: `cargo xtask test --pytorch`.

`export` writes NAME.safetensors (the state_dict) and NAME.io.safetensors (inputs, and the outputs of the original); the Rust
example loads both, compares the outputs, trains a few steps, and writes NAME.tuned.safetensors with its own outputs beside it;
`check` loads that into the original again and compares.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TOLERANCE = 2e-4


def infini():
    from infini_transformer_pytorch import InfiniTransformer

    return InfiniTransformer(num_tokens=256, dim=64, depth=2, dim_head=32, heads=2), lambda m, ids: m(ids).logits


def pkm():
    from product_key_memory.transformer import Transformer

    made = Transformer(
        num_tokens=256, dim=64, depth=2, seq_len=32, heads=2, dim_head=32, pkm_layers=2,
        pkm_kwargs=dict(num_keys=16, topk=8, dim_head=16, heads=2),
    )
    return made, lambda m, ids: m(ids, return_loss=False)


def recurrent():
    from block_recurrent_transformer_pytorch import BlockRecurrentTransformer

    made = BlockRecurrentTransformer(
        num_tokens=256, dim=64, depth=2, dim_head=32, heads=2, block_width=16, max_seq_len=32, num_state_vectors=16
    )
    return made, lambda m, ids: m(ids)[0]


def colt5():
    from colt5_attention import ConditionalRoutedTransformerBlock

    # All 32 tokens are heavy: an untrained router gives more tokens than it may choose a score of exactly 1, and which of
    # them torch.topk takes is undefined.
    made = ConditionalRoutedTransformerBlock(
        64, num_heavy_attn_tokens_q=32, num_heavy_attn_tokens_kv=32, num_heavy_ff_tokens=32, light_dim_head=32,
        light_heads=2, light_window_size=8, heavy_dim_head=32, heavy_heads=2,
    )
    return made, lambda m, x: m(x)


MODELS = dict(infini=infini, pkm=pkm, recurrent=recurrent, colt5=colt5)


def build(name):
    torch.manual_seed(0)
    model, run = MODELS[name]()
    return model.eval(), run


def given(name):
    generator = torch.Generator().manual_seed(1)
    if name == "colt5":
        return torch.randn(2, 32, 64, generator=generator)
    return torch.randint(0, 256, (2, 32), generator=generator)


def export(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        model, run = build(name)
        x = given(name)
        with torch.no_grad():
            out = run(model, x)
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(state, folder / f"{name}.safetensors", metadata={"format": "pt"})
        save_file({"x": x, "out": out.contiguous()}, folder / f"{name}.io.safetensors")
        print(f"{name}: {len(state)} tensors, outputs {tuple(out.shape)}")


def check(folder):
    worst = 0.0
    for name in MODELS:
        model, run = build(name)
        tuned = load_file(folder / f"{name}.tuned.safetensors")
        before = {key: value.clone() for key, value in model.state_dict().items()}
        missing, unexpected = model.load_state_dict(tuned, strict=False)
        assert not unexpected, f"{name}: the original has no {unexpected}"
        # What is computed and not learned may be absent: frequencies and positions.
        learned = {key for key, p in model.named_parameters() if p.requires_grad}
        assert not learned & set(missing), f"{name}: {missing} are missing"
        moved = max((before[key] - value).abs().max().item() for key, value in tuned.items())
        assert moved > 1e-4, f"{name}: nothing was trained"
        with torch.no_grad():
            out = run(model, given(name))
        want = load_file(folder / f"{name}.tuned.io.safetensors")["out"]
        off = ((out - want).abs().max() / want.abs().max()).item()
        print(f"{name}: outputs of the trained model within {off:.1e} of wgrad's; parameters moved by up to {moved:.1e}")
        worst = max(worst, off)
    if worst > TOLERANCE:
        sys.exit(f"more than {TOLERANCE} apart")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("export", "check"):
        sys.exit(__doc__)
    {"export": export, "check": check}[sys.argv[1]](Path(sys.argv[2]))
