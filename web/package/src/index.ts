/// <reference lib="esnext.disposable" />
export { Device, init, type InitOptions, type Warmup } from "./device.js";
export {
  ArgumentError,
  CheckpointError,
  DeviceError,
  NotFiniteError,
  PanicError,
  ShapeError,
  WgradError,
} from "./errors.js";
export type { Progress, Source } from "./files.js";
export {
  type AttentionOptions,
  type CompileOptions,
  type DifferentiableTopKOptions,
  type DType,
  type Elements,
  Graph,
  type LocalAttentionOptions,
  type Operand,
  Plan,
  type RunOptions,
  type Shape,
  type SinkhornOptions,
  type SoftTopKOptions,
  Store,
  Var,
} from "./graph.js";
export {
  type AttentionLayer,
  BlockRecurrentTransformer,
  type CarriedReport,
  chooseSlots,
  type Evaluation,
  type FeedForwardLayer,
  type GenerateOptions,
  type InfiniOptions,
  InfiniTransformer,
  LanguageModel,
  type LoadOptions,
  type MemoryOptions,
  MemoryTransformer,
  type ModelInfo,
  type ModelOptions,
  type ProductKeyOptions,
  ProductKeyTransformer,
  type ReadOptions,
  readTensors,
  type RecurrentOptions,
  RoutedDecoder,
  type RoutedOptions,
  SlotUsage,
  TextStream,
  type TrainOptions,
  type TrainReport,
} from "./models.js";
export { type Batch, type Data, decode, encode, IGNORE, type Labelled } from "./tokens.js";
export type { WasmSource } from "./wasm.js";
