import * as wasm from "../pkg/wgrad.js";
import { type Log, replay } from "./log.js";
import type { Batch } from "./tokens.js";
import { settled } from "./wasm.js";

/** An object that lives where the device lives. */
export type Handle = number;

/** How far pipelines are. */
export interface Warmup {
  made: number;
  wanted: number;
}

export interface Opened {
  device: Handle;
  store: Handle;
  isGpu: boolean;
  adapter: string;
  reason: string | undefined;
  text: string;
  limits: Record<string, number>;
}

type Elements = Float32Array | Uint32Array;

/** Elements with their shape. */
export interface Shaped<E extends Elements = Elements> {
  shape: Uint32Array;
  data: E;
}

/** How often progress is looked at, in milliseconds. */
const LOOK = 50;

const objects = new Map<Handle, { free(): void }>();
let next = 1;

function keep(object: { free(): void }): Handle {
  objects.set(next, object);
  return next++;
}

function get<T>(handle: Handle, kind: { readonly prototype: T }): T {
  const object = objects.get(handle);
  if (object instanceof (kind as unknown as new () => object)) return object as T;
  throw Object.assign(new Error("this object was freed"), { code: "argument" });
}

/** Tells how many of the pipelines that a call wants are there already. */
async function watched<T>(device: wasm.Device, work: Promise<T>, tell?: (warmup: Warmup) => void): Promise<T> {
  if (!tell || !device.isGpu) return work;
  const count = () => {
    const counters = device.counters();
    return { made: counters[3] ?? 0, wanted: counters[5] ?? 0 };
  };
  const before = count();
  const look = () => {
    const now = count();
    tell({ made: now.made - before.made, wanted: now.wanted - before.made });
  };
  const timer = setInterval(look, LOOK);
  try {
    return await work;
  } finally {
    clearInterval(timer);
    look();
  }
}

/** Lets the thread do something else. */
const turn = () => new Promise((resolve) => setTimeout(resolve));

function limitsOf(raw: { limits?: object } | undefined): Record<string, number> {
  const limits: Record<string, number> = {};
  // The entries are getters of a prototype.
  for (const name in raw?.limits) {
    const value = (raw.limits as Record<string, unknown>)[name];
    if (typeof value === "number") limits[name] = value;
  }
  return limits;
}

