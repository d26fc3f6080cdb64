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
  const plan = await again.compile(device, { loss: whole, values, indices });
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

/** The other models, and options that nobody knows. */
async function others(wgrad, device) {
  const found = [];
  for (const [Model, options] of [
    [wgrad.RoutedDecoder, { dim: 32, depth: 1, heads: 2, window: 16 }],
    [wgrad.ProductKeyTransformer, { dim: 32, depth: 1, heads: 2, numKeys: 16, topk: 4, memoryDimHead: 16 }],
    [wgrad.BlockRecurrentTransformer, { dim: 32, depth: 1, heads: 2, blockWidth: 16 }],
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
  const other = await others(wgrad, device);
  const lost = kind === "gpu" ? await lose(wgrad, device, options) : undefined;
  if (kind === "cpu") device.free();
  const limits = Object.keys(device.limits).length;
  return { kind, adapter, reason, worker, limits, graph, model, other, lost };
}
