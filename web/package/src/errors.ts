/** What every error thrown by this package is. */
export class WgradError extends Error {
  override name = "WgradError";
  /**
   * The kind in one word: "shape", "dtype", "argument", "limit", "no-adapter", "device", "device-lost", "shader-compile",
   * "out-of-memory", "not-finite", "checkpoint", "name", "panic", "worker".
   */
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** Shapes or element types do not fit an operation. */
export class ShapeError extends WgradError {
  override name = "ShapeError";
}

/** An argument is outside its range, or no input, state or output has the name. */
export class ArgumentError extends WgradError {
  override name = "ArgumentError";
}

/** There is no fitting adapter, a limit is too small, memory ran out, or the device is lost. */
export class DeviceError extends WgradError {
  override name = "DeviceError";
}

/** A checkpoint cannot be read or does not fit the model. */
export class CheckpointError extends WgradError {
  override name = "CheckpointError";
}

/** A loss or gradient was infinite or NaN. The step was skipped; parameters are as before. */
export class NotFiniteError extends WgradError {
  override name = "NotFiniteError";
}

/** A defect of this package. Nothing of it can be used any more on this thread; load the page again. */
export class PanicError extends WgradError {
  override name = "PanicError";
}

const CLASSES: Record<string, typeof WgradError> = {
  shape: ShapeError,
  dtype: ShapeError,
  argument: ArgumentError,
  name: ArgumentError,
  limit: DeviceError,
  "no-adapter": DeviceError,
  device: DeviceError,
  "device-lost": DeviceError,
  "shader-compile": DeviceError,
  "out-of-memory": DeviceError,
  worker: DeviceError,
  checkpoint: CheckpointError,
  "not-finite": NotFiniteError,
  panic: PanicError,
};

/** An error as it travels between threads. */
export interface Failure {
  code: string | undefined;
  message: string;
}

export function failure(error: unknown): Failure {
  const { code, message } = (error ?? {}) as Partial<Failure>;
  return { code: typeof code === "string" ? code : undefined, message: message ?? String(error) };
}

/** The error of the fitting class. Errors that are not the wasm module's stay as they are. */
export function typed(error: unknown): unknown {
  if (error instanceof WgradError) return error;
  const { code, message } = failure(error);
  const Class = code === undefined ? undefined : CLASSES[code];
  return Class && code !== undefined ? new Class(code, message) : error;
}
