/** Half the width of a particle, where the picture is 2 wide. */
const SIZE = 0.011;

const SHADER = `
@group(0) @binding(0) var<storage, read> particles: array<vec2f>;

struct Drawn {
  @builtin(position) position: vec4f,
  @location(0) corner: vec2f,
  @location(1) color: vec3f,
}

@vertex fn vertex(@builtin(vertex_index) v: u32, @builtin(instance_index) i: u32) -> Drawn {
  let corner = 2.0 * vec2f(f32(v & 1u), f32(v >> 1u)) - 1.0;
  let at = particles[i];
  let angle = atan2(at.y, at.x);
  let color = 0.55 + 0.45 * cos(vec3f(angle, angle + 2.1, angle + 4.2));
  return Drawn(vec4f(0.6 * at + ${SIZE} * corner, 0.0, 1.0), corner, color);
}

@fragment fn fragment(drawn: Drawn) -> @location(0) vec4f {
  let light = max(0.0, 1.0 - dot(drawn.corner, drawn.corner));
  return vec4f(0.4 * light * drawn.color, 1.0);
}`;

/** Draws particles on a canvas, from a buffer that is somebody else's. It knows nothing of wgrad. */
export class Renderer {
  #context: GPUCanvasContext;
  #pipeline: GPURenderPipeline;
  #bindings: GPUBindGroup;

  /** `buffer` holds x and y of each particle, as floats. */
  constructor(
    readonly device: GPUDevice,
    canvas: HTMLCanvasElement,
    buffer: GPUBuffer,
    readonly particles: number,
  ) {
    const context = canvas.getContext("webgpu");
    if (!context) throw new Error("this canvas offers no WebGPU");
    this.#context = context;
    const format = navigator.gpu.getPreferredCanvasFormat();
    context.configure({ device, format, alphaMode: "opaque" });
    const module = device.createShaderModule({ label: "particles", code: SHADER });
    const light: GPUBlendComponent = { srcFactor: "one", dstFactor: "one", operation: "add" };
    this.#pipeline = device.createRenderPipeline({
      label: "particles",
      layout: "auto",
      vertex: { module },
      primitive: { topology: "triangle-strip" },
      fragment: { module, targets: [{ format, blend: { color: light, alpha: light } }] },
    });
    this.#bindings = device.createBindGroup({
      layout: this.#pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer } }],
    });
  }

  draw(): void {
    const encoder = this.device.createCommandEncoder();
    const view = this.#context.getCurrentTexture().createView();
    const clearValue = [0.04, 0.04, 0.07, 1];
    const pass = encoder.beginRenderPass({ colorAttachments: [{ view, clearValue, loadOp: "clear", storeOp: "store" }] });
    pass.setPipeline(this.#pipeline);
    pass.setBindGroup(0, this.#bindings);
    pass.draw(4, this.particles);
    pass.end();
    this.device.queue.submit([encoder.finish()]);
  }
}
