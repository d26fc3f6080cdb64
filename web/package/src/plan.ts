import type { Device } from "./device.js";
import type { Handle, Warmup } from "./host.js";
import type { Log } from "./log.js";
import { type DType, type Elements, extents, type Shape, type Var } from "./var.js";

export interface CompileOptions {
  /** Join elementwise operations into one kernel; true unless said otherwise. */
  fuse?: boolean;
  /** Let values that do not live at the same time share memory; true unless said otherwise. */
  reuse?: boolean;
  /** Told while pipelines are made. */
  onProgress?: (warmup: Warmup) => void;
}

/** Named tensors on a device that live between runs. */
export class Store {
  /** @internal */
  private constructor(
    readonly device: Device,
    /** @internal */ readonly handle: Handle,
  ) {}

  static async create(device: Device): Promise<Store> {
    return new Store(device, await device.link.call("storeNew", [device.opened.device]));
  }

  /** Adds or overwrites a state. */
  async set(name: string, elements: Float32Array | Uint32Array, shape: Shape): Promise<void> {
    await this.device.link.call("storeSet", [this.handle, name, extents(shape), elements]);
  }

  /** The elements of a state. */
  read(name: string): Promise<Float32Array | Uint32Array> {
    return this.device.link.call("storeRead", [this.handle, name]);
  }

  /** The `GPUBuffer` of a state, as {@link Device.webgpu}: with the usages `STORAGE`, `COPY_SRC` and `COPY_DST`. */
  async webgpu(name: string): Promise<object | undefined> {
    return this.device.worker ? undefined : this.device.link.call("storeWebgpu", [this.handle, name]);
  }

  /** Names and shapes of all states, and the bytes of them together. */
  list(): Promise<{ names: string[]; shapes: number[][]; bytes: number }> {
    return this.device.link.call("storeList", [this.handle]);
  }

  free(): void {
    this.device.link.call("free", [this.handle]).catch(() => {});
  }

  [Symbol.dispose](): void {
    this.free();
  }
}

type Read<O extends Record<string, Var<DType>>> = { [K in keyof O]: O[K] extends Var<infer D> ? Elements<D> : never };

export interface RunOptions<K> {
  /** Which outputs to read, all by default. Reading waits for the device; an empty list does not. */
  read?: readonly K[];
  /** Where states live. */
  store?: Store;
  /** Step number and seed of random numbers. */
  step?: number;
  seed?: number;
}

/** A compiled computation, to be run any number of times. */
export class Plan<O extends Record<string, Var<DType>> = Record<string, Var<DType>>> {
  /** @internal */
  private constructor(
    readonly device: Device,
    /** @internal */ readonly handle: Handle,
    readonly outputs: readonly (keyof O & string)[],
    /** Bytes the plan holds on its device. */
    readonly bytes: number,
    readonly text: string,
  ) {}

  /** @internal */
  static async compile<O extends Record<string, Var<DType>>>(
    device: Device,
    log: Log,
    outputs: O,
    ids: Uint32Array,
    { fuse = true, reuse = true, onProgress }: CompileOptions = {},
  ): Promise<Plan<O>> {
    const names = Object.keys(outputs);
    const { opened, link } = device;
    const made = await link.call("compile", [opened.device, log, names, ids, fuse, reuse], onProgress);
    return new Plan<O>(device, made.plan, names, made.bytes, made.text);
  }

  /** Runs once. Inputs are typed arrays by name; what is resolved to are the outputs that were asked for. */
  async run<K extends keyof O & string = keyof O & string>(
    inputs: Record<string, Float32Array | Uint32Array> = {},
    { read, store, step = 0, seed = 0 }: RunOptions<K> = {},
  ): Promise<Pick<Read<O>, K>> {
    const { link, opened } = this.device;
    const place = store?.handle ?? opened.store;
    const names = [...(read ?? this.outputs)];
    return (await link.call("run", [this.handle, place, inputs, step, seed, names])) as Pick<Read<O>, K>;
  }

  /**
   * The `GPUBuffer` that a run leaves an output in, and where, as {@link Device.webgpu}: valid after a run and before the
   * next, with the usages `STORAGE` and `COPY_SRC`.
   */
  async webgpu(name: keyof O & string): Promise<{ buffer: object; offset: number; size: number } | undefined> {
    return this.device.worker ? undefined : this.device.link.call("planWebgpu", [this.handle, name]);
  }

  /** Steps, buffers and memory. */
  toString(): string {
    return this.text;
  }

  free(): void {
    this.device.link.call("free", [this.handle]).catch(() => {});
  }

  [Symbol.dispose](): void {
    this.free();
  }
}
