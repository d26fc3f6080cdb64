import init, { Device, TrainerDemo } from "../pkg/wgrad.js";
import type { Options } from "./options.js";

/** What was opened. */
export interface Ready {
  isGpu: boolean;
  /** The executor in words. */
  device: string;
  parameters: number;
  tokensPerStep: number;
}

/** The state after some steps. */
export interface Progress {
  step: number;
  /** Nats a byte. */
  loss: number;
  /** When it was known, on this thread's clock in milliseconds. */
  at: number;
}

/** Steps are queued in groups of about this many milliseconds: a read-back costs more than a small step. */
const GROUP_MS = 40;
const LARGEST_GROUP = 64;

/** A model in training on the thread it was opened on: a worker, or the page itself. */
export class Engine {
  #step = 0;
  #group = 1;
  #stopped = false;

  private constructor(
    readonly ready: Ready,
    private readonly trainer: TrainerDemo,
  ) {}

  static async open({ executor, software, seed }: Options): Promise<Engine> {
    await init();
    const device = await Device.request({ executor, software });
    const trainer = await TrainerDemo.create(device, seed);
    const reason = device.reason ? `: ${device.reason}` : "";
    const ready = {
      isGpu: device.isGpu,
      device: device.isGpu ? `WebGPU: ${device.adapter}` : `CPU executor${reason}`,
      parameters: trainer.parameters,
      tokensPerStep: trainer.tokensPerStep,
    };
    device.free();
    return new Engine(ready, trainer);
  }

  /** Trains until stopped, or for `steps` more steps; then every single step is reported. */
  async train(steps: number | null, report: (progress: Progress) => void): Promise<void> {
    this.#stopped = false;
    const end = steps === null ? Infinity : this.#step + steps;
    while (!this.#stopped && this.#step < end) {
      const count = steps === null ? this.#group : 1;
      const start = performance.now();
      const loss = await this.trainer.steps(count);
      const at = performance.now();
      this.#step += count;
      const fitting = Math.round((count * GROUP_MS) / Math.max(at - start, 0.1));
      this.#group = Math.min(Math.max(fitting, 1), 2 * count, LARGEST_GROUP);
      report({ step: this.#step, loss, at });
      await breath();
    }
  }

  stop(): void {
    this.#stopped = true;
  }
}

/** Lets messages, input and painting in. Unlike a timer it is not slowed down. */
function breath(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
