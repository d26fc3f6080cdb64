import type { Device } from "./device.js";
import { ArgumentError } from "./errors.js";
import { Graph } from "./graph.js";
import type { Plan } from "./plan.js";
import { numbers } from "./tokens.js";
import type { DType, Elements, Shape, Var } from "./var.js";

/** A tensor that a gradient is checked at. */
export interface CheckedInput {
  shape: Shape;
  data: Elements;
}

/** How {@link gradcheck} compares. */
export interface GradcheckOptions {
  /** How far an entry is moved to either side; 1e-2 unless said otherwise. */
  step?: number;
  /** Largest difference allowed, relative to the largest entry of the gradient; 2e-2 unless said otherwise. */
  tolerance?: number;
  /** Entries of each input that are moved alone, 6 unless said otherwise; once more all are moved together. */
  entries?: number;
}

/** The sum of products. */
const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => Array.from(a).reduce((sum, x, i) => sum + x * (b[i] ?? 0), 0);

/**
 * Compares the gradients of what `build` makes of variables with central differences, on the device: each output is weighted with fixed
 * random numbers, and the weighted sum is moved along single entries and a random direction of each float input. Resolves to the largest
 * difference relative to the largest entry of a gradient; more than the tolerance throws an {@link ArgumentError} that says of which
 * input. As sharp as single precision allows: it finds terms that are missing or wrong. Functions with jumps or kinks near the inputs
 * differ without being wrong.
 */
export async function gradcheck(
  device: Device,
  inputs: readonly CheckedInput[],
  build: (...vars: Var[]) => readonly Var<DType>[],
  { step = 1e-2, tolerance = 2e-2, entries = 6 }: GradcheckOptions = {},
): Promise<number> {
  const graph = new Graph();
  let checked: Checked | undefined;
  try {
    checked = new Checked(graph, inputs, build);
    await checked.compile(device);
    return await checked.worst(step, tolerance, entries);
  } finally {
    checked?.plan?.free();
    graph.free();
  }
}

/** A plan for the outputs, and the gradients of their sum with fixed random weights. */
class Checked {
  plan: Plan | undefined;
  #draw = numbers(7, 0);
  #weights: Record<string, Float32Array> = {};
  #outputs: Record<string, Var> = {};
  /** Inputs that have a gradient. */
  #floats: number[];

  constructor(
    readonly graph: Graph,
    readonly inputs: readonly CheckedInput[],
    build: (...vars: Var[]) => readonly Var<DType>[],
  ) {
    const dtype = ({ data }: CheckedInput) => (data instanceof Uint32Array ? "u32" : "f32");
    const vars = inputs.map((input, i) => graph.input(`in${i}`, input.shape, dtype(input)) as Var);
    let loss = graph.full([], 0);
    for (const [i, out] of build(...vars).entries()) {
      if (out.dtype === "u32") continue;
      const [name, length] = [`out${i}`, out.shape.reduce((n, size) => n * size, 1)];
      this.#outputs[name] = out as Var;
      const weights = Float32Array.from({ length }, () => 2 * (this.#random() + this.#random()));
      this.#weights[name] = weights;
      loss = loss.add((out as Var).mul(graph.constant(weights, out.shape)).sum());
    }
    this.#floats = vars.flatMap(({ dtype }, i) => (dtype === "f32" ? [i] : []));
    const gradients = graph.grad(loss, this.#floats.map((i) => vars[i] as Var));
    for (const [at, i] of this.#floats.entries()) this.#outputs[`grad${i}`] = gradients[at] as Var;
  }

  async compile(device: Device): Promise<void> {
    this.plan = await this.graph.compile(device, this.#outputs);
  }

  /** From -0.5 to 0.5. */
  #random(): number {
    return this.#draw.next().value / 2 ** 32 - 0.5;
  }

  /** Runs with one input moved. */
  #run(input: number, moved: Elements, read: string[]): Promise<Record<string, Elements>> {
    const feed = Object.fromEntries(this.inputs.map(({ data }, i) => [`in${i}`, i === input ? moved : data]));
    return this.plan?.run(feed, { read, step: 3, seed: 11 }) ?? Promise.resolve({});
  }

  /** The weighted sum of the outputs. */
  async #value(input: number, moved: Elements): Promise<number> {
    const found = await this.#run(input, moved, Object.keys(this.#weights));
    return Object.entries(this.#weights).reduce((sum, [name, weights]) => sum + dot(found[name] ?? [], weights), 0);
  }

  /** The largest difference of all inputs. */
  async worst(step: number, tolerance: number, entries: number): Promise<number> {
    let worst = 0;
    for (const i of this.#floats) {
      const data = this.inputs[i]?.data as Float32Array;
      if (data.length === 0) continue;
      const name = `grad${i}`;
      const gradient = (await this.#run(i, data, [name]))[name] as Float32Array;
      const scale = gradient.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-3);
      for (const direction of this.#directions(data, entries)) {
        const [up, down] = [1, -1].map((sign) => data.map((x, j) => x + sign * step * (direction[j] ?? 0))) as [Elements, Elements];
        // As far as single precision sees it.
        const way = Array.from(up, (x, j) => x - (down[j] ?? 0));
        const length = Math.max(way.reduce((sum, d) => sum + Math.abs(d), 0), 2 * step);
        const tape = dot(gradient, way) / length;
        const differences = ((await this.#value(i, up)) - (await this.#value(i, down))) / length;
        const error = Math.abs(tape - differences) / scale;
        if (!(error <= tolerance)) {
          const message = `gradcheck: gradient of input ${i}: ${tape} by the tape, ${differences} by differences`;
          throw new ArgumentError("argument", message);
        }
        worst = Math.max(worst, error);
      }
    }
    return worst;
  }

  /** Single entries, and of small inputs all together. */
  #directions(data: Float32Array, entries: number): Float32Array[] {
    const all = Array.from({ length: entries }, () => {
      const entry = this.#draw.next().value % data.length;
      return data.map((_, j) => Number(j === entry));
    });
    if (data.length <= 2000) all.push(data.map(() => this.#random()));
    return all;
  }
}
