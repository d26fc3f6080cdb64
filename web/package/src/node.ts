// Node: the wasm is read from the disk, and WebGPU comes from the package `webgpu` (Dawn), where that is installed.
import { readFile } from "node:fs/promises";
import { type Device, init as initAnywhere, type InitOptions } from "./device.js";
import { platform } from "./wasm.js";

export * from "./index.js";

/** See the browser's `init`. Without the package `webgpu`, or with `executor: "cpu"`, the CPU executor runs on this thread. */
export function init(options: InitOptions = {}): Promise<Device> {
  platform.bytes = (url) => readFile(url);
  platform.gpu = gpu;
  return initAnywhere({ worker: false, ...options });
}

interface Dawn {
  create(options: string[]): object;
  globals: object;
}

/** Sets what the wasm looks for: `navigator.gpu`, and the mark of a worker. */
async function gpu(): Promise<void> {
  const all = globalThis as { navigator?: { gpu?: object }; WorkerGlobalScope?: unknown };
  all.WorkerGlobalScope ??= class WorkerGlobalScope {};
  if (all.navigator?.gpu) return;
  // Not a fixed name: bundlers must not look for it.
  const name = "webgpu";
  const dawn = (await import(/* @vite-ignore */ name).catch(() => undefined)) as Dawn | undefined;
  const value = dawn?.create([]);
  if (dawn) Object.assign(globalThis, dawn.globals);
  if (all.navigator) Object.defineProperty(all.navigator, "gpu", { value, configurable: true });
  else Object.defineProperty(globalThis, "navigator", { value: { gpu: value }, configurable: true });
}
