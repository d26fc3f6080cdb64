import { initSync, onPanic } from "../pkg/wgrad.js";
import { PanicError, typed } from "./errors.js";

/** Where the wasm comes from; by default the file beside this module. */
export type WasmSource = string | URL | Response | Promise<Response> | BufferSource | WebAssembly.Module;

/** What differs between a browser and Node. */
export const platform: {
  bytes?: (url: URL) => Promise<BufferSource>;
  gpu?: () => Promise<void>;
} = {};

let loading: Promise<WebAssembly.Module> | undefined;
let panic: PanicError | undefined;
const waiting = new Set<(error: PanicError) => void>();

async function compile(source: WasmSource | undefined): Promise<WebAssembly.Module> {
  const given = await (source ?? new URL("./wgrad_bg.wasm", import.meta.url));
  if (given instanceof WebAssembly.Module) return given;
  if (given instanceof ArrayBuffer || ArrayBuffer.isView(given)) return WebAssembly.compile(given as BufferSource);
  if (platform.bytes && !(given instanceof Response)) {
    const url = new URL(given);
    if (url.protocol === "file:") return WebAssembly.compile(await platform.bytes(url));
  }
  const response = given instanceof Response ? given : await fetch(given);
  if (!response.ok) throw new Error(`the wasm could not be fetched: ${response.status} ${response.url}`);
  // Some servers do not know the type of wasm; streaming insists on it.
  const known = response.headers.get("content-type")?.startsWith("application/wasm");
  return known ? WebAssembly.compileStreaming(response) : WebAssembly.compile(await response.arrayBuffer());
}

/** Loads the wasm, once; later calls get what the first one loaded. */
export function load(source?: WasmSource): Promise<WebAssembly.Module> {
  loading ??= compile(source).then((module) => {
    start(module);
    return module;
  });
  // A failed attempt may be repeated.
  loading.catch(() => (loading = undefined));
  return loading;
}

function start(module: WebAssembly.Module): void {
  initSync({ module });
  onPanic(die);
}

/** Ends everything that waits, and all that comes later. */
function die(message: string): PanicError {
  panic = new PanicError("panic", message);
  console.error(`wgrad: ${message}`);
  for (const reject of waiting) reject(panic);
  waiting.clear();
  return panic;
}

/** What is thrown on. A trap that was no panic is one too: memory ran out, or the stack. */
function known(error: unknown): unknown {
  if (panic) return panic;
  return error instanceof WebAssembly.RuntimeError ? die(`the wasm stopped: ${error.message}`) : typed(error);
}

/** Runs something that calls into the wasm, with errors of the fitting class. */
export function guarded<T>(work: () => T): T {
  if (panic) throw panic;
  try {
    return work();
  } catch (error) {
    throw known(error);
  }
}

/** The same for promises; a panic rejects those that would never settle. */
export function settled<T>(work: () => T | Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    if (panic) return reject(panic);
    const end = (finish: () => void) => {
      waiting.delete(reject);
      finish();
    };
    waiting.add(reject);
    (async () => work())().then(
      (value) => end(() => resolve(value)),
      (error: unknown) => end(() => reject(known(error))),
    );
  });
}

