"""PyTorch on the shapes of `cargo xtask bench`, CPU, as many threads as there are cores.

Answers on standard output, a line of JSON for each line: `prepare OP NUMBER..`, `run TIMES`, `drop`. Operations are those of
benches/suite; layers are the original packages (requirements.txt). By hand:

    printf 'prepare softmax 1024 256\\nrun 5\\n' | python3 torch_peer.py cpu
"""

import ctypes
import gc
import json
import os
import sys
import time

import torch
import torch.nn.functional as F

DEVICE = "cpu"
THREADS = os.cpu_count() or 1


def floats(*shape):
    """Deviation 1, as on the other side."""
    return (torch.rand(shape) * 2 - 1) * 3**0.5


def indices(below, *shape):
    return torch.randint(below, shape)


def forward(f, *inputs):
    """Forward without a tape."""

    def run():
        with torch.no_grad():
            return f(*inputs)

    return run


def backward(f, *inputs, module=None):
    """Forward and the gradients of all inputs and parameters for a random cotangent."""
    inputs = [x.requires_grad_() if x.is_floating_point() else x for x in inputs]
    leaves = [x for x in inputs if x.requires_grad] + (list(module.parameters()) if module else [])
    cotangent = None

    def run():
        nonlocal cotangent
        for leaf in leaves:
            leaf.grad = None
        y = f(*inputs)
        if cotangent is None:
            cotangent = floats(*y.shape)
        y.backward(cotangent)

    return run


def either(op, f, *inputs, module=None):
    return backward(f, *inputs, module=module) if op.endswith("_grad") else forward(f, *inputs)


# Kernels


def matmul(op, m, k, n):
    return forward(torch.matmul, floats(m, k), floats(k, n))


def batched_matmul(op, b, m, k, n):
    return forward(torch.matmul, floats(b, m, k), floats(b, k, n))


def top_k(op, rows, n, k):
    return forward(lambda x: x.topk(k, dim=-1), floats(rows, n))


def softmax(op, rows, n):
    return forward(lambda x: x.softmax(-1), floats(rows, n))


def layer_norm(op, rows, n):
    return forward(lambda x, g, b: F.layer_norm(x, (n,), g, b), floats(rows, n), floats(n), floats(n))


def gather(op, rows, width, hits):
    return either(op, lambda t, i: F.embedding(i, t), floats(rows, width), indices(rows, hits))


def weighted_gather(op, rows, width, sums, per):
    def f(table, weights, hits):
        return F.embedding_bag(hits, table, mode="sum", per_sample_weights=weights)

    return either(op, f, floats(rows, width), floats(sums, per), indices(rows, sums, per))


def elementwise_chain(op, n):
    return forward(lambda x: (x * 0.9 + 0.1).relu().exp() * x, floats(n))


def attention(op, b, h, n, d):
    return either(op, F.scaled_dot_product_attention, *(floats(b, h, n, d) for _ in range(3)))


def soft_top_k(op, rows, n, k, iterations):
    from colt5_attention import coor_descent

    return either(op, lambda s: coor_descent(s, k=k, n_iters=iterations, eps=0.1), floats(rows, n))


def sinkhorn(op, b, n, m, iterations):
    def f(scores):
        for _ in range(iterations):
            scores = scores - scores.logsumexp(-1, keepdim=True)
            scores = scores - scores.logsumexp(-2, keepdim=True)
        return scores.exp()

    return either(op, f, floats(b, n, m))


# Layers of the originals


def pkm(soft=False):
    from product_key_memory import PKM

    return PKM(dim=512, heads=4, dim_head=128, num_keys=256, topk=32, differentiable_topk=soft)


def product_key(op, tokens, dim):
    module = pkm("soft" in op)
    return either(op, module, floats(1, tokens, dim), module=module)


def colt5(dim, k):
    from colt5_attention import ConditionalRoutedTransformerBlock

    return ConditionalRoutedTransformerBlock(
        dim, num_heavy_attn_tokens_q=k, num_heavy_attn_tokens_kv=k, num_heavy_ff_tokens=k
    )


def colt5_block(op, n, dim, k):
    module = colt5(dim, k)
    return either(op, module, floats(1, n, dim), module=module)


def cross_attention(op, queries, memories, dim):
    from colt5_attention import ConditionalRoutedCrossAttention, transformer_block

    # Version 0.11.2 asks for a name that it never sets.
    transformer_block.should_route_queries = True
    module = ConditionalRoutedCrossAttention(dim, num_tokens_q=512, num_tokens_kv=1024, kv_routing_tokens=2)
    context = floats(1, memories, dim)
    return either(op, lambda x: module(x, context), floats(1, queries, dim), module=module)


def infini_model(dim, depth):
    from infini_transformer_pytorch import InfiniTransformer

    return InfiniTransformer(num_tokens=256, dim=dim, depth=depth, dim_head=128, heads=8, use_mem_delta_rule=True)


def infini(op, n, dim, depth):
    from infini_transformer_pytorch.infini_transformer import Memories

    module = infini_model(dim, depth)
    past = [Memories(floats(1, 8, 128, 128), floats(1, 8, 128).abs() + 1) for _ in range(depth)]
    ids = indices(256, 1, n)
    f = lambda ids: module(ids, past_memories=past, return_new_memories=True)[0]
    return either(op, f, ids, module=module)


def recurrent_model(dim, depth):
    from block_recurrent_transformer_pytorch import BlockRecurrentTransformer

    return BlockRecurrentTransformer(
        num_tokens=20000, dim=dim, depth=depth, dim_head=64, heads=8, max_seq_len=1024, block_width=512
    )


