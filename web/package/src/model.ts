import type { Device } from "./device.js";
import { NotFiniteError } from "./errors.js";
import { bytesOf, type Source } from "./files.js";
import type { Handle, Shaped, Warmup } from "./host.js";
import { TextStream } from "./stream.js";
import { type Batch, batches, type Data, pieces, tokensOf } from "./tokens.js";
import {
  type Evaluation,
  type GenerateOptions,
  type LoadOptions,
  type ModelInfo,
  type ReadOptions,
  type TrainOptions,
  type TrainReport,
  without,
} from "./training.js";

/** Reports a second where `every` is left out, and steps that may be queued without one. */
const REPORT_MS = 100;
const QUEUED = 16;
/** Steps that may be skipped before training is given up. */
const MOST_SKIPPED = 20;
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
