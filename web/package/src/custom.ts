import { ArgumentError, ShapeError } from "./errors.js";
import { Graph } from "./graph.js";
import type { GradientLog } from "./log.js";
import { type DType, extents, type Shape, type Var } from "./var.js";

/** What the gradient of a {@link CustomOp} is built from. */
export interface VjpInputs {
  /** The operation's inputs. */
  inputs: Var[];
  /** Its outputs. */
  outputs: Var[];
  /** What flows back to each output; zeros where the loss does not depend on it. */
  cotangents: Var[];
  /** The graph of all these. */
  graph: Graph;
}

/** What a {@link CustomOp} is made of. */
export interface CustomOptions<O extends readonly DType[]> {
  /** Shown by errors and printed plans. */
  name: string;
  /**
   * The kernel: one entry point `main`; the inputs are storage buffers from binding 0 of group 0 on, for reading; the outputs follow,
   * `read_write`; then the uniform and the step, if there are any. `// #include "shared/grid.wgsl"` brings
   * `workgroup_index(workgroup_id, num_workgroups)`: grids of more than 65,535 workgroups are folded.
   */
  wgsl: string;
  /** Element types of the inputs. */
  inputs: readonly DType[];
  /** Element types of the outputs; one "f32" unless said otherwise. */
  outputs?: O;
  /** Shapes of the outputs; by default each has the shape of the first input. Throw if the inputs do not fit. */
  shapes?(inputs: Shape[]): readonly Shape[];
  /** Number of workgroups. */
  workgroups(inputs: Shape[], outputs: Shape[]): number;
  /** Values of `override` constants. Each combination is a pipeline of its own. */
  constants?(inputs: Shape[], outputs: Shape[]): Record<string, number>;
  /** A uniform struct of scalars, bound after the outputs. */
  uniform?(inputs: Shape[], outputs: Shape[]): Uint32Array | Float32Array;
  /** Bind step and seed of the run last, as a `vec4<u32>`: step, low and high word of the seed, 0. */
  stepAndSeed?: boolean;
  /**
   * The cotangents of the inputs, one for each, undefined for zero, in operations of the graph, other `CustomOp`s included. Without
   * it a gradient through the operation is an error.
   */
  vjp?(given: VjpInputs): readonly (Var | undefined)[];
}

/**
 * An operation with a WGSL kernel of your own, with a shape rule and a gradient, used like any other. It runs on WebGPU; the CPU executor
 * refuses plans with it.
 */
export class CustomOp<const O extends readonly DType[] = readonly ["f32"]> {
  constructor(readonly options: CustomOptions<O>) {}

  /** Adds the operation to the graph of its inputs. */
  apply(...inputs: Var<DType>[]): { -readonly [K in keyof O]: Var<O[K]> } {
    const { name, wgsl, inputs: types, workgroups, constants, uniform, stepAndSeed = false, vjp } = this.options;
    const outputs: readonly DType[] = this.options.outputs ?? ["f32"];
    const [first] = inputs;
    if (!first) throw new ArgumentError("argument", `${name}: needs an input`);
    if (inputs.length !== types.length) {
      throw new ShapeError("shape", `${name}: expected ${types.length} inputs, got ${inputs.length}`);
    }
    const given = inputs.map(({ shape }) => shape);
    const shapes = this.options.shapes?.(given) ?? outputs.map(() => first.shape);
    const made = shapes.map((shape) => [...extents(shape)]);
    const values = constants?.(given, made) ?? {};
    const words = uniform?.(given, made);
    const spec = {
      name,
      wgsl,
      inputs: types.map(word),
      outputs: outputs.map(word),
      shapes: made.flatMap((shape) => [shape.length, ...shape]),
      workgroups: workgroups(given, made),
      constants: Object.keys(values),
      values: Object.values(values),
      uniform: words && [...new Uint32Array(words.buffer, words.byteOffset, words.length)],
      stepAndSeed,
    };
    const gradient = vjp && traced(vjp, inputs, made, outputs);
    return first.owner.custom(inputs, JSON.stringify(spec), gradient) as { -readonly [K in keyof O]: Var<O[K]> };
  }
}

const word = (dtype: DType): number => Number(dtype === "u32");

/** The gradient as a graph of its own. */
function traced(
  vjp: (given: VjpInputs) => readonly (Var | undefined)[],
  inputs: readonly Var<DType>[],
  shapes: readonly Shape[],
  dtypes: readonly DType[],
): GradientLog {
  const graph = new Graph();
  try {
    const stand = (shape: Shape, dtype: DType) => graph.input(String(graph.log.length), shape, dtype) as Var;
    const given: VjpInputs = {
      graph,
      inputs: inputs.map(({ shape, dtype }) => stand(shape, dtype)),
      outputs: shapes.map((shape, i) => stand(shape, dtypes[i] ?? "f32")),
      cotangents: shapes.map((shape) => stand(shape, "f32")),
    };
    return { results: graph.places(vjp(given) as Var<DType>[]), log: graph.log };
  } finally {
    graph.free();
  }
}