def recurrent(op, n, dim, depth):
    module = recurrent_model(dim, depth)
    f = lambda ids: first(module(ids, return_loss=True)).reshape([])
    return either(op, f, indices(20000, 1, n + 1), module=module)


def first(result):
    return result[0] if isinstance(result, tuple) else result


# Training steps


def trained(loss, *groups):
    def run():
        for optimizer in groups:
            optimizer.zero_grad(set_to_none=True)
        loss().backward()
        for optimizer in groups:
            optimizer.step()

    return run


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-4)


def mlp_step(op, batch, dim, inner):
    module = torch.nn.Sequential(torch.nn.Linear(dim, inner), torch.nn.ReLU(), torch.nn.Linear(inner, dim))
    x, y = floats(batch, dim), floats(batch, dim)
    return trained(lambda: F.mse_loss(module(x), y), adam(module.parameters()))


def adam_step(op, n):
    w = torch.nn.Parameter(floats(n))
    return trained(lambda: (w.square() * 0.5).sum(), adam([w]))


def product_key_step(op, tokens, dim):
    module, x = pkm(), floats(1, tokens, dim)
    loss = lambda: module(x).square().mean()
    if op == "product_key_step":
        return trained(loss, adam(module.parameters()))
    module.values.sparse = True
    values = module.values.weight
    others = [p for p in module.parameters() if p is not values]
    return trained(loss, adam(others), torch.optim.SparseAdam([values], lr=1e-2))


def colt5_block_step(op, n, dim, k):
    module, x = colt5(dim, k), floats(1, n, dim)
    return trained(lambda: module(x).square().mean(), adam(module.parameters()))


def infini_step(op, n, dim, depth):
    """Two segments, with gradients through the memories."""
    module, ids = infini_model(dim, depth), indices(256, 1, n + 1)

    def loss():
        total, past = 0, None
        for start in (0, n // 2):
            part = ids[:, start : start + n // 2]
            logits, _, past = module(part, past_memories=past, return_new_memories=True)
            labels = ids[:, start + 1 : start + n // 2 + 1]
            total = total + 0.5 * F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return total

    return trained(loss, adam(module.parameters()))


def recurrent_step(op, n, dim, depth):
    module, ids = recurrent_model(dim, depth), indices(20000, 1, n + 1)
    return trained(lambda: first(module(ids, return_loss=True)), adam(module.parameters()))


OPS = {
    "matmul": matmul,
    "batched_matmul": batched_matmul,
    "top_k": top_k,
    "softmax": softmax,
    "layer_norm": layer_norm,
    "gather": gather,
    "gather_grad": gather,
    "weighted_gather": weighted_gather,
    "weighted_gather_grad": weighted_gather,
    "elementwise_chain": elementwise_chain,
    "attention": attention,
    "attention_grad": attention,
    "soft_top_k": soft_top_k,
    "soft_top_k_grad": soft_top_k,
    "soft_top_k_exact": soft_top_k,
    "soft_top_k_exact_grad": soft_top_k,
    "sinkhorn": sinkhorn,
    "sinkhorn_grad": sinkhorn,
    "product_key": product_key,
    "product_key_grad": product_key,
    "product_key_soft_grad": product_key,
    "colt5_block": colt5_block,
    "colt5_block_grad": colt5_block,
    "cross_attention": cross_attention,
    "cross_attention_grad": cross_attention,
    "infini": infini,
    "infini_grad": infini,
    "recurrent": recurrent,
    "recurrent_grad": recurrent,
    "mlp_step": mlp_step,
    "adam_step": adam_step,
    "product_key_step": product_key_step,
    "product_key_rows_step": product_key_step,
    "colt5_block_step": colt5_block_step,
    "infini_step": infini_step,
    "recurrent_step": recurrent_step,
}


def mib(name):
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith(name + ":"))
    except (OSError, StopIteration):
        return None


def restart_peak():
    # Memory that was freed goes back to the system, or it would be taken again unnoticed.
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass
    try:
        with open("/proc/self/clear_refs", "w") as marks:
            marks.write("5")
    except OSError:
        pass


def timed(run):
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


class Peer:
    run = None
    memory = None

    def prepare(self, op, *dims):
        if op not in OPS:
            return {"first_ms": None}
        self.run = None
        gc.collect()
        restart_peak()
        self.memory = mib("VmRSS")
        torch.manual_seed(1)
        start = time.perf_counter()
        try:
            run = OPS[op](op, *map(int, dims))
            run()
            self.run = run
        except Exception as error:
            return {"first_ms": None, "error": f"{type(error).__name__}: {error}"}
        return {"first_ms": 1e3 * (time.perf_counter() - start)}

    def times(self, count):
        before = time.process_time()
        ms = [timed(self.run) for _ in range(int(count))]
        return {"ms": ms, "cpu_ms": 1e3 * (time.process_time() - before)}

    def drop(self):
        peak, self.run = mib("VmHWM"), None
        gc.collect()
        return {"peak_mib": max(peak - self.memory, 0) if peak and self.memory else None}


def main():
    # What other code prints must not look like an answer.
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    torch.set_num_threads(THREADS)
    here = sys.argv[-1] == DEVICE
    answer({"about": f"PyTorch {torch.__version__}, CPU, {THREADS} threads" if here else ""})
    peer = Peer()
    for line in sys.stdin:
        match line.split():
            case ["prepare", op, *dims]:
                answer(peer.prepare(op, *dims))
            case ["run", count]:
                answer(peer.times(count))
            case ["drop"]:
                answer(peer.drop())
            case ["quit"]:
                return


if __name__ == "__main__":
    main()
