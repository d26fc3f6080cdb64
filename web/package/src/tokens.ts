import { ArgumentError } from "./errors.js";

/** Ids `[batch, length]` and, for each, what stands behind it: {@link IGNORE} does not count. */
export interface Labelled {
  ids: Uint32Array;
  labels: Uint32Array;
}

/** Label that does not count, and id of no token. */
export const IGNORE = 0xffffffff;

/** What a step learns from: ids `[batch, length + 1]`, row-major, of which every one but the first of a row is predicted. */
export type Batch = Uint32Array | Labelled;

/** What a model learns from: a text or bytes (a byte is a token), token ids, or a function that makes the batch of a step. */
export type Data = string | Uint8Array | Uint32Array | ((step: number) => Batch | Promise<Batch>);

/** A text as tokens: its UTF-8 bytes. */
export function encode(text: string): Uint32Array {
  return Uint32Array.from(new TextEncoder().encode(text));
}

/** Bytes as a text; what is no UTF-8 shows as �. */
export function decode(tokens: Iterable<number>): string {
  return new TextDecoder().decode(Uint8Array.from(tokens));
}

export function tokensOf(text: string | ArrayLike<number>): Uint32Array {
  if (typeof text === "string") return encode(text);
  return text instanceof Uint32Array ? text : Uint32Array.from(text);
}

/** Numbers from 0 to 2^32 - 1 that depend on two numbers only (splitmix32). @internal */
export function* numbers(a: number, b: number): Generator<number, never> {
  let state = (Math.imul(a, 0x9e3779b9) ^ Math.imul(b + 1, 0x85ebca6b)) | 0;
  for (;;) {
    state = (state + 0x9e3779b9) | 0;
    let x = state;
    x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
    x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
    yield (x ^ (x >>> 15)) >>> 0;
  }
}

/** Batches by step, from places drawn by seed and step alone: a run can be repeated. */
export function batches(
  data: Data,
  batch: number,
  length: number,
  seed: number,
): (step: number) => Batch | Promise<Batch> {
  if (typeof data === "function") return data;
  const tokens = tokensOf(data);
  const width = length + 1;
  if (tokens.length < width) {
    throw new ArgumentError("argument", `train: ${tokens.length} tokens; at least ${width} are needed (length + 1)`);
  }
  return (step) => {
    const ids = new Uint32Array(batch * width);
    const draw = numbers(seed, step);
    for (let i = 0; i < batch; i++) {
      const start = draw.next().value % (tokens.length - width + 1);
      ids.set(tokens.subarray(start, start + width), i * width);
    }
    return ids;
  };
}

/** A text in rows of `length + 1` ids, each of which begins with the last of the row before; what is missing is {@link IGNORE}. */
export function pieces(tokens: Uint32Array, batch: number, length: number): Uint32Array[] {
  const rows = Math.max(Math.ceil((tokens.length - 1) / length), 0);
  const all: Uint32Array[] = [];
  for (let row = 0; row < rows; row += batch) {
    const ids = new Uint32Array(batch * (length + 1)).fill(IGNORE);
    for (let i = 0; i < batch && row + i < rows; i++) {
      const start = (row + i) * length;
      ids.set(tokens.subarray(start, start + length + 1), i * (length + 1));
    }
    all.push(ids);
  }
  return all;
}
