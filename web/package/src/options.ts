// What models are made of.

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
