import type { Device } from "./device.js";
import { ArgumentError, NotFiniteError } from "./errors.js";
import { bytesOf, type Progress, type Source } from "./files.js";
import type { Handle, Shaped, Warmup } from "./host.js";
import { type Batch, batches, type Data, IGNORE, pieces, tokensOf } from "./tokens.js";

/** What all language models have in common. */
export interface ModelOptions {
  /** Vocabulary; 256 (bytes) unless said otherwise. */
  numTokens?: number;
  /** Features of a token. */
  dim: number;
  /** Layers. */
  depth: number;
  heads?: number;
  /** Inner features of the feed-forward, in multiples of `dim`. */
  ffMult?: number;
  /** Recompute activations in the backward pass instead of keeping them: less memory, more work. */
  recompute?: boolean;
}

/** Infini-attention (Munkhdalai et al. 2024): local attention and a memory of fixed size for all that came before. */
export interface InfiniOptions extends ModelOptions {
  /** Features of a head, an even number; `dim / heads` unless said otherwise. */
  dimHead?: number;
  /** Tokens of a segment; what lies before is seen through the memory. 128 unless said otherwise. */
  segmentLength?: number;
  /** Segments that gradients cross in training; 2 unless said otherwise. */
  detachEvery?: number;
  attnDropout?: number;
  ffDropout?: number;
  /** Write only what the memory does not already return. */
  useMemDeltaRule?: boolean;
  learnedDeltaUpdate?: boolean;
  /** Start of the gates between local attention (large) and memory (very negative); 0, half each, unless said otherwise. */
  headGateInitValue?: number;
}

/** A decoder with conditionally routed attention (CoLT5, Ainslie et al. 2023). */
export interface RoutedOptions extends ModelOptions {
  /** Tokens of a window of the light branch; 128 unless said otherwise. */
  window?: number;
  /** Routed keys and values of the heavy branch; as many as a window unless said otherwise. */
  heavyKeys?: number;
}

/** A transformer with product-key memories (Lample et al. 2019): tables of `numKeys`² rows of which a token reads a few. */
export interface ProductKeyOptions extends Omit<ModelOptions, "ffMult"> {
  /** Tokens that the model looks back at; 256 unless said otherwise. */
  seqLen?: number;
  dimHead?: number;
  /** Sub-keys of a half; 128 unless said otherwise. */
  numKeys?: number;
  /** Rows that a head reads; 32 unless said otherwise. */
  topk?: number;
  memoryHeads?: number;
  memoryDimHead?: number;
  /** Layers, counted from 1, whose feed-forward is a memory; the middle one unless said otherwise. */
  pkmLayers?: readonly number[];
  /** Learning rate of the tables; 1e-2 unless said otherwise. */
  valuesLr?: number;
  /** Norm of the input of a memory. */
  preLayernorm?: boolean;
  /** Layer norm of queries, else batch norm; true unless said otherwise. */
  useLayernorm?: boolean;
  /** Values of `memoryDimHead` features, put side by side and mixed. */
  concatValuesAndCombine?: boolean;
  /** With the former, as all versions of the PyTorch package do it: values are summed without their gates. */
  dropGates?: boolean;
  /** Norm of the output of a memory. */
  normOutput?: boolean;
}

/** A block-recurrent transformer (Hutchins et al. 2022): states that blocks of tokens hand on. */
export interface RecurrentOptions extends ModelOptions {
  dimHead?: number;
  /** Tokens of a block; 64 unless said otherwise. */
  blockWidth?: number;
  /** Tokens of a segment, a multiple of `blockWidth` and at least the length that is trained on; 16 blocks unless said otherwise. */
  maxSeqLen?: number;
  /** Layers, counted from 1, that write states; the middle one unless said otherwise. */
  recurrentLayers?: readonly number[];
  /** Vectors of the states; as many as a block has tokens unless said otherwise. */
  numStateVectors?: number;
  /** Layers that remember keys and values of the block before; all unless said otherwise. */
  xlMemoriesLayers?: readonly number[];
  compressedMemFactor?: number;
  /** Normalise queries and keys in every layer, not only in those that write states. */
  allLayersQkRmsnorm?: boolean;
  /** Names of parameters as in versions of the PyTorch package up to 0.3.1. */
  flatStateNames?: boolean;
}

