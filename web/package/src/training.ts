// How models are trained, read and continued, and what they tell.
import type { Progress } from "./files.js";
import type { Warmup } from "./host.js";

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

export interface LoadOptions {
  /** Told while the file is read. */
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal;
  /** Options that win over those of the file. */
  options?: Record<string, unknown>;
}

/** Options as JSON, some left out. @internal */
export function without<T extends object>(options: T, ...names: (keyof T)[]): string {
  return JSON.stringify(options, (key, value: unknown) => (names.includes(key as keyof T) ? undefined : value));
}
