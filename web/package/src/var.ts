import { ArgumentError, ShapeError } from "./errors.js";
import type { GradientLog } from "./log.js";

/** Element types. Masks, indices and token ids are "u32". */
export type DType = "f32" | "u32";
/** Elements of a tensor, row-major. */
export type Elements<D extends DType = DType> = D extends "f32" ? Float32Array : Uint32Array;
export type Shape = readonly number[];

/** A variable, or a number that stands for a tensor filled with it. */
export type Operand<D extends DType> = Var<D> | number;

/** Of a graph's own methods, what {@link Var} needs. @internal */
export interface Adds {
  add<D extends DType>(op: string, inputs: readonly Var<DType>[], numbers?: readonly number[], text?: string): Var<D>[];
  number<D extends DType>(value: number, dtype: D): Var<D>;
  custom(inputs: readonly Var<DType>[], spec: string, gradient: GradientLog | undefined): Var<DType>[];
}

const NONE = Number.NaN;

/** A shape as it travels: what is no size must not become one on the way. @internal */
export function extents(shape: Shape): Uint32Array {
  const sizes = Uint32Array.from(shape);
  if (sizes.every((size, i) => size === shape[i])) return sizes;
  throw new ShapeError("shape", `expected whole numbers below 2^32, got [${shape.join(", ")}]`);
}

/** A value of a {@link Graph}: shape and element type are known, the elements only when a plan has run. */
export class Var<D extends DType = "f32"> {
  /** @internal */
  constructor(
    /** @internal */ readonly owner: Adds,
    /** @internal */ readonly id: number,
    readonly dtype: D,
    readonly shape: Shape,
  ) {}

  /** @internal */
  one<R extends DType = D>(op: string, numbers: readonly number[] = [], ...others: Var<DType>[]): Var<R> {
    return this.owner.add<R>(op, [this as Var<DType>, ...others], numbers)[0] as Var<R>;
  }

  /** @internal */
  with<R extends DType = D>(op: string, other: Operand<D>): Var<R> {
    const var_ = typeof other === "number" ? this.owner.number(other, this.dtype) : other;
    return this.one<R>(op, [], var_ as Var<DType>);
  }

