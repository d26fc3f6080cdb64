// What the packed package is put through, in every place the same: `run(wgrad, options)` gives plain numbers and texts.

const TEXT = "the quick brown fox jumps over the lazy dog. ".repeat(20);
const TRAINING = { batch: 4, length: 32, lr: 1e-2, every: 1, seed: 5 };

async function losses(model, steps) {
  const found = [];
  for await (const { loss } of model.train(TEXT, { ...TRAINING, steps })) found.push(loss);
  return found;
}

/** A step of gradient descent in a graph of one's own. */
async function descend({ Graph, Store }, device) {
  const graph = new Graph();
  const x = graph.input("x", [2, 3]);
  const w = graph.state("w", [3]);
  const loss = x.mul(w).square().mean();
  const [dw] = graph.grad(loss, [w]);
  graph.assign(w, w.sub(dw.mul(0.1)));
  let refused;
  try {
    x.matmul(w);
  } catch (error) {
    refused = { name: error.name, code: error.code, message: error.message };
  }
  // The graph that refused something is of no use; this one is whole.
  const again = new Graph();
  const y = again.input("x", [2, 3]);
  const v = again.state("w", [3]);
  const whole = y.mul(v).square().mean();
  again.assign(v, v.sub(again.grad(whole, [v])[0].mul(0.1)));
  const { values, indices } = y.topK(2);
  const pairs = y.productTopK(y, 2);
  const sums = y.weightedGather(indices.rem(2), values);
  const plan = await again.compile(device, { loss: whole, values, indices, pairs: pairs.indices, sums });
  const store = await Store.create(device);
  await store.set("w", new Float32Array([1, 2, 3]), [3]);
  const input = { x: new Float32Array([1, 2, 3, 6, 5, 4]) };
  const first = await plan.run(input, { store });
  const second = await plan.run(input, { store, read: ["loss"] });
  const state = await store.read("w");
  return {
    refused,
    losses: [first.loss[0], second.loss[0]],
    values: [...first.values],
    indices: [...first.indices],
    state: [...state],
    pairs: [...first.pairs],
    sums: [...first.sums],
  };
}

const CUBE = `
// #include "shared/grid.wgsl"
struct Meta { n: u32 }
override LANES: u32 = 1u;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> which: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> size: Meta;
@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) wn: vec3<u32>,
  @builtin(local_invocation_index) lid: u32,
) {
  let i = LANES * workgroup_index(wid, wn) + lid;
  if (i >= size.n) { return; }
  y[i] = select(0.0, x[i] * x[i] * x[i], which[i] == 1u);
}`;

/** An operation with a kernel of one's own: its value, its gradient against differences, wrong ones, and what is refused. */
async function own({ CustomOp, Graph, gradcheck }, device) {
  const count = ([n]) => n.reduce((all, size) => all * size, 1);
  const gradient = (factor) => ({ inputs: [x, which], cotangents: [g] }) => [g.mul(x.square()).mul(factor).mul(which.toF32()), undefined];
  const cubes = (factor, wgsl = CUBE, vjp = gradient(factor)) =>
    new CustomOp({
      name: "cube",
      wgsl,
      inputs: ["f32", "u32"],
      workgroups: (inputs) => Math.ceil(count(inputs) / 64),
      constants: () => ({ LANES: 64 }),
      uniform: (inputs) => Uint32Array.of(count(inputs)),
      vjp,
    });
  const code = async (work) => {
    try {
      return await work();
    } catch (error) {
      return `${error.name} ${error.code}: ${error.message}`;
    }
  };
  const graph = new Graph();
  const [x, which] = [graph.input("x", [2, 50]), graph.input("which", [2, 50], "u32")];
  // Two uses, one of the other's result.
  const once = cubes(3).apply(x, which)[0];
  const [y] = cubes(3).apply(once, which);
  const [dx] = graph.grad(y.sum(), [x]);
  const data = Float32Array.from({ length: 100 }, (_, i) => Math.sin(0.7 * i));
  const mask = Uint32Array.from(data, (_, i) => i % 2);
  const run = async (outputs) => {
    const found = await (await graph.compile(device, outputs)).run({ x: data, which: mask });
    return Object.values(found).map((values) => [...values.slice(0, 8)]);
  };
  const check = (op) => gradcheck(device, [{ shape: [2, 50], data }, { shape: [2, 50], data: mask }], (a, b) => op.apply(a, b));
  const values = await code(() => run({ once, y, dx }));
  const other = new Graph().input("x", [3]);
  return {
    values,
    right: await code(() => check(cubes(3))),
    wrong: await code(() => check(cubes(2))),
    short: await code(() => check(cubes(3, CUBE, (given) => gradient(3)(given).slice(0, 1)))),
    broken: await code(() => check(cubes(3, CUBE.replace("size.n", "size.m")))),
    shape: await code(async () => cubes(3).apply(other)),
    builtIn: await code(() => gradcheck(device, [{ shape: [2, 3], data: data.slice(0, 6) }], (a) => [a.softmax().square()])),
  };
}

