// What a page may be handed by others: files, descriptions, shapes, numbers. Spoiled ones are refused with an error of the
// package's own classes; nothing traps, and afterwards all works as before. `hurt(wgrad, device, trials, seed)`.

/** Numbers below `n`, the same for the same seed (xorshift32). */
function dice(seed) {
  let state = (seed * 2654435761 + 1) >>> 0 || 1;
  return (n) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % n;
  };
}

const NUMBERS = [0, 1, 2, 3, 7, -1, 0.5, 1e-9, 255, 65_536, 2 ** 31, 2 ** 32, 2 ** 53, 1e300, Infinity, NaN];
const WORDS = ["", "x", "constructor", "__proto__", "é\u0000", "null", "optim.m.w", "1e999", "full", "infini"];

function bent(draw, good) {
  const bytes = [...good];
  for (let i = 0; i <= draw(3); i++) {
    const at = draw(Math.max(bytes.length, 1));
    const how = draw(5);
    if (how === 0) bytes[at] ^= 1 << draw(8);
    else if (how === 1) bytes[at] = draw(256);
    else if (how === 2) bytes.splice(at, draw(9));
    else if (how === 3) bytes.splice(at, 0, ...bytes.slice(at, at + draw(40)));
    else bytes.length = at;
  }
  return Uint8Array.from(bytes);
}

/** A file whose header has another number or word, and fits its length again. */
function reworded(draw, good) {
  const length = Number(new DataView(good.buffer, good.byteOffset).getBigUint64(0, true));
  const header = new TextDecoder().decode(good.subarray(8, 8 + length));
  const words = [...header.matchAll(draw(2) ? /\d+/g : /[A-Za-z.]+/g)];
  const { 0: word, index } = words[draw(words.length)];
  const other = draw(2) ? String(NUMBERS[draw(NUMBERS.length)]) : WORDS[draw(WORDS.length)];
  const text = new TextEncoder().encode(header.slice(0, index) + other + header.slice(index + word.length));
  const file = new Uint8Array(8 + text.length + good.length - 8 - length);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true);
  file.set(text, 8);
  file.set(good.subarray(8 + length), 8 + text.length);
  return file;
}

/** Plain data with one value replaced, dropped or added. */
function spoiled(draw, good) {
  const other = () => [NUMBERS[draw(NUMBERS.length)], WORDS[draw(WORDS.length)], null, true, [], {}, [draw(9), -1]][draw(7)];
  if (good === null || typeof good !== "object") return other();
  const copy = structuredClone(good);
  const keys = Object.keys(copy);
  const key = keys[draw(Math.max(keys.length, 1))];
  const how = draw(6);
  if (how === 0 && key !== undefined) delete copy[key];
  else if (how === 1) copy[WORDS[1 + draw(WORDS.length - 1)]] = other();
  else if (key !== undefined) copy[key] = spoiled(draw, copy[key]);
  return copy;
}

const MODELS = [
  ["InfiniTransformer", { dim: 16, depth: 1, heads: 2, segmentLength: 8, headGateInitValue: 1 }],
  ["RoutedDecoder", { dim: 16, depth: 1, heads: 2, window: 8, heavyKeys: 4 }],
  ["ProductKeyTransformer", { dim: 16, depth: 2, heads: 1, seqLen: 8, numKeys: 4, topk: 2, memoryHeads: 2, memoryDimHead: 8, pkmLayers: [2] }],
  ["BlockRecurrentTransformer", { dim: 16, depth: 2, heads: 2, blockWidth: 8, recurrentLayers: [1], numStateVectors: 4 }],
  [
    "MemoryTransformer",
    {
      num_tokens: 9,
      dim: 16,
      heads: 2,
      segment: 8,
      layers: [
        { attention: { kind: "infini" }, feed_forward: { kind: "routed", heavy_tokens: 3 } },
        { attention: { kind: "local", window: 8 }, long_memory: { memories: 5, selected: 2 } },
      ],
    },
  ],
];

/** Operations of a graph with shapes, axes and numbers of any value. */
const USES = [
  (x, n) => x.softmax(n()),
  (x, n) => x.sum(n()),
  (x, n) => x.reshape([n(), n()]),
  (x, n) => x.slice(n(), n(), n()),
  (x, n) => x.pad(n(), n(), n()),
  (x, n) => x.topK(n()).values,
  (x, n) => x.expand([n(), 2, 3]),
  (x, n) => x.permute([n(), n()]),
  (x, n) => x.dropout(n(), n()),
  (x, n) => x.add(n()).mul(n()).pow(n()),
  (x, n) => x.transpose(n(), n()),
  (x, n) => x.cumsum(n()),
  (x, n) => x.layerNorm({ eps: n() }),
  (x, n) => x.matmul(x.reshape([n(), n()])),
];

/** One trial: resolves to whether what was made of the input was accepted. */
async function trial(wgrad, device, draw, files) {
  const number = () => NUMBERS[draw(NUMBERS.length)];
  const file = files[draw(files.length)];
  const what = draw(5);
  if (what === 0) {
    const [name, options] = MODELS[draw(MODELS.length)];
    await wgrad[name].create(device, spoiled(draw, options));
  } else if (what === 1) {
    const found = await wgrad.readTensors(device, draw(2) ? bent(draw, file) : reworded(draw, file));
    for (const { shape, data } of Object.values(found)) {
      if (shape.reduce((a, b) => a * b, 1) !== data.length) throw new Error("a tensor has other elements than its shape says");
    }
  } else if (what === 2) {
    const kind = draw(2) ? "LanguageModel" : MODELS[draw(MODELS.length)][0];
    const options = draw(2) ? {} : { options: spoiled(draw, MODELS[draw(MODELS.length)][1]) };
    await wgrad[kind].load(device, draw(2) ? bent(draw, file) : reworded(draw, file), options);
  } else if (what === 3) {
    const graph = new wgrad.Graph();
    const x = graph.input("x", draw(4) ? [2, 3] : [number(), number()]);
    const y = USES[draw(USES.length)](x, number);
    const plan = await graph.compile(device, { y });
    await plan.run({ x: new Float32Array(6) }, { step: number(), seed: number() });
    plan.free();
  } else {
    const store = await wgrad.Store.create(device);
    try {
      await store.set(WORDS[draw(WORDS.length)], new (draw(2) ? Float32Array : Uint32Array)(draw(9)), [number(), number()]);
    } finally {
      store.free();
    }
  }
}

/** Runs the trials; resolves to how many inputs were refused, by the code of the error. */
export async function hurt(wgrad, device, trials, seed = 1) {
  const files = [];
  for (const [name, options] of MODELS.slice(0, 4)) files.push(await (await wgrad[name].create(device, options)).save());
  const counts = { accepted: 0 };
  for (let i = 0; i < trials; i++) {
    try {
      await trial(wgrad, device, dice(seed + i), files);
      counts.accepted++;
    } catch (error) {
      if (!(error instanceof wgrad.WgradError) || ["panic", "worker"].includes(error.code)) {
        throw new Error(`trial ${seed + i}: ${error?.stack ?? error}`, { cause: error });
      }
      counts[error.code] = (counts[error.code] ?? 0) + 1;
    }
  }
  // What is whole still loads.
  for (const file of files) await wgrad.LanguageModel.load(device, file);
  return counts;
}