  /** An axis counted from the end if negative. */
  #axis(axis: number): number {
    return axis < 0 ? axis + this.shape.length : axis;
  }

  // Elementwise, with broadcasting.

  add(other: Operand<D>): Var<D> { return this.with("add", other); }
  sub(other: Operand<D>): Var<D> { return this.with("sub", other); }
  mul(other: Operand<D>): Var<D> { return this.with("mul", other); }
  div(other: Operand<D>): Var<D> { return this.with("div", other); }
  maximum(other: Operand<D>): Var<D> { return this.with("maximum", other); }
  minimum(other: Operand<D>): Var<D> { return this.with("minimum", other); }
  /** this^other; this must be positive. */
  pow(other: Operand<D>): Var<D> { return this.with("pow", other); }
  /** Remainder of u32; x % 0 is 0. */
  rem(other: Operand<D>): Var<D> { return this.with("rem", other); }
  /** Bitwise and of u32; of masks: both. */
  and(other: Operand<D>): Var<D> { return this.with("and", other); }
  /** Bitwise or of u32; of masks: either. */
  or(other: Operand<D>): Var<D> { return this.with("or", other); }
  /** Bitwise exclusive or of u32. */
  xor(other: Operand<D>): Var<D> { return this.with("xor", other); }
  shl(other: Operand<D>): Var<D> { return this.with("shl", other); }
  shr(other: Operand<D>): Var<D> { return this.with("shr", other); }
  /** Mask of this < other. */
  lt(other: Operand<D>): Var<"u32"> { return this.with("lt", other); }
  le(other: Operand<D>): Var<"u32"> { return this.with("le", other); }
  gt(other: Operand<D>): Var<"u32"> { return this.with("gt", other); }
  ge(other: Operand<D>): Var<"u32"> { return this.with("ge", other); }
  eq(other: Operand<D>): Var<"u32"> { return this.with("eq", other); }
  ne(other: Operand<D>): Var<"u32"> { return this.with("ne", other); }
  neg(): Var<D> { return this.one("neg"); }
  exp(): Var<D> { return this.one("exp"); }
  /** Natural logarithm. */
  ln(): Var<D> { return this.one("ln"); }
  sqrt(): Var<D> { return this.one("sqrt"); }
  /** 1 / x. */
  recip(): Var<D> { return this.one("recip"); }
  square(): Var<D> { return this.one("square"); }
  tanh(): Var<D> { return this.one("tanh"); }
  sigmoid(): Var<D> { return this.one("sigmoid"); }
  relu(): Var<D> { return this.one("relu"); }
  elu(): Var<D> { return this.one("elu"); }
  /** elu(x) + 1, the feature map of linear attention. */
  eluPlusOne(): Var<D> { return this.one("elu_plus_one"); }
  erf(): Var<D> { return this.one("erf"); }
  /** With the exact error function. */
  gelu(): Var<D> { return this.one("gelu"); }
  silu(): Var<D> { return this.one("silu"); }
  sin(): Var<D> { return this.one("sin"); }
  cos(): Var<D> { return this.one("cos"); }
  abs(): Var<D> { return this.one("abs"); }
  floor(): Var<D> { return this.one("floor"); }
  toF32(): Var<"f32"> { return this.one("to_f32"); }
  toU32(): Var<"u32"> { return this.one("to_u32"); }
  /** Mask of elements that are neither infinite nor NaN. */
  isFinite(): Var<"u32"> { return this.one("is_finite"); }
  /** Where this mask is not 0 `yes`, else `no`. */
  select<R extends DType>(yes: Var<R>, no: Operand<R>): Var<R> {
    const other = typeof no === "number" ? this.owner.number(no, yes.dtype) : no;
    return this.one<R>("select", [], yes as Var<DType>, other as Var<DType>);
  }
  /** The same value; no gradient flows back. */
  stopGradient(): Var<D> { return this.one("stop_gradient"); }
  /** The value of this, the gradient of `soft`. */
  straightThrough(soft: Var<D>): Var<D> { return this.with("straight_through", soft); }
  /** In training each element is 0 with probability `p`, else x / (1 - p). `site` tells this dropout from others. */
  dropout(p: number, site: number): Var<D> { return this.one("dropout", [p, site]); }

  // Reductions. The axis disappears; it counts from the end if negative.

  sum(axis?: number): Var<D> { return axis === undefined ? this.one("sum_all") : this.one("sum", [this.#axis(axis)]); }
  mean(axis?: number): Var<D> {
    return axis === undefined ? this.one("mean_all") : this.one("mean", [this.#axis(axis)]);
  }
  max(axis: number): Var<D> { return this.one("max", [this.#axis(axis)]); }
  min(axis: number): Var<D> { return this.one("min", [this.#axis(axis)]); }
  /** Place of the largest; the first of equal ones. */
  argmax(axis = -1): Var<"u32"> { return this.one("argmax", [this.#axis(axis)]); }
  logsumexp(axis = -1): Var<D> { return this.one("logsumexp", [this.#axis(axis)]); }

  // Along an axis; the shape stays.

  softmax(axis = -1): Var<D> { return this.one("softmax", [this.#axis(axis)]); }
  cumsum(axis = -1, { exclusive = false, reverse = false } = {}): Var<D> {
    return this.one("cumsum", [this.#axis(axis), Number(exclusive), Number(reverse)]);
  }
  /** Layer normalisation over the last axis. */
  layerNorm({ gamma, beta, eps = 1e-5 }: { gamma?: Var; beta?: Var; eps?: number } = {}): Var<D> {
    if (beta && !gamma) throw new ArgumentError("argument", "layerNorm: beta needs gamma");
    return this.one("layer_norm", [eps], ...given(gamma), ...given(beta));
  }
  /** x / |x| * sqrt(n) * gamma over the last axis. */
  rmsNorm(gamma?: Var): Var<D> { return this.one("rms_norm", [], ...given(gamma)); }
  l2Normalize(eps = 1e-12): Var<D> { return this.one("l2_normalize", [eps]); }
  /** Rotary embedding of `[.., n, d]` at positions u32 `[n]` or `[b, n]`. */
  rotary(positions: Var<"u32">, { theta = NONE, dim = NONE } = {}): Var<D> {
    return this.one("rotary", [theta, dim], positions);
  }

  // Shapes.

  reshape(shape: Shape): Var<D> { return this.one("reshape", shape); }
  /** Repeats dimensions of 1. */
  expand(shape: Shape): Var<D> { return this.one("expand", shape); }
  permute(axes: readonly number[]): Var<D> { return this.one("permute", axes.map((a) => this.#axis(a))); }
  transpose(a = -2, b = -1): Var<D> {
    const axes = this.shape.map((_, i) => i);
    const [x, y] = [this.#axis(a), this.#axis(b)];
    const [i, j] = [axes[x], axes[y]];
    if (i === undefined || j === undefined) throw new ShapeError("shape", `transpose: no axes ${a} and ${b} in [${this.shape.join(", ")}]`);
    [axes[x], axes[y]] = [j, i];
    return this.permute(axes);
  }
  /** Elements `start` to `end` (not included) along an axis; negative ones count from the end. */
  slice(axis: number, start: number, end?: number, step = 1): Var<D> {
    const i = this.#axis(axis);
    const n = this.shape[i] ?? 0;
    const at = (x: number) => Math.min(Math.max(x < 0 ? x + n : x, 0), n);
    const [from, to] = [at(start), at(end ?? n)];
    return this.one("slice", [i, from, Math.ceil(Math.max(to - from, 0) / step), step]);
  }
  concat(others: readonly Var<D>[], axis = -1): Var<D> {
    return this.one("concat", [this.#axis(axis)], ...(others as readonly Var<DType>[]));
  }
  /** Zeros before and after along an axis. */
  pad(axis: number, before: number, after: number): Var<D> { return this.one("pad", [this.#axis(axis), before, after]); }

  // Products.

  /** `[.., m, k]` by `[.., k, n]`, with broadcasting of what stands before. */
  matmul(other: Var<D>): Var<D> { return this.with("matmul", other); }
  /**
   * Softmax attention of queries `[b, h, n, d]` on keys and values `[b, h or a divisor, m, ..]`. `mask` u32 `[b, m]`; `window`
   * counts the query's own position.
   */
  attention(keys: Var, values: Var, { scale = NONE, causal = false, window = NONE, mask }: AttentionOptions = {}): Var {
    return this.one<"f32">("attention", [scale, Number(causal), window], keys, values, ...given(mask));
  }
  /** Attention within windows of `window` keys on either side, or of this and the block before if causal. */
  localAttention(keys: Var, values: Var, { window, scale = NONE, causal = false, mask }: LocalAttentionOptions): Var {
    return this.one<"f32">("local_attention", [scale, Number(causal), window], keys, values, ...given(mask));
  }

  // Rows and places.

  /** Rows of this table `[rows, ..]` at indices u32; rows that do not exist are 0. */
  gather(indices: Var<"u32">): Var<D> { return this.one("gather", [], indices); }
  /** Adds rows `[n, ..]` into zeros of `rows` rows at indices u32 `[n]`, in a fixed order. */
  scatterAdd(indices: Var<"u32">, rows: number): Var<D> { return this.one("scatter_add", [rows], indices); }
  /** Elements at indices along an axis. */
  takeAlong(indices: Var<"u32">, axis = -1): Var<D> { return this.one("take_along", [this.#axis(axis)], indices); }
  /** Sums elements into zeros of length `n` along an axis. */
  scatterAlong(indices: Var<"u32">, n: number, axis = -1): Var<D> {
    return this.one("scatter_along", [this.#axis(axis), n], indices);
  }
  /** The k largest of the last axis in order, ties to the lower index, NaN last. Masked entries (0) come after all others. */
  topK(k: number, mask?: Var<"u32">): { values: Var<D>; indices: Var<"u32"> } {
    const [values, indices] = this.owner.add("top_k", [this as Var<DType>, ...given(mask)], [k]);
    return { values: values as Var<D>, indices: indices as Var<"u32"> };
  }
  /**
   * Product keys: the k largest of all sums of a score of this half `[.., M]` and one of the other `[.., N]`, in order; the index
   * of the pair (i, j) is i N + j.
   */
  productTopK(other: Var<D>, k: number): { values: Var<D>; indices: Var<"u32"> } {
    const [values, indices] = this.owner.add("product_top_k", [this as Var<DType>, other as Var<DType>], [k]);
    return { values: values as Var<D>, indices: indices as Var<"u32"> };
  }
  /**
   * Sums of rows of this table `[rows, width]` at indices u32 `[.., k]`, each times its weight `[.., k]`: `[.., width]`. With
   * `trained` (u32 0/1 a row) only those rows get a gradient.
   */
  weightedGather(indices: Var<"u32">, weights: Var, trained?: Var<"u32">): Var {
    return this.one<"f32">("weighted_gather", [], indices, weights, ...given(trained));
  }
  /** The k largest whose selection has a gradient, through gates made of soft top-k scores that add up to k `ratio`. */
  differentiableTopK(
    k: number,
    { eps = 0.1, iterations = 20, epsInit = NONE, epsDecay = 0.7, ratio = 9 / 8, mask }: DifferentiableTopKOptions = {},
  ): { values: Var; indices: Var<"u32">; gates: Var } {
    const numbers = [k, eps, iterations, epsInit, epsDecay, ratio];
    const found = this.owner.add("differentiable_top_k", [this as Var<DType>, ...given(mask)], numbers);
    return { values: found[0] as Var, indices: found[1] as Var<"u32">, gates: found[2] as Var };
  }
  /** Keys u32 `[n]` in order, equal ones as they came, and where they stood; keys below `limit` sort faster. */
  sortPairs(limit = NONE): { keys: Var<"u32">; positions: Var<"u32"> } {
    const [keys, positions] = this.owner.add("sort_pairs", [this as Var<DType>], [limit]);
    return { keys: keys as Var<"u32">, positions: positions as Var<"u32"> };
  }
  /** This cache `[.., capacity, width]` with rows `[.., n, width]` written from row `position` on. Assigned to a state, in place. */
  writeRows(rows: Var<D>, position: Var<"u32">): Var<D> {
    return this.one("write_rows", [], rows as Var<DType>, position);
  }
  /** `n` rows of this cache `[.., capacity, width]` from row `position` on. */
  takeRows(position: Var<"u32">, n: number): Var<D> { return this.one("take_rows", [n], position); }
  /** Draws one index a row of logits. */
  sample({ temperature = 1, topK = NONE, topP = NONE, site = 0 } = {}): Var<"u32"> {
    return this.one("sample", [temperature, topK, topP, site]);
  }

  // Routing.

  /**
   * Soft top-k scores over the last axis, which add up to k: coordinate descent of `iterations`, or without them its exact fixed
   * point. `mask` u32 of the same shape.
   */
  softTopK(
    k: number,
    { eps = 0.1, iterations = NONE, epsInit = NONE, epsDecay = 0.7, mask }: SoftTopKOptions = {},
  ): Var<D> {
    return this.one("soft_top_k", [k, eps, iterations, epsInit, epsDecay], ...given(mask));
  }
  /** Sinkhorn's doubly normalised plan of scores `[.., rows, tokens]`. */
  sinkhorn({ iterations = 8, temperature = 1, implicit = NONE, gumbel = NONE, mask }: SinkhornOptions = {}): Var<D> {
    return this.one("sinkhorn", [iterations, temperature, implicit, gumbel], ...given(mask));
  }
  /** The k highest, each with its share among itself and all lower ones. */
  cumulativeSoftmax(k: number, { temperature = 1, mask }: { temperature?: number; mask?: Var<"u32"> } = {}): {
    scores: Var;
    indices: Var<"u32">;
  } {
    const [scores, indices] = this.owner.add("cumulative_softmax", [this as Var<DType>, ...given(mask)], [k, temperature]);
    return { scores: scores as Var, indices: indices as Var<"u32"> };
  }

  // Losses.

  /** Cross entropy of logits `[.., n]` and labels u32 `[..]`: one a row, 0 where the label is ignored. */
  crossEntropy(labels: Var<"u32">, ignoreIndex = NONE): Var<D> { return this.one("cross_entropy", [ignoreIndex], labels); }
  /** Mean over the labels that count. */
  crossEntropyMean(labels: Var<"u32">, ignoreIndex = NONE): Var<D> {
    return this.one("cross_entropy_mean", [ignoreIndex], labels);
  }
}

export interface AttentionOptions {
  /** One over the square root of the features by default. */
  scale?: number;
  causal?: boolean;
  window?: number;
  mask?: Var<"u32">;
}

export interface LocalAttentionOptions extends Omit<AttentionOptions, "window"> {
  window: number;
}

export interface SoftTopKOptions {
  /** Width of the transition from 0 to 1, in units of the scores. */
  eps?: number;
  /** Iterations of coordinate descent; left out, the exact fixed point. */
  iterations?: number;
  /** First epsilon; it falls by `epsDecay` an iteration. */
  epsInit?: number;
  epsDecay?: number;
  mask?: Var<"u32">;
}

export interface DifferentiableTopKOptions extends SoftTopKOptions {
  /** The soft scores add up to so many times k; at least 1. */
  ratio?: number;
}

export interface SinkhornOptions {
  iterations?: number;
  temperature?: number;
  /** Steps of the implicit gradient; left out, the gradient of the iterations. */
  implicit?: number;
  /** Site of Gumbel noise; left out, none. */
  gumbel?: number;
  mask?: Var<"u32">;
}

function given(var_: Var<DType> | undefined): Var<DType>[] {
  return var_ ? [var_] : [];
}
