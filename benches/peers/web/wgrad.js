// This library, by the package of web/package.
import { Graph, init, Store } from "wgrad";
import { below, floats, inputs } from "./data.js";

let device;

/** Outputs of an operation; the first is the one that is compared. */
const OPS = {
  matmul: (g, { a, b }) => ({ y: a.matmul(b) }),
  top_k: (g, { a }, [, , k]) => {
    const { values, indices } = a.topK(k);
    return { y: values, indices };
  },
  softmax: (g, { a }) => ({ y: a.softmax() }),
  gather: (g, { a, at }) => ({ y: a.gather(at) }),
  gather_grad: (g, { a, at, dy }) => {
    const rows = a.gather(at);
    return { y: g.grad(rows.mul(dy).sum(), [a])[0], rows };
  },
  // Products that no fusion joins: what a dispatch costs.
  small_products: (g, { a, b }, [count]) => {
    // Neither grows without end nor vanishes.
    const w = b.mul(0.35);
    let y = a;
    for (let i = 0; i < count; i++) y = y.matmul(w);
    return { y };
  },
  // Loss, gradients and Adam of two layers.
  mlp_adam: (g, state) => {
    const y = state.x.matmul(state.w1).add(state.b1).relu().matmul(state.w2).add(state.b2);
    const loss = y.sub(state.y).square().mean();
    const names = ["w1", "b1", "w2", "b2"];
    const grads = g.grad(loss, names.map((name) => state[name]));
    for (const [i, name] of names.entries()) {
      const m = state[`${name}.m`].mul(0.9).add(grads[i].mul(0.1));
      const v = state[`${name}.v`].mul(0.999).add(grads[i].square().mul(0.001));
      g.assign(state[`${name}.m`], m);
      g.assign(state[`${name}.v`], v);
      g.assign(state[name], state[name].sub(m.div(v.sqrt().add(1e-8)).mul(1e-4)));
    }
    return { y: loss };
  },
};

function shapes(op, dims) {
  if (op === "small_products") return { a: [8, 8], b: [8, 8] };
  if (op !== "mlp_adam") return inputs(op, dims);
  const [batch, dim, inner] = dims;
  const parameters = { w1: [dim, inner], b1: [inner], w2: [inner, dim], b2: [dim] };
  const all = { x: [batch, dim], y: [batch, dim] };
  for (const [name, shape] of Object.entries(parameters)) {
    all[name] = shape;
    all[`${name}.m`] = shape;
    all[`${name}.v`] = shape;
  }
  return all;
}

export default {
  async start() {
    device = await init({ executor: "gpu", software: true });
    return `wgrad, npm package; ${device.adapter}`;
  },

  async prepare(op, dims) {
    const wanted = shapes(op, dims);
    if (!wanted || !OPS[op]) return null;
    const [graph, store] = [new Graph(), await Store.create(device)];
    const state = {};
    for (const [i, [name, shape]] of Object.entries(wanted).entries()) {
      const indices = name === "at";
      const elements = indices ? below(shape, dims[0], i + 1) : floats(shape, i + 1);
      if (/\.[mv]$/.test(name)) elements.fill(0);
      await store.set(name, elements, shape);
      state[name] = graph.state(name, shape, indices ? "u32" : "f32");
    }
    const plan = await graph.compile(device, OPS[op](graph, state, dims));
    return {
      run: () => plan.run({}, { store, read: [] }),
      output: async () => (await plan.run({}, { store, read: ["y"] })).y,
      free: () => [plan, store, graph].forEach((thing) => thing.free()),
    };
  },
};