/** Training, stopping, saving, loading, going on. */
async function learn(wgrad, device, started) {
  const model = await wgrad.InfiniTransformer.create(device, { dim: 32, depth: 1, heads: 2, segmentLength: 16, seed: 3 });
  const first = await losses(model, 1);
  const ms = Math.round(performance.now() - started);
  const { pipelines } = await device.counters();
  first.push(...(await losses(model, 7)));
  const file = await model.save();
  const onwards = await losses(model, 2);
  const loaded = await wgrad.LanguageModel.load(device, new Blob([file]));
  const resumed = await losses(loaded, 2);
  const tokens = [];
  for await (const token of model.generate("the quick", { count: 20, temperature: 0 })) tokens.push(token);
  const abort = new AbortController();
  let aborted;
  try {
    for await (const { step } of model.train(TEXT, { ...TRAINING, signal: abort.signal })) if (step >= 12) abort.abort();
  } catch (error) {
    aborted = error.name;
  }
  const stream = await model.stream();
  await stream.feed(TEXT);
  const bytes = stream.bytes;
  await stream.feed(TEXT.repeat(3));
  let wrong;
  try {
    await wgrad.InfiniTransformer.load(device, new Uint8Array(100));
  } catch (error) {
    wrong = { name: error.name, code: error.code };
  }
  const flat = [bytes, stream.bytes, stream.tokens];
  return { info: await model.info(), losses: first, onwards, resumed, text: wgrad.decode(tokens), aborted, flat, wrong, ms, pipelines };
}

const MIXED = {
  num_tokens: 256,
  dim: 32,
  heads: 2,
  segment: 16,
  layers: [
    { attention: { kind: "infini" } },
    { attention: { kind: "local", window: 16 }, feed_forward: { kind: "product_key", num_keys: 16, topk: 4, heads: 2 } },
  ],
};

/** A file as PyTorch would write it: without what this library says of the model. */
function anonymous(file) {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length)));
  delete header.__metadata__;
  const text = new TextEncoder().encode(JSON.stringify(header).padEnd(length));
  const bare = file.slice();
  bare.set(text, 8);
  return bare;
}

