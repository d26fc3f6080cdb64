import { type Failure, typed, WgradError } from "./errors.js";
import { type Args, call, type Name, type Result, type Warmup } from "./host.js";

/** The thread that a device lives on. */
export interface Link {
  /** Whether it is another thread than this one. */
  readonly remote: boolean;
  call<N extends Name>(name: N, args: Args<N>, tell?: (warmup: Warmup) => void): Promise<Result<N>>;
  close(): void;
}

/** This thread. */
export const here: Link = {
  remote: false,
  call: (name, args, tell) => call(name, args as unknown[], tell),
  close: () => {},
};

export type Request =
  | { kind: "load"; module: WebAssembly.Module }
  | { kind: "call"; id: number; name: Name; args: unknown[]; watched: boolean };

export type Reply =
  | { kind: "result"; id: number; result: unknown }
  | { kind: "failure"; id: number; failure: Failure }
  | { kind: "warmup"; id: number; warmup: Warmup };

interface Pending {
  resolve(result: unknown): void;
  reject(error: unknown): void;
  tell: ((warmup: Warmup) => void) | undefined;
}

/** A worker with the wasm module of this thread. */
export class WorkerLink implements Link {
  readonly remote = true;
  #pending = new Map<number, Pending>();
  #next = 1;
  #broken: WgradError | undefined;

  constructor(
    readonly worker: Worker,
    module: WebAssembly.Module,
  ) {
    worker.addEventListener("message", ({ data }: MessageEvent<Reply>) => this.#receive(data));
    worker.addEventListener("error", (event) => this.#break(`the worker failed: ${event.message ?? "not loaded"}`));
    this.#post({ kind: "load", module });
  }

  call<N extends Name>(name: N, args: Args<N>, tell?: (warmup: Warmup) => void): Promise<Result<N>> {
    return new Promise((resolve, reject) => {
      if (this.#broken) return reject(this.#broken);
      const id = this.#next++;
      this.#pending.set(id, { resolve: resolve as (result: unknown) => void, reject, tell });
      this.#post({ kind: "call", id, name, args: args as unknown[], watched: tell !== undefined });
    });
  }

  close(): void {
    this.worker.terminate();
    this.#break("the device was freed");
  }

  #post(request: Request): void {
    this.worker.postMessage(request);
  }

  #receive(reply: Reply): void {
    const pending = this.#pending.get(reply.id);
    if (!pending) return;
    if (reply.kind === "warmup") return pending.tell?.(reply.warmup);
    this.#pending.delete(reply.id);
    if (reply.kind === "result") return pending.resolve(reply.result);
    const { code, message } = reply.failure;
    pending.reject(code === undefined ? new Error(message) : typed(reply.failure));
  }

  #break(message: string): void {
    this.#broken ??= new WgradError("worker", message);
    for (const pending of this.#pending.values()) pending.reject(this.#broken);
    this.#pending.clear();
  }
}
