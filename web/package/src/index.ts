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
  BlockRecurrentTransformer,
  type GenerateOptions,
  type InfiniOptions,
  InfiniTransformer,
  LanguageModel,
  type LoadOptions,
  type ModelInfo,
  type ModelOptions,
  type ProductKeyOptions,
  ProductKeyTransformer,
  type RecurrentOptions,
  RoutedDecoder,
  type RoutedOptions,
  TextStream,
  type TrainOptions,
  type TrainReport,
} from "./models.js";
export { type Data, decode, encode } from "./tokens.js";
export type { WasmSource } from "./wasm.js";
