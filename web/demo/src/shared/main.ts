// A WebGPU renderer of the page's own and a model of wgrad on one device: what the model moves is drawn where it lies. The same in
// Rust is `examples/shared_device`, where wgrad adopts the renderer's device; in a browser it is wgrad that makes the device.
import { init } from "wgrad";
import { failure } from "../failure.js";
import { readOptions } from "../options.js";
import { Flow } from "./flow.js";
import { Renderer } from "./renderer.js";

/** Frames from noise to the spiral, and frames that it stays. */
const [FRAMES, STAY] = [80, 60];
/** What a frame may take, in milliseconds: as many training steps as fit. */
const FRAME_MS = 14;

const byId = (id: string) => document.getElementById(id) as HTMLElement;
const say = (id: string, text: string) => (byId(id).textContent = text);
const button = (id: string) => byId(id) as HTMLButtonElement;
const canvas = document.querySelector("canvas") as HTMLCanvasElement;
const nextFrame = () => new Promise((resolve) => requestAnimationFrame(resolve));

/** Whether frames go on, and who waits for that. */
class Pause {
  #resume: (() => void) | undefined;
  #paused = false;

  constructor(paused: boolean) {
    button("pause").disabled = false;
    button("pause").onclick = () => this.#set(!this.#paused);
    this.#set(paused);
  }

  #set(paused: boolean): void {
    this.#paused = paused;
    say("pause", paused ? "Go on" : "Pause");
    if (!paused) this.#resume?.();
  }

  async over(): Promise<void> {
    if (this.#paused) await new Promise<void>((resolve) => (this.#resume = resolve));
  }
}

async function start(): Promise<void> {
  const { executor, software, small, steps } = readOptions(location.search);
  const device = await init({ executor, software });
  say("device", device.kind === "gpu" ? `WebGPU: ${device.adapter}` : "CPU executor");
  const shared = (await device.webgpu()) as { device: GPUDevice; queue: GPUQueue } | undefined;
  if (!shared) {
    document.body.dataset.state = "refused";
    say("status", `There is no GPU device to share${device.reason ? `: ${device.reason}` : ""}.`);
    return device.free();
  }
  device.lost.then((reason) => {
    document.body.dataset.state = "lost";
    say("status", `The GPU was taken away (${reason}). Load the page again.`);
  });
  const flow = await Flow.create(device, small ? 4000 : 20_000, FRAMES);
  say("particles", flow.particles.toLocaleString("en"));
  // The buffer in which the model moves the particles is what the renderer draws from.
  const buffer = (await flow.store.webgpu("particles")) as GPUBuffer;
  const renderer = new Renderer(shared.device, canvas, buffer, flow.particles);
  // For tests, and for whoever opens the console.
  Object.assign(window, { flow, renderer });
  button("forget").disabled = false;
  button("forget").onclick = () => void flow.forget();
  if (steps === null) await forever(flow, renderer, shared.queue);
  else await once(flow, renderer, shared.queue, steps);
}

let read = 0;
async function report(flow: Flow): Promise<void> {
  const loss = await flow.learn(true);
  read += 1;
  say("loss", (loss ?? NaN).toFixed(3));
  say("read", `${read} ${read === 1 ? "number" : "numbers"}`);
}

/** Learns while the particles fly, round after round. */
async function forever(flow: Flow, renderer: Renderer, queue: GPUQueue): Promise<void> {
  const pause = new Pause(matchMedia("(prefers-reduced-motion: reduce)").matches);
  document.body.dataset.state = "running";
  say("status", "Learning, and flying from noise to the spiral.");
  for (let each = 1; ; ) {
    await flow.scatter();
    for (let frame = 0; frame < FRAMES + STAY; frame++) {
      await pause.over();
      await nextFrame();
      const begun = performance.now();
      for (let i = 0; i < each; i++) await flow.learn();
      if (frame < FRAMES) await flow.move(frame);
      renderer.draw();
      await queue.onSubmittedWorkDone();
      each = performance.now() - begun < FRAME_MS ? Math.min(each + 1, 16) : Math.max(each - 1, 1);
      say("steps", flow.steps.toLocaleString("en"));
    }
    await report(flow);
  }
}

/** For tests: learns so many steps, then one flight, and stays at its end. */
async function once(flow: Flow, renderer: Renderer, queue: GPUQueue, steps: number): Promise<void> {
  document.body.dataset.state = "learning";
  while (flow.steps < steps) await flow.learn();
  await report(flow);
  await flow.scatter();
  await nextFrame();
  renderer.draw();
  await queue.onSubmittedWorkDone();
  document.body.dataset.state = "noise";
  say("status", "Noise.");
  say("pause", "Fly");
  button("pause").disabled = false;
  await new Promise((resolve) => (button("pause").onclick = resolve));
  for (let frame = 0; frame < FRAMES; frame++) {
    await flow.move(frame);
    await nextFrame();
    renderer.draw();
    await queue.onSubmittedWorkDone();
  }
  say("steps", flow.steps.toLocaleString("en"));
  document.body.dataset.state = "done";
  say("status", "The particles have arrived.");
}

start().catch((error: unknown) => {
  const { code, message } = failure(error);
  document.body.dataset.state = "failed";
  say("status", code ? `${code}: ${message}` : message);
});
