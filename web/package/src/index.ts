/// <reference lib="esnext.disposable" />
export { CustomOp, type CustomOptions, type VjpInputs } from "./custom.js";
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
export { type CheckedInput, gradcheck, type GradcheckOptions } from "./gradcheck.js";
export { Graph } from "./graph.js";
export { LanguageModel } from "./model.js";
export {
  BlockRecurrentTransformer,
  type CarriedReport,
  InfiniTransformer,
  MemoryTransformer,
  ProductKeyTransformer,
  readTensors,
  RoutedDecoder,
} from "./models.js";
export type {
  AttentionLayer,
  FeedForwardLayer,
  InfiniOptions,
  MemoryOptions,
  ModelOptions,
  ProductKeyOptions,
  RecurrentOptions,
  RoutedOptions,
} from "./options.js";
export { type CompileOptions, Plan, type RunOptions, Store } from "./plan.js";
export { TextStream } from "./stream.js";
export { type Batch, type Data, decode, encode, IGNORE, type Labelled } from "./tokens.js";
export type {
  Evaluation,
  GenerateOptions,
  LoadOptions,
  ModelInfo,
  ReadOptions,
  TrainOptions,
  TrainReport,
} from "./training.js";
export { chooseSlots, SlotUsage } from "./usage.js";
export {
  type AttentionOptions,
  type DifferentiableTopKOptions,
  type DType,
  type Elements,
  type LocalAttentionOptions,
  type Operand,
  type Shape,
  type SinkhornOptions,
  type SoftTopKOptions,
  Var,
} from "./var.js";
export type { WasmSource } from "./wasm.js";
