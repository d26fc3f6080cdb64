// jax-js: as its users write it, compiled by `jit`. Arrays are used up where they go without `.ref`.
import { blockUntilReady, defaultDevice, init, jit, lax, nn, numpy as np, vjp } from "/node_modules/@jax-js/jax/dist/index.js";
import { below, floats, inputs } from "./data.js";

const OPS = {
  matmul: () => jit(({ a, b }) => np.matmul(a, b)),
  top_k: ([, , k]) => jit(({ a }) => lax.topK(a, k)),
  softmax: () => jit(({ a }) => nn.softmax(a)),
  gather: () => jit(({ a, at }) => np.take(a, at, 0)),
  gather_grad: () => jit(({ a, at, dy }) => {
    const [y, back] = vjp((table) => np.take(table, at, 0), [a]);
    y.dispose();
    return back(dy)[0];
  }),
};

export default {
  async start() {
    if (!(await init("webgpu")).includes("webgpu")) throw new Error("jax-js has no webgpu here");
    defaultDevice("webgpu");
    const { version } = await (await fetch("/node_modules/@jax-js/jax/package.json")).json();
    return `jax-js ${version}, webgpu`;
  },

  async prepare(op, dims) {
    const wanted = inputs(op, dims);
    if (!wanted) return null;
    // It sorts whole rows, which takes minutes.
    if (op === "top_k" && dims[1] > 4096) return null;
    const t = {};
    for (const [i, [name, shape]] of Object.entries(wanted).entries()) {
      const indices = name === "at";
      const flat = indices ? np.array(Int32Array.from(below(shape, dims[0], i + 1))) : np.array(floats(shape, i + 1));
      t[name] = flat.reshape(shape);
    }
    const work = OPS[op](dims);
    const call = () => [work(Object.fromEntries(Object.entries(t).map(([name, array]) => [name, array.ref])))].flat();
    let made = [];
    return {
      run: () => void made.push(...call()),
      // What was asked for is computed when it is waited for.
      flush: async () => {
        const all = await blockUntilReady(made);
        made = [];
        all.forEach((array) => array.dispose());
      },
      output: async () => {
        const [y, ...others] = call();
        others.forEach((array) => array.dispose());
        return y.data();
      },
      free: () => Object.values(t).forEach((array) => array.dispose()),
    };
  },
};