/** How a layer of a {@link MemoryTransformer} sees its segment and what came before. */
export type AttentionLayer =
  | { kind: "full"; context?: number }
  | { kind: "local"; window: number }
  | { kind: "infini"; delta_rule?: boolean; head_gate?: number }
  | { kind: "recurrent"; states?: number; gate?: string; gates?: string }
  | { kind: "routed"; memories?: number; selected?: number; heavy_queries?: number; window?: number };

/** What follows attention in a layer of a {@link MemoryTransformer}. */
export type FeedForwardLayer =
  | { kind: "dense" }
  | { kind: "routed"; heavy_tokens: number; light_mult?: number }
  | { kind: "product_key"; num_keys?: number; topk?: number; heads?: number };

/** A decoder that says of every layer what it is made of: the description that the Rust library and its command line read. */
export interface MemoryOptions {
  num_tokens: number;
  dim: number;
  /** Tokens of a segment, in all layers: what is carried is written once a segment. */
  segment: number;
  heads?: number;
  dim_head?: number;
  ff_mult?: number;
  recompute?: boolean;
  layers: readonly {
    attention: AttentionLayer;
    feed_forward?: FeedForwardLayer;
    /** A memory of the layer's past inputs, of which a router picks a few for each segment. */
    long_memory?: { memories: number; selected: number; lookback?: number; half?: boolean };
  }[];
}

/** How a model is trained. */
export interface TrainOptions {
  /** Steps; without end if left out. */
  steps?: number;
  /** Texts of a step, 8 unless said otherwise. */
  batch?: number;
  /** Tokens of a text, 128 unless said otherwise. */
  length?: number;
  /** Learning rate, 1e-3 unless said otherwise. */
  lr?: number;
  /** Learning rate of the tables of product-key memories; the model's own unless said otherwise. */
  valuesLr?: number;
  optimizer?: "adamw" | "adam" | "sgd";
  weightDecay?: number;
  momentum?: number;
  /** Steps over which the learning rate rises. */
  warmup?: number;
  /** Steps over which it falls along half a cosine, to `floor` times its height. Left out, it stays. */
  total?: number;
  floor?: number;
  /** Largest norm of the gradients; 1 unless said otherwise, 0 for any. */
  clip?: number;
  /** Seed of dropout and of the places that texts are drawn from. */
  seed?: number;
  /** Steps between two reports. Left out, about ten reports a second. */
  every?: number;
  /** Sparse fine-tuning: of a model with product-key memories only these slots (u32 0/1 each) learn, and nothing else. */
  slots?: Uint32Array;
  /** Ends training after the current step; the iteration throws the signal's reason. */
  signal?: AbortSignal;
  /** Told while the step is compiled. */
  onProgress?: (warmup: Warmup) => void;
}

/** A report of training. */
export interface TrainReport {
  /** Steps of this model so far, earlier runs included. */
  step: number;
  /** Mean cross entropy of the last step, in nats a token. */
  loss: number;
  gradNorm: number;
  tokensPerSecond: number;
  /** Steps that were skipped because a loss or gradient was not finite. */
  skipped: number;
}

/** How tokens are drawn. */
export interface GenerateOptions {
  /** Tokens; without end if left out. */
  count?: number;
  /** Divides the logits; 0 takes the likeliest token. 1 unless said otherwise. */
  temperature?: number;
  topK?: number;
  topP?: number;
  seed?: number;
  signal?: AbortSignal;
  /** Told while the model's plans are compiled. */
  onProgress?: (warmup: Warmup) => void;
  /** Most tokens that can be read and generated together, where the model has no bound of its own; 4096 unless said otherwise. */
  capacity?: number;
}

