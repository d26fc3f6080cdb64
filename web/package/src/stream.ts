import { ArgumentError } from "./errors.js";
import type { Handle } from "./host.js";
import type { LanguageModel } from "./model.js";
import { tokensOf } from "./tokens.js";
import { type GenerateOptions, without } from "./training.js";

/** Tokens that are generated between two readings. */
const BATCH = 16;
/** Tokens of a text that are fed before others get a turn. */
const PIECE = 4096;

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
