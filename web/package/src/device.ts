import { DeviceError } from "./errors.js";
import type { Opened, Warmup } from "./host.js";
import { here, type Link, WorkerLink } from "./link.js";
import { load, platform, type WasmSource } from "./wasm.js";

/** Progress of compiling: pipelines made, of those wanted. */
export type { Warmup };

/** Where and how work is done. */
export interface InitOptions {
  /**
   * "auto" (the default) takes a hardware GPU where there is one, else the CPU executor; "gpu" throws where there is none;
   * "cpu" takes the CPU executor.
   */
  executor?: "auto" | "gpu" | "cpu";
  /** Also take a software adapter, such as SwiftShader. */
  software?: boolean;
  /** Which of several GPUs the browser should prefer; "high-performance" unless said otherwise. */
  powerPreference?: "high-performance" | "low-power";
  /** Ask only for the limits that every WebGPU device has. */
  portableLimits?: boolean;
  /**
   * Work in a worker: `true`, `false`, or a worker of your own that runs this package's `worker.js`. By default the CPU
   * executor does where workers exist, and a GPU does not.
   */
  worker?: boolean | Worker;
  /** Where the wasm comes from, if not from beside this module. Only the first call of a page counts. */
  wasm?: WasmSource;
}

/** Where computations run. Made by {@link init}. */
export class Device {
  /** "gpu" for WebGPU, "cpu" for the executor in WebAssembly. */
  readonly kind: "gpu" | "cpu";
  /** The adapter's name as the browser gives it, or "CPU executor". */
  readonly adapter: string;
  /** Why the CPU executor was taken though a GPU would have been welcome. */
  readonly reason: string | undefined;
  /** WebGPU's limits by name; empty on the CPU executor. */
  readonly limits: Readonly<Record<string, number>>;
  /** Whether the work is done in a worker. */
  readonly worker: boolean;
  /** Resolves with the reason when the device is lost, never otherwise. Make a new one with {@link init} then. */
  readonly lost: Promise<string>;
  /** @internal */
  readonly link: Link;
  /** @internal */
  readonly opened: Opened;

  /** @internal */
  constructor(link: Link, opened: Opened) {
    this.link = link;
    this.opened = opened;
    this.kind = opened.isGpu ? "gpu" : "cpu";
    this.adapter = opened.adapter;
    this.reason = opened.reason;
    this.limits = opened.limits;
    this.worker = link.remote;
    // Freeing the device ends the wait: that is no loss.
    this.lost = opened.isGpu ? link.call("lost", [opened.device]).catch(() => new Promise<never>(() => {})) : new Promise(() => {});
  }

  /**
   * The `GPUDevice` and its `GPUQueue`, to draw what plans compute without reading it back; {@link Store.webgpu} and
   * {@link Plan.webgpu} hand out the buffers. Undefined on the CPU executor, and where the work is done in a worker:
   * WebGPU's objects stay on their thread. A device that the page made cannot be adopted; let wgrad make it.
   */
  async webgpu(): Promise<{ device: object; queue: object } | undefined> {
    return this.worker ? undefined : this.link.call("webgpu", [this.opened.device]);
  }

  /** What was made on the device so far: flat once a plan has run. */
  async counters(): Promise<{ buffers: number; bytes: number; bindGroups: number; pipelines: number; submits: number }> {
    const [buffers = 0, bytes = 0, bindGroups = 0, pipelines = 0, submits = 0] = await this.link.call("counters", [
      this.opened.device,
    ]);
    return { buffers, bytes, bindGroups, pipelines, submits };
  }

  /** Destroys the GPU device and ends the worker. Nothing made on it can be used afterwards. */
  free(): void {
    const { link, opened } = this;
    const destroyed = link.call("destroy", [opened.device]).then(() => link.call("free", [opened.device]));
    destroyed.catch(() => {}).finally(() => link.close());
  }

  [Symbol.dispose](): void {
    this.free();
  }

  /** The executor in words, with its limits. */
  toString(): string {
    return this.opened.text;
  }
}

/** The worker of this package. The form is one that bundlers know. */
const ownWorker = () => new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "wgrad" });

/** Loads the wasm and picks a device. Says in the console when that is not a GPU. */
export async function init(options: InitOptions = {}): Promise<Device> {
  const { executor = "auto", software = false, powerPreference, portableLimits = false, worker } = options;
  const module = await load(options.wasm);
  if (executor !== "cpu") await platform.gpu?.();
  const lowPower = powerPreference === "low-power";
  const open = async (link: Link, which: string) =>
    new Device(link, await link.call("open", [which, software, lowPower, portableLimits]));
  const there = () => new WorkerLink(worker instanceof Object ? worker : ownWorker(), module);
  const remote = worker ?? typeof Worker === "function";
  let device: Device;
  if (executor === "cpu") device = await open(remote ? there() : here, "cpu");
  else if (worker) device = await open(there(), executor);
  else {
    device = await open(here, executor);
    if (device.kind === "cpu" && remote) {
      // The reason is known here; the work is done elsewhere.
      const { reason } = device;
      const moved = await open(there(), "cpu");
      device.free();
      device = new Device(moved.link, { ...moved.opened, reason });
    }
  }
  if (executor === "gpu" && device.kind !== "gpu") throw new DeviceError("no-adapter", "no GPU adapter was found");
  if (device.kind === "cpu") {
    console.info(`wgrad: ${device.toString()}${device.reason ? `; ${device.reason}` : ""}`);
  }
  return device;
}