/** How a text is read that nothing is learned from. */
export interface ReadOptions {
  /** Tokens that are read at once; 128 unless said otherwise. */
  length?: number;
  /** Pieces of a text that are read at once; 4 unless said otherwise. */
  batch?: number;
  signal?: AbortSignal;
  /** Told while the plan is compiled. */
  onProgress?: (warmup: Warmup) => void;
}

/** How well a model predicts a text. */
export interface Evaluation {
  /** Mean cross entropy, in nats a token. */
  loss: number;
  /** Cross entropy of each token but the first. */
  losses: Float32Array;
}

/** What is known about a model. */
export interface ModelInfo {
  kind: string;
  options: Record<string, unknown>;
  /** Floats that are learned. */
  parameters: number;
  /** Training steps so far. */
  steps: number;
}

/** Reports a second where `every` is left out, and steps that may be queued without one. */
const REPORT_MS = 100;
const QUEUED = 16;
/** Tokens that are generated between two readings. */
const BATCH = 16;

function without<T extends object>(options: T, ...names: (keyof T)[]): string {
  return JSON.stringify(options, (key, value: unknown) => (names.includes(key as keyof T) ? undefined : value));
}

/** A language model on a device. One call at a time: wait for the promise of the last. */
export class LanguageModel {
  /** Kind of the class, for files. @internal */
  static readonly kind: string = "";
  readonly device: Device;
  /** @internal */
  readonly handle: Handle;
  #prepared: string | undefined;
  #probes = new Map<string, Promise<Handle>>();

  /** @internal */
  constructor(device: Device, handle: Handle) {
    this.device = device;
    this.handle = handle;
  }

  /** @internal */
  protected static async make(device: Device, options: { seed?: number }): Promise<Handle> {
    const text = without(options, "seed");
    return device.link.call("modelCreate", [device.opened.device, this.kind, text, options.seed ?? 0]);
  }

  /** @internal */
  protected static async open(device: Device, source: Source, options: LoadOptions): Promise<Handle> {
    const bytes = await bytesOf(source, options.onProgress, options.signal);
    const text = JSON.stringify(options.options ?? {});
    return device.link.call("modelLoad", [device.opened.device, bytes, this.kind, text]);
  }

  /**
   * The model of a safetensors file: saved here, or converted from the PyTorch package that it comes from, which is recognised by
   * the names of its tensors.
   */
  static async load(device: Device, source: Source, options: LoadOptions = {}): Promise<LanguageModel> {
    return new this(device, await this.open(device, source, options));
  }

  /** Kind, options, parameters, steps. */
  async info(): Promise<ModelInfo> {
    const found = JSON.parse(await this.device.link.call("modelDescribe", [this.handle])) as {
      config: { kind: string; options: Record<string, unknown> };
      parameters: number;
      steps: number;
    };
    return { ...found.config, parameters: found.parameters, steps: found.steps };
  }

  /**
   * Trains on a text, bytes, token ids, or batches that you make; reports as it goes. Leaving the loop ends training; calling again
   * goes on.
   */
  async *train(data: Data, options: TrainOptions = {}): AsyncGenerator<TrainReport, void, void> {
    const { steps = Infinity, batch = 8, length = 128, seed = 0, every, slots, signal, onProgress } = options;
    const { link, opened } = this.device;
    signal?.throwIfAborted();
    let step = (await this.info()).steps;
    const next = batches(data, batch, length, seed);
    // The first batch says whether labels are given.
    const first = [await next(step)];
    const told = { ...options, batch, length, seed, labels: !(first[0] instanceof Uint32Array), sparse: !!slots };
    const settings = without(told, "steps", "every", "slots", "signal", "onProgress");
    if (settings !== this.#prepared) {
      this.#forget();
      await link.call("modelPrepare", [opened.device, this.handle, settings], onProgress);
      this.#prepared = settings;
    }
    if (slots) await link.call("modelMark", [this.handle, slots]);
    const begun = (await this.info()).steps;
    // Another optimizer begins anew.
    if (begun !== step) first.length = 0;
    step = begun;
    const end = step + steps;
    let queued = 1;
    while (step < end) {
      signal?.throwIfAborted();
      const started = performance.now();
      const count = Math.min(every ?? queued, QUEUED, end - step);
      const made: Batch[] = first.splice(0);
      for (let i = made.length; i < count; i++) made.push(await next(step + i));
      const [loss = NaN, gradNorm = NaN, ok = 0, at = 0, skipped = 0] = await link.call("modelSteps", [this.handle, made]);
      const ms = performance.now() - started;
      step = at;
      queued = Math.max(1, Math.min(QUEUED, Math.round((count * REPORT_MS) / Math.max(ms, 1))));
      if (ok === 0 && skipped > MOST_SKIPPED) {
        const message = `${skipped} steps were skipped since loss or gradients were not finite; lower the learning rate`;
        throw new NotFiniteError("not-finite", message);
      }
      yield { step, loss, gradNorm, skipped, tokensPerSecond: (count * batch * length * 1000) / ms };
    }
  }