/** Everything that can be asked of the thread that the device lives on. Arguments and results can be posted. */
const methods = {
  async open(executor: string, software: boolean, lowPower: boolean, portableLimits: boolean): Promise<Opened> {
    const device = await wasm.Device.request(executor, software, lowPower, portableLimits);
    const { isGpu, adapter, reason } = device;
    const text = device.toString();
    return {
      device: keep(device),
      store: keep(new wasm.Store(device)),
      isGpu,
      adapter,
      reason,
      text,
      limits: limitsOf(device.raw as { limits?: object } | undefined),
    };
  },

  /** Resolves when the device is lost. */
  async lost(device: Handle): Promise<string> {
    const raw = get(device, wasm.Device).raw as { lost: Promise<{ reason: string; message: string }> } | undefined;
    const info = await (raw?.lost ?? new Promise<never>(() => {}));
    return `${info.reason}: ${info.message}`;
  },

  destroy(device: Handle): void {
    (get(device, wasm.Device).raw as { destroy(): void } | undefined)?.destroy();
  },

  /** WebGPU's own objects: these cannot be posted. */
  webgpu(device: Handle): { device: object; queue: object } | undefined {
    const { raw, rawQueue } = get(device, wasm.Device);
    return raw ? { device: raw as object, queue: rawQueue as object } : undefined;
  },

  storeWebgpu(store: Handle, name: string): object | undefined {
    return get(store, wasm.Store).rawBuffer(name) as object | undefined;
  },

  planWebgpu(plan: Handle, name: string): { buffer: object; offset: number; size: number } | undefined {
    const found = get(plan, wasm.Plan).rawBuffer(name) as [object, number, number] | undefined;
    return found && { buffer: found[0], offset: found[1], size: found[2] };
  },

  counters(device: Handle): Float64Array {
    return get(device, wasm.Device).counters();
  },

  free(handle: Handle): void {
    objects.get(handle)?.free();
    objects.delete(handle);
  },

  async compile(
    device: Handle,
    log: Log,
    names: string[],
    vars: Uint32Array,
    fuse: boolean,
    reuse: boolean,
    tell?: (warmup: Warmup) => void,
  ): Promise<{ plan: Handle; bytes: number; text: string }> {
    const graph = replay(log);
    try {
      const place = get(device, wasm.Device);
      const plan = await watched(place, wasm.Plan.compile(place, graph, names, vars, fuse, reuse), tell);
      const [bytes, text] = [plan.bytes, plan.toString()];
      return { plan: keep(plan), bytes, text };
    } finally {
      graph.free();
    }
  },

  async run(
    plan: Handle,
    store: Handle,
    inputs: Record<string, Elements>,
    step: number,
    seed: number,
    read: string[],
  ): Promise<Record<string, Elements>> {
    const [p, s] = [get(plan, wasm.Plan), get(store, wasm.Store)];
    for (const [name, array] of Object.entries(inputs)) p.input(name, array);
    p.run(s, step, seed);
    const arrays = await Promise.all(read.map((name) => p.read(name) as Promise<Elements>));
    return Object.fromEntries(read.map((name, i) => [name, arrays[i] as Elements]));
  },

  storeNew(device: Handle): Handle {
    return keep(new wasm.Store(get(device, wasm.Device)));
  },

  storeSet(store: Handle, name: string, shape: Uint32Array, array: Elements): void {
    get(store, wasm.Store).set(name, shape, array);
  },

  storeRead(store: Handle, name: string): Promise<Elements> {
    return get(store, wasm.Store).read(name) as Promise<Elements>;
  },

  storeList(store: Handle): { names: string[]; shapes: number[][]; bytes: number } {
    const s = get(store, wasm.Store);
    const names = s.names();
    return { names, shapes: names.map((name) => [...(s.shape(name) ?? [])]), bytes: s.bytes };
  },

  async modelCreate(device: Handle, kind: string, options: string, seed: number): Promise<Handle> {
    return keep(await wasm.Model.create(get(device, wasm.Device), kind, options, seed));
  },

  async modelLoad(device: Handle, bytes: Uint8Array, kind: string, options: string): Promise<Handle> {
    return keep(await wasm.Model.load(get(device, wasm.Device), bytes, kind, options));
  },

  modelDescribe(model: Handle): string {
    return get(model, wasm.Model).describe();
  },

  async modelPrepare(
    device: Handle,
    model: Handle,
    settings: string,
    tell?: (warmup: Warmup) => void,
  ): Promise<void> {
    await watched(get(device, wasm.Device), get(model, wasm.Model).prepare(settings), tell);
  },

  /** Several steps, then the report of the last: loss, norm of the gradients, whether it was done, steps, skipped ones. */
  async modelSteps(model: Handle, batches: Batch[]): Promise<Float64Array> {
    const m = get(model, wasm.Model);
    for (const [i, batch] of batches.entries()) {
      if (i > 0) await turn();
      if (batch instanceof Uint32Array) m.step(batch);
      else m.step(batch.ids, batch.labels);
    }
    return (await m.report()) as Float64Array;
  },

  modelMark(model: Handle, slots: Uint32Array): void {
    get(model, wasm.Model).mark(slots);
  },

  async modelProbe(
    device: Handle,
    model: Handle,
    what: string,
    batch: number,
    length: number,
    tell?: (warmup: Warmup) => void,
  ): Promise<Handle> {
    return keep(await watched(get(device, wasm.Device), get(model, wasm.Model).probe(what, batch, length), tell));
  },

  probeRun(probe: Handle, ids: Uint32Array, begin: boolean): Promise<Record<string, Shaped>> {
    return get(probe, wasm.Probe).run(ids, begin) as Promise<Record<string, Shaped>>;
  },

  readTensors(bytes: Uint8Array): Record<string, Shaped> {
    return wasm.readTensors(bytes) as Record<string, Shaped>;
  },

  modelSave(model: Handle): Promise<Uint8Array> {
    return get(model, wasm.Model).save() as Promise<Uint8Array>;
  },

  async modelStream(
    device: Handle,
    model: Handle,
    capacity: number,
    tell?: (warmup: Warmup) => void,
  ): Promise<Handle> {
    return keep(await watched(get(device, wasm.Device), get(model, wasm.Model).stream(capacity), tell));
  },

  /** Resolves to the tokens read so far and the bytes of the state. */
  streamFeed(stream: Handle, tokens: Uint32Array): Promise<Float64Array> {
    return get(stream, wasm.Stream).feed(tokens) as Promise<Float64Array>;
  },

  streamGenerate(stream: Handle, count: number, how: string, seed: number): Promise<Uint32Array> {
    return get(stream, wasm.Stream).generate(count, how, seed) as Promise<Uint32Array>;
  },

  streamNames(stream: Handle): Promise<string[]> {
    return get(stream, wasm.Stream).names() as Promise<string[]>;
  },

  streamRead(stream: Handle, name: string): Promise<Shaped> {
    return get(stream, wasm.Stream).read(name) as Promise<Shaped>;
  },

  streamLogits(stream: Handle): Promise<Float32Array> {
    return get(stream, wasm.Stream).logits() as Promise<Float32Array>;
  },
};

export type Methods = typeof methods;
export type Name = keyof Methods;
type Tell<Args> = Args extends [...infer Rest, tell?: (warmup: Warmup) => void] ? Rest : Args;
/** Arguments of a method without its report of progress. */
export type Args<N extends Name> = Tell<Parameters<Methods[N]>>;
export type Result<N extends Name> = Awaited<ReturnType<Methods[N]>>;

/** Calls a method on this thread. */
export function call<N extends Name>(name: N, args: unknown[], tell?: (warmup: Warmup) => void): Promise<Result<N>> {
  return settled(() => (methods[name] as (...args: unknown[]) => unknown)(...args, ...(tell ? [tell] : []))) as Promise<
    Result<N>
  >;
}
