// ONNX Runtime Web, its WebGPU execution provider; tensors stay on the device.
import * as ort from "/node_modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs";
import { below, floats, inputs } from "./data.js";
import { FLOAT, INT32, INT64, model } from "./onnx.js";

/** Node type, outputs with types and shapes, attributes, constants. */
const OPS = {
  matmul: ([m, , n]) => ["MatMul", { y: [FLOAT, [m, n]] }],
  top_k: ([rows, , k]) => ["TopK", { y: [FLOAT, [rows, k]], indices: [INT64, [rows, k]] }, {}, { k: [k] }],
  softmax: (dims) => ["Softmax", { y: [FLOAT, dims] }, { axis: 1 }],
  gather: ([, width, hits]) => ["Gather", { y: [FLOAT, [hits, width]] }, { axis: 0 }],
};

export default {
  async start() {
    ort.env.wasm.wasmPaths = "/node_modules/onnxruntime-web/dist/";
    ort.env.logLevel = "error";
    return `ONNX Runtime Web ${ort.env.versions.web}, webgpu`;
  },

  async prepare(op, dims) {
    const wanted = inputs(op, dims);
    if (!wanted || !OPS[op]) return null;
    const [type, outputs, attributes, constants] = OPS[op](dims);
    const types = Object.fromEntries(
      Object.entries(wanted).map(([name, shape]) => [name, [name === "at" ? INT32 : FLOAT, shape]]),
    );
    const bytes = model(type, types, outputs, attributes, constants);
    const place = { executionProviders: ["webgpu"], preferredOutputLocation: "gpu-buffer" };
    const session = await ort.InferenceSession.create(bytes, place);
    const device = await ort.env.webgpu.device;
    const [feeds, buffers] = [{}, []];
    for (const [i, [name, shape]] of Object.entries(wanted).entries()) {
      const data = name === "at" ? below(shape, dims[0], i + 1) : floats(shape, i + 1);
      const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
      const buffer = device.createBuffer({ size: Math.ceil(data.byteLength / 16) * 16, usage });
      device.queue.writeBuffer(buffer, 0, data);
      buffers.push(buffer);
      const dataType = name === "at" ? "int32" : "float32";
      feeds[name] = ort.Tensor.fromGpuBuffer(buffer, { dataType, dims: shape });
    }
    return {
      run: async () => Object.values(await session.run(feeds)).forEach((tensor) => tensor.dispose()),
      output: async () => {
        const found = await session.run(feeds);
        const data = await found.y.getData(true);
        Object.values(found).forEach((tensor) => tensor.dispose());
        return data;
      },
      free: async () => {
        await session.release();
        buffers.forEach((buffer) => buffer.destroy());
      },
    };
  },
};