  /** How well each token of a text is predicted. The text is read in pieces of `length` tokens, each as if it were the first. */
  async evaluate(text: string | ArrayLike<number>, options: ReadOptions = {}): Promise<Evaluation> {
    const tokens = tokensOf(text);
    const count = Math.max(tokens.length - 1, 0);
    const losses = new Float32Array(count);
    let at = 0;
    for await (const { losses: found } of this.look(tokens, options)) {
      const part = (found as Shaped<Float32Array>).data.subarray(0, count - at);
      losses.set(part, at);
      at += part.length;
    }
    return { loss: losses.reduce((sum, loss) => sum + loss, 0) / Math.max(count, 1), losses };
  }

  /** What models show while they read a text, a batch of pieces at a time. @internal */
  protected async *look(
    text: string | ArrayLike<number>,
    { length = 128, batch = 4, signal, onProgress }: ReadOptions,
  ): AsyncGenerator<Record<string, Shaped>, void, void> {
    const probe = await this.probe("text", batch, length, onProgress);
    for (const ids of pieces(tokensOf(text), batch, length)) {
      signal?.throwIfAborted();
      yield await this.device.link.call("probeRun", [probe, ids, false]);
    }
  }

  /** @internal */
  protected probe(what: string, batch: number, length: number, onProgress?: (warmup: Warmup) => void): Promise<Handle> {
    const key = `${what} ${batch} ${length}`;
    const { link, opened } = this.device;
    const made = this.#probes.get(key) ?? link.call("modelProbe", [opened.device, this.handle, what, batch, length], onProgress);
    this.#probes.set(key, made);
    made.catch(() => this.#probes.delete(key));
    return made;
  }

  /** Frees what a new home of the parameters makes useless. */
  #forget(): void {
    const { link } = this.device;
    for (const probe of this.#probes.values()) probe.then((handle) => link.call("free", [handle])).catch(() => {});
    this.#probes.clear();
  }

  /** Continues a prompt, a token at a time. */
  async *generate(prompt: string | ArrayLike<number>, options: GenerateOptions = {}): AsyncGenerator<number, void, void> {
    const stream = await this.stream(options);
    try {
      await stream.feed(prompt);
      yield* stream.generate(options);
    } finally {
      stream.free();
    }
  }

  /** An empty text to be fed and continued. It sees what the model has learned since, until training is set up anew. */
  async stream({ capacity = 4096, onProgress }: Pick<GenerateOptions, "capacity" | "onProgress"> = {}): Promise<TextStream> {
    const { link, opened } = this.device;
    return new TextStream(this, await link.call("modelStream", [opened.device, this.handle, capacity], onProgress));
  }

  /** The model as a safetensors file, with the optimizer's state once it has been trained: what is loaded goes on bit for bit. */
  save(): Promise<Uint8Array<ArrayBuffer>> {
    return this.device.link.call("modelSave", [this.handle]) as Promise<Uint8Array<ArrayBuffer>>;
  }

  free(): void {
    this.#forget();
    this.device.link.call("free", [this.handle]).catch(() => {});
  }

  [Symbol.dispose](): void {
    this.free();
  }
}

const MOST_SKIPPED = 20;

export interface LoadOptions {
  /** Told while the file is read. */
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal;
  /** Options that win over those of the file. */
  options?: Record<string, unknown>;
}

/** A text that a model reads and continues. Where the model's memory is bounded, so are the bytes of the state. */
export class TextStream {
  readonly model: LanguageModel;
  /** Tokens read and generated so far. */
  tokens = 0;
  /** Bytes of the state on the device. */
  bytes = 0;
  #handle: Handle;