/** What models show of themselves, labels, slots of one's own choice, and files of other origin. */
async function look(wgrad, device) {
  const reading = { length: 16, batch: 2 };
  const small = { dim: 64, depth: 2, heads: 1, seqLen: 16, numKeys: 16, topk: 16, memoryHeads: 2, memoryDimHead: 16, pkmLayers: [2] };
  const memory = await wgrad.ProductKeyTransformer.create(device, small);
  const text = TEXT.slice(0, 100);
  const before = await memory.evaluate(text, reading);
  const [usage] = await memory.usage(text, { length: 16 });
  const slots = wgrad.chooseSlots(usage, new wgrad.SlotUsage(256), 8);
  const bare = anonymous(await memory.save());
  const known = await wgrad.LanguageModel.load(device, bare);
  const recognised = [(await known.info()).kind, (await known.evaluate(text, reading)).loss - before.loss];
  const tensors = await wgrad.readTensors(device, bare);
  for await (const _ of memory.train(TEXT, { ...TRAINING, length: 16, steps: 2, slots }));
  const after = await wgrad.readTensors(device, await memory.save());
  const changed = Object.keys(tensors).filter((name) => tensors[name].data.some((x, i) => x !== after[name].data[i]));
  const table = "layers.1.1.values.weight";
  const rows = new Set();
  tensors[table].data.forEach((x, i) => x !== after[table].data[i] && rows.add(Math.floor(i / 64)));
  const routed = await wgrad.RoutedDecoder.create(device, { dim: 32, depth: 2, heads: 2, window: 16, heavyKeys: 8 });
  const scores = await routed.scores(text);
  const recurrent = await wgrad.BlockRecurrentTransformer.create(device, { dim: 32, depth: 2, heads: 2, blockWidth: 16 });
  const kept = [];
  for await (const { tokens, loss, states } of recurrent.read(text, { length: 16 })) kept.push([tokens, loss, states[0].shape, states[0].data[0]]);
  const other = await wgrad.LanguageModel.load(device, anonymous(await recurrent.save()));
  recognised.push((await other.info()).kind, (await other.evaluate(text, reading)).loss - (await recurrent.evaluate(text, reading)).loss);
  // Only one label counts: the loss is that of the last token.
  const infini = await wgrad.InfiniTransformer.create(device, { dim: 32, depth: 1, heads: 2, segmentLength: 16, seed: 3 });
  const ids = wgrad.encode(TEXT.slice(0, 16));
  const { losses: each } = await infini.evaluate(TEXT.slice(0, 17), { length: 16, batch: 1 });
  const labels = new Uint32Array(16).fill(wgrad.IGNORE);
  labels[15] = TEXT.charCodeAt(16);
  let last;
  for await (const { loss } of infini.train(() => ({ ids, labels }), { batch: 1, length: 16, steps: 1 })) last = loss;
  const stream = await infini.stream();
  await stream.feed(TEXT.slice(0, 40));
  const state = await stream.read("stream.layers.0.memory.kv");
  return {
    loss: [before.loss, before.losses.length],
    slots: [usage.hits.reduce((a, b) => a + b, 0), slots.reduce((a, b) => a + b, 0), rows.size, [...rows].every((row) => slots[row] === 1)],
    changed,
    table,
    recognised,
    scores: scores.map((layer) => layer.length),
    kept,
    labelled: [last, each[15]],
    state: state.shape,
  };
}

/** The other models, and options that nobody knows. */
async function others(wgrad, device) {
  const found = [];
  for (const [Model, options] of [
    [wgrad.RoutedDecoder, { dim: 32, depth: 1, heads: 2, window: 16 }],
    [wgrad.ProductKeyTransformer, { dim: 32, depth: 1, heads: 2, numKeys: 16, topk: 4, memoryDimHead: 16 }],
    [wgrad.BlockRecurrentTransformer, { dim: 32, depth: 1, heads: 2, blockWidth: 16 }],
    [wgrad.MemoryTransformer, MIXED],
  ]) {
    const model = await Model.create(device, options);
    const first = await losses(model, 3);
    const loaded = await Model.load(device, await model.save());
    const [onwards, resumed] = [await losses(model, 1), await losses(loaded, 1)];
    let count = 0;
    for await (const token of loaded.generate("the", { count: 3, capacity: 64 })) count += token < 256;
    found.push({ losses: first, onwards, resumed, count });
  }
  let refused;
  try {
    await wgrad.RoutedDecoder.create(device, { dim: 32, depth: 1, head: 2 });
  } catch (error) {
    refused = `${error.code}: ${error.message}`;
  }
  return { found, refused };
}

/** A device that is lost on the way, and a new one that goes on from what was saved. */
async function lose(wgrad, device, options) {
  const model = await wgrad.InfiniTransformer.create(device, { dim: 16, depth: 1, heads: 2, segmentLength: 16 });
  await losses(model, 2);
  const file = await model.save();
  const expected = await losses(model, 1);
  // As a driver would: not by a call of the package.
  await device.link.call("destroy", [device.opened.device]);
  await device.lost;
  let code;
  try {
    await losses(model, 1);
  } catch (error) {
    code = error.code;
  }
  const fresh = await wgrad.init(options);
  const loaded = await wgrad.LanguageModel.load(fresh, file);
  const resumed = await losses(loaded, 1);
  fresh.free();
  return { code, expected, resumed };
}

export async function run(wgrad, options) {
  const started = performance.now();
  const device = await wgrad.init(options);
  const { kind, adapter, reason, worker } = device;
  const model = await learn(wgrad, device, started);
  const graph = await descend(wgrad, device);
  const kernel = await own(wgrad, device);
  const other = await others(wgrad, device);
  const seen = await look(wgrad, device);
  const lost = kind === "gpu" ? await lose(wgrad, device, options) : undefined;
  if (kind === "cpu") device.free();
  const limits = Object.keys(device.limits).length;
  return { kind, adapter, reason, worker, limits, graph, kernel, model, other, seen, lost };
}
