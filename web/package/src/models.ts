import type { Device } from "./device.js";
import { bytesOf, type Source } from "./files.js";
import type { Shaped } from "./host.js";
import { LanguageModel } from "./model.js";
import type { InfiniOptions, MemoryOptions, ProductKeyOptions, RecurrentOptions, RoutedOptions } from "./options.js";
import { IGNORE, tokensOf } from "./tokens.js";
import type { LoadOptions, ReadOptions } from "./training.js";
import { SlotUsage } from "./usage.js";

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