  /** @internal */
  constructor(model: LanguageModel, handle: Handle) {
    this.model = model;
    this.#handle = handle;
  }

  /** Reads more of the text: any length. */
  async feed(text: string | ArrayLike<number>, { signal }: { signal?: AbortSignal } = {}): Promise<void> {
    const tokens = tokensOf(text);
    for (let i = 0; i < tokens.length; i += PIECE) {
      signal?.throwIfAborted();
      const piece = tokens.subarray(i, i + PIECE);
      const [read = 0, bytes = 0] = await this.model.device.link.call("streamFeed", [this.#handle, piece]);
      [this.tokens, this.bytes] = [read, bytes];
    }
  }

  /** Continues the text, a token at a time. Tokens that were drawn but not taken belong to the text. */
  async *generate(options: Omit<GenerateOptions, "capacity"> = {}): AsyncGenerator<number, void, void> {
    const { count = Infinity, seed = 0, signal } = options;
    if (this.tokens === 0) throw new ArgumentError("argument", "generate: feed at least one token to continue from");
    const how = without(options, "count", "seed", "signal", "onProgress", "capacity" as never);
    for (let done = 0; done < count; ) {
      signal?.throwIfAborted();
      const n = Math.min(BATCH, count - done);
      const tokens = await this.model.device.link.call("streamGenerate", [this.#handle, n, how, seed]);
      this.tokens += tokens.length;
      done += tokens.length;
      yield* tokens;
    }
  }

  /** Names of the tensors of the state: memories, caches, states. Empty where the state cannot be looked at. */
  names(): Promise<string[]> {
    return this.model.device.link.call("streamNames", [this.#handle]);
  }

  /** A tensor of the state. */
  async read(name: string): Promise<{ shape: number[]; data: Float32Array | Uint32Array }> {
    const { shape, data } = await this.model.device.link.call("streamRead", [this.#handle, name]);
    return { shape: [...shape], data };
  }

  /** Logits of the next token. */
  logits(): Promise<Float32Array> {
    return this.model.device.link.call("streamLogits", [this.#handle]);
  }

  free(): void {
    this.model.device.link.call("free", [this.#handle]).catch(() => {});
  }

  [Symbol.dispose](): void {
    this.free();
  }
}

/** Tokens of a text that are fed before others get a turn. */
const PIECE = 4096;

/** A transformer with Infini-attention. */
export class InfiniTransformer extends LanguageModel {
  static override readonly kind: string = "infini";

  /** A fresh model; `seed` decides the initial parameters. */
  static async create(device: Device, options: InfiniOptions & { seed?: number }): Promise<InfiniTransformer> {
    return new InfiniTransformer(device, await this.make(device, options));
  }

  static override async load(device: Device, source: Source, options: LoadOptions = {}): Promise<InfiniTransformer> {
    return new InfiniTransformer(device, await this.open(device, source, options));
  }
}

/** A decoder with conditionally routed attention. */
export class RoutedDecoder extends LanguageModel {
  static override readonly kind: string = "routed";

  /** A fresh model; `seed` decides the initial parameters. */
  static async create(device: Device, options: RoutedOptions & { seed?: number }): Promise<RoutedDecoder> {
    return new RoutedDecoder(device, await this.make(device, options));
  }

  static override async load(device: Device, source: Source, options: LoadOptions = {}): Promise<RoutedDecoder> {
    return new RoutedDecoder(device, await this.open(device, source, options));
  }

  /**
   * Scores by which the router of each layer chooses among the tokens of a text, before they are made soft. Give `length` to read
   * the text at once.
   */
  async scores(text: string | ArrayLike<number>, options: ReadOptions = {}): Promise<Float32Array[]> {
    const tokens = tokensOf(text);
    const { length = tokens.length } = options;
    const all: Float32Array[] = [];
    let at = 0;
    // The last token is read too: as if another came.
    for await (const found of this.look([...tokens, IGNORE], { ...options, length, batch: 1 })) {
      for (let i = 0; found[`scores.${i}`]; i++) {
        const { data } = found[`scores.${i}`] as Shaped<Float32Array>;
        all[i] ??= new Float32Array(tokens.length);
        all[i]?.set(data.subarray(0, tokens.length - at), at);
      }
      at += length;
    }
    return all;
  }
}

/** How often each slot of a memory was read. */
export class SlotUsage {
  /** Times that a slot was read. */
  readonly hits: Uint32Array;
  /** Sum of the gates it was read with. */
  readonly weights: Float32Array;
  /** Pieces of the text in which it was read. */
  readonly batches: Uint32Array;
  /** Pieces that were counted. */
  totalBatches = 0;

  constructor(readonly slots: number) {
    this.hits = new Uint32Array(slots);
    this.weights = new Float32Array(slots);
    this.batches = new Uint32Array(slots);
  }

  /** Share of the slots that were read at all. */
  get shareUsed(): number {
    return this.hits.reduce((n, hits) => n + Number(hits > 0), 0) / Math.max(this.slots, 1);
  }

  /** @internal */
  add({ data: slots }: Shaped<Uint32Array>, { data: gates }: Shaped<Float32Array>, losses: Float32Array): void {
    const per = slots.length / Math.max(losses.length, 1);
    const seen = new Set<number>();
    this.totalBatches += 1;
    for (let i = 0; i < slots.length; i++) {
      // Behind the end of the text nothing is predicted.
      if (losses[Math.floor(i / per)] === 0) continue;
      const slot = slots[i] as number;
      this.hits[slot] = (this.hits[slot] ?? 0) + 1;
      this.weights[slot] = (this.weights[slot] ?? 0) + (gates[i] ?? 0);
      if (!seen.has(slot)) this.batches[slot] = (this.batches[slot] ?? 0) + 1;
      seen.add(slot);
    }
  }
}

/**
 * The `count` slots that matter most for a text and least for what was read before (TF-IDF; Lin et al. 2025), as a mask for
 * {@link TrainOptions.slots}. Slots that the text does not read are never chosen.
 */
export function chooseSlots(text: SlotUsage, background: SlotUsage, count: number): Uint32Array {
  const total = Math.max(text.hits.reduce((sum, hits) => sum + hits, 0), 1);
  const score = (i: number) =>
    ((text.hits[i] ?? 0) / total) * Math.log((background.totalBatches + 1) / ((background.batches[i] ?? 0) + 1));
  const read = [...text.hits.keys()].filter((i) => (text.hits[i] ?? 0) > 0);
  const scores = new Map(read.map((i) => [i, score(i)]));
  read.sort((a, b) => (scores.get(b) ?? 0) - (scores.get(a) ?? 0) || a - b);
  const mask = new Uint32Array(text.slots);
  for (const i of read.slice(0, count)) mask[i] = 1;
  return mask;
}

/** A transformer with product-key memories. */
export class ProductKeyTransformer extends LanguageModel {
  static override readonly kind: string = "pkm";

  /** A fresh model; `seed` decides the initial parameters. */
  static async create(device: Device, options: ProductKeyOptions & { seed?: number }): Promise<ProductKeyTransformer> {
    return new ProductKeyTransformer(device, await this.make(device, options));
  }

  static override async load(device: Device, source: Source, options: LoadOptions = {}): Promise<ProductKeyTransformer> {
    return new ProductKeyTransformer(device, await this.open(device, source, options));
  }

  /** How each memory is used while the model reads a text, a piece of which is a batch. */
  async usage(text: string | ArrayLike<number>, options: ReadOptions = {}): Promise<SlotUsage[]> {
    const { numKeys = 128 } = (await this.info()).options as { numKeys?: number };
    const all: SlotUsage[] = [];
    for await (const found of this.look(text, { ...options, batch: 1 })) {
      const live = (found.losses as Shaped<Float32Array>).data;
      for (let i = 0; found[`slots.${i}`]; i++) {
        all[i] ??= new SlotUsage(numKeys * numKeys);
        all[i]?.add(found[`slots.${i}`] as Shaped<Uint32Array>, found[`gates.${i}`] as Shaped<Float32Array>, live);
      }
    }
    return all;
  }
}

/** A block-recurrent transformer. */
export class BlockRecurrentTransformer extends LanguageModel {
  static override readonly kind: string = "recurrent";

  /** A fresh model; `seed` decides the initial parameters. */
  static async create(device: Device, options: RecurrentOptions & { seed?: number }): Promise<BlockRecurrentTransformer> {
    return new BlockRecurrentTransformer(device, await this.make(device, options));
  }

  static override async load(device: Device, source: Source, options: LoadOptions = {}): Promise<BlockRecurrentTransformer> {
    return new BlockRecurrentTransformer(device, await this.open(device, source, options));
  }

  /**
   * Reads one text in pieces of `length` tokens, a multiple of `blockWidth`, and tells the loss and the states after each. With
   * `forget` every piece is read as if it were the first.
   */
  async *read(
    text: string | ArrayLike<number>,
    { length = 64, forget = false, signal, onProgress }: ReadOptions & { forget?: boolean } = {},
  ): AsyncGenerator<CarriedReport, void, void> {
    const probe = await this.probe("carry", 1, length, onProgress);
    const tokens = tokensOf(text);
    for (let at = 0; at + length + 1 <= tokens.length; at += length) {
      signal?.throwIfAborted();
      const ids = tokens.slice(at, at + length + 1);
      const found = await this.device.link.call("probeRun", [probe, ids, forget || at === 0]);
      const states = Object.keys(found).filter((name) => name.startsWith("recurrent.states."));
      yield {
        tokens: at + length,
        loss: found.loss?.data[0] ?? NaN,
        states: states.map((name) => ({ shape: [...(found[name]?.shape ?? [])], data: found[name]?.data as Float32Array })),
      };
    }
  }
}

/** A piece of a text that was read. */
export interface CarriedReport {
  /** Tokens read so far. */
  tokens: number;
  /** Mean cross entropy of this piece, in nats a token. */
  loss: number;
  /** The state vectors `[1, vectors, features]` of each layer that writes them. */
  states: { shape: number[]; data: Float32Array }[];
}

/** A decoder whose every layer says which attention and which feed-forward it uses; all four systems in one if asked for. */
export class MemoryTransformer extends LanguageModel {
  static override readonly kind: string = "mix";

  /** A fresh model of a description; `seed` decides the initial parameters. */
  static async create(device: Device, options: MemoryOptions & { seed?: number }): Promise<MemoryTransformer> {
    return new MemoryTransformer(device, await this.make(device, options));
  }

  static override async load(device: Device, source: Source, options: LoadOptions = {}): Promise<MemoryTransformer> {
    return new MemoryTransformer(device, await this.open(device, source, options));
  }
}

/** The tensors of floats of a safetensors file by name: of any checkpoint, for graphs of one's own. */
export async function readTensors(
  device: Device,
  source: Source,
  { onProgress, signal }: Pick<LoadOptions, "onProgress" | "signal"> = {},
): Promise<Record<string, { shape: number[]; data: Float32Array | Uint32Array }>> {
  const found = await device.link.call("readTensors", [await bytesOf(source, onProgress, signal)]);
  return Object.fromEntries(Object.entries(found).map(([name, { shape, data }]) => [name, { shape: [...shape], data }]));
}
