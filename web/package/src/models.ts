import type { Device } from "./device.js";
import { ArgumentError, NotFiniteError } from "./errors.js";
import { bytesOf, type Progress, type Source } from "./files.js";
import type { Handle, Warmup } from "./host.js";
import { batches, type Data, tokensOf } from "./tokens.js";

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
    const { steps = Infinity, batch = 8, length = 128, seed = 0, every, signal, onProgress } = options;
    const { link, opened } = this.device;
    signal?.throwIfAborted();
    const settings = without({ ...options, batch, length, seed }, "steps", "every", "signal", "onProgress");
    if (settings !== this.#prepared) {
      await link.call("modelPrepare", [opened.device, this.handle, settings], onProgress);
      this.#prepared = settings;
    }
    let step = (await this.info()).steps;
    const end = step + steps;
    const next = batches(data, batch, length, seed);
    let queued = 1;
    while (step < end) {
      signal?.throwIfAborted();
      const started = performance.now();
      const count = Math.min(every ?? queued, QUEUED, end - step);
      const made: Uint32Array[] = [];
      for (let i = 0; i < count; i++) made.push(await next(step + i));
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
}
