import * as wasm from "../pkg/wgrad.js";
import type { Device } from "./device.js";
import { ArgumentError } from "./errors.js";
import { append, type GradientLog, type Log } from "./log.js";
import { type CompileOptions, Plan } from "./plan.js";
import { type Adds, type DType, type Elements, extents, type Shape, Var } from "./var.js";
import { guarded } from "./wasm.js";

type Tag = 0 | 1;
const tag = (dtype: DType): Tag => (dtype === "u32" ? 1 : 0);

/**
 * A computation under construction. Shapes and element types are checked at once: an operation that does not fit throws a
 * {@link ShapeError}, and the graph is of no use then.
 */
export class Graph {
  /** @internal */
  readonly log: Log = [];
  #graph: wasm.Graph = guarded(() => new wasm.Graph());

  #append(...entry: Log[number]): Uint32Array {
    const made = guarded(() => append(this.#graph, entry));
    this.log.push(entry);
    return made ?? new Uint32Array();
  }

  #vars(packed: Uint32Array): Var<DType>[] {
    const vars = [];
    for (let i = 0; i < packed.length; ) {
      const [id = 0, dtype = 0, rank = 0] = packed.subarray(i, i + 3);
      const shape = [...packed.subarray(i + 3, i + 3 + rank)];
      vars.push(new Var<DType>(this as unknown as Adds, id, dtype === 1 ? "u32" : "f32", shape));
      i += 3 + rank;
    }
    return vars;
  }

  #ids(vars: readonly Var<DType>[]): Uint32Array {
    return Uint32Array.from(this.places(vars));
  }

  /** Numbers of variables, -1 for none. @internal */
  places(vars: readonly (Var<DType> | undefined)[]): Int32Array {
    const stranger = vars.find((v) => v && v.owner !== (this as unknown as Adds));
    if (stranger) throw new ArgumentError("argument", "a variable belongs to another graph");
    return Int32Array.from(vars, (v) => v?.id ?? -1);
  }

  /** @internal */
  add<D extends DType>(op: string, inputs: readonly Var<DType>[], numbers: readonly number[] = [], text = ""): Var<D>[] {
    return this.#vars(this.#append("apply", op, this.#ids(inputs), Float64Array.from(numbers), text)) as Var<D>[];
  }

  /** @internal */
  number<D extends DType>(value: number, dtype: D): Var<D> {
    return this.full([], value, dtype);
  }

  /** @internal */
  custom(inputs: readonly Var<DType>[], spec: string, gradient: GradientLog | undefined): Var<DType>[] {
    return this.#vars(this.#append("custom", this.#ids(inputs), spec, gradient));
  }

  /** A tensor given at each run. */
  input<D extends DType = "f32">(name: string, shape: Shape, dtype: D = "f32" as D): Var<D> {
    return this.#vars(this.#append("named", false, name, tag(dtype) === 1, extents(shape)))[0] as Var<D>;
  }

  /** A tensor that lives in a {@link Store} between runs. */
  state<D extends DType = "f32">(name: string, shape: Shape, dtype: D = "f32" as D): Var<D> {
    return this.#vars(this.#append("named", true, name, tag(dtype) === 1, extents(shape)))[0] as Var<D>;
  }

  /** A tensor known now. */
  constant<D extends DType>(elements: Elements<D>, shape: Shape): Var<D> {
    const copy = elements.slice();
    return this.#vars(this.#append("constant", extents(shape), copy))[0] as Var<D>;
  }

  /** A tensor filled with one value. */
  full<D extends DType = "f32">(shape: Shape, value: number, dtype: D = "f32" as D): Var<D> {
    return this.add<D>(tag(dtype) === 1 ? "full_u32" : "full", [], [value, ...shape])[0] as Var<D>;
  }

  /** The place along an axis, as u32. */
  iota(shape: Shape, axis: number): Var<"u32"> {
    return this.add<"u32">("iota", [], [axis, ...shape])[0] as Var<"u32">;
  }

  /** Random numbers: the same for the same seed and step of a run and the same site. */
  random(kind: "uniform" | "normal" | "gumbel", shape: Shape, site: number): Var {
    return this.add<"f32">(kind, [], [site, ...shape])[0] as Var;
  }

  /** Sums of products in Einstein's notation, such as `einsum("bhid,bhjd->bhij", q, k)`. */
  einsum(spec: string, ...operands: Var[]): Var {
    return this.add<"f32">("einsum", operands, [], spec)[0] as Var;
  }

  /** Gradients of a scalar; zeros where it does not depend on a variable. */
  grad<const T extends readonly Var[]>(loss: Var, wrt: T): { -readonly [K in keyof T]: Var } {
    return this.#vars(this.#append("grad", this.#ids([loss])[0], this.#ids(wrt))) as { -readonly [K in keyof T]: Var };
  }

  /** Writes `value` into `state` at the end of a run; everything within the run reads the old value. */
  assign<D extends DType>(state: Var<D>, value: Var<D>): void {
    const [s, v] = this.#ids([state as Var<DType>, value as Var<DType>]);
    this.#append("assign", s, v);
  }

  /** Lets every assignment happen only if `ok` (a u32 scalar) is not 0 at the end of the run. */
  gate(ok: Var<"u32">): void {
    this.#append("gate", this.#ids([ok])[0]);
  }

  /** Compiles what `outputs` and the assignments need. */
  compile<O extends Record<string, Var<DType>>>(device: Device, outputs: O, options?: CompileOptions): Promise<Plan<O>> {
    return Plan.compile(device, this.log, outputs, this.#ids(Object.values(outputs)), options);
  }

  /** The nodes, a line each. */
  toString(): string {
    return guarded(() => this.#graph.toString());
  }

  free(): void {
    this.#graph.free();
  }

  [Symbol.dispose](): void {
    this.free();
  }
}
