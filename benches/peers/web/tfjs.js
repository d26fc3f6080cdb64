// TensorFlow.js, its WebGPU backend.
import { below, floats, inputs } from "./data.js";

const { tf } = globalThis;

export default {
  async start() {
    // Gone from browsers, which this version does not know.
    GPUAdapter.prototype.requestAdapterInfo ??= async function () {
      return this.info;
    };
    if (!(await tf.setBackend("webgpu"))) throw new Error("tfjs has no webgpu backend here");
    await tf.ready();
    return `TensorFlow.js ${tf.version.tfjs}, webgpu`;
  },

  async prepare(op, dims) {
    const wanted = inputs(op, dims);
    if (!wanted) return null;
    const t = {};
    for (const [i, [name, shape]] of Object.entries(wanted).entries()) {
      const indices = name === "at";
      t[name] = indices
        ? tf.tensor(Int32Array.from(below(shape, dims[0], i + 1)), shape, "int32")
        : tf.tensor(floats(shape, i + 1), shape);
    }
    const grad = op === "gather_grad" && tf.grad((a) => tf.gather(a, t.at));
    const work = {
      matmul: () => tf.matMul(t.a, t.b),
      top_k: () => tf.topk(t.a, dims[2]).values,
      softmax: () => tf.softmax(t.a),
      gather: () => tf.gather(t.a, t.at),
      gather_grad: () => grad(t.a, t.dy),
    }[op];
    return {
      run: () => tf.tidy(() => void work()),
      flush: () => {
        tf.backend().endComputePassEncoder();
        tf.backend().submitQueue();
      },
      output: async () => {
        const y = tf.tidy(work);
        const data = await y.data();
        y.dispose();
        return data;
      },
      free: () => Object.values(t).forEach((tensor) => tensor.dispose()),
    };
  },
};
