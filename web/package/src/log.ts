import * as wasm from "../pkg/wgrad.js";

/** Entries of a graph, in the order in which they were added: a method of the wasm's graph, and its arguments. */
export type Log = [method: "named" | "constant" | "apply" | "grad" | "assign" | "gate" | "custom", ...args: unknown[]][];

/** The gradient of an operation of one's own: a graph of its own, and which of its variables are the cotangents, -1 for none. */
export interface GradientLog {
  log: Log;
  results: Int32Array;
}

/** Adds an entry to a graph. @internal */
export function append(graph: wasm.Graph, [method, ...args]: Log[number]): Uint32Array | undefined {
  if (method !== "custom") return (graph[method] as (...args: unknown[]) => Uint32Array | undefined)(...args);
  const [inputs, spec, gradient] = args as [Uint32Array, string, GradientLog | undefined];
  // The graph of the gradient is handed over.
  return graph.custom(inputs, spec, gradient && replay(gradient.log), gradient?.results ?? new Int32Array());
}

/** A graph with all entries. @internal */
export function replay(log: Log): wasm.Graph {
  const graph = new wasm.Graph();
  try {
    for (const entry of log) append(graph, entry);
    return graph;
  } catch (error) {
    graph.free();
    throw error;
  }
}
