import init, { Device, TrainerDemo } from "../pkg/wgrad.js";
import type { Options } from "./options.js";

/** The executor. */
export interface Found {
  isGpu: boolean;
  /** In words. */
  device: string;
}

/** A model on its executor. */
export interface Ready extends Found {
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

/** What a running model tells. */
export interface Reports {
  progress(progress: Progress): void;
  /** What the model wrote after {@link PROMPT}. */
  wrote(text: string): void;
}

export const PROMPT = "The machine ";
const SAMPLE_BYTES = 160;
/** Writing takes at most this share of the time. */
const WRITING = 0.1;

/** Steps are queued in groups of about this many milliseconds: a read-back costs more than a small step. */
const GROUP_MS = 40;
const LARGEST_GROUP = 64;

/** A model in training on the thread it was opened on: a worker, or the page itself. */
export class Engine {
  #step = 0;
  #group = 1;
  #stopped = false;
  #writtenAt = 0;
  #writingMs = 0;

  private constructor(
    readonly ready: Ready,
    private readonly trainer: TrainerDemo,
  ) {}

  /** Picks the executor, tells which, and compiles the model's training step for it. */
  static async open({ executor, software, seed }: Options, tell: (found: Found) => void): Promise<Engine> {
    await init();
    const device = await Device.request(executor, software, false, false);
    const reason = device.reason ? `: ${device.reason}` : "";
    const found = {
      isGpu: device.isGpu,
      device: device.isGpu ? `WebGPU: ${device.adapter}` : `CPU executor${reason}`,
    };
    tell(found);
    const trainer = await TrainerDemo.create(device, seed);
    device.free();
    return new Engine({ ...found, parameters: trainer.parameters, tokensPerStep: trainer.tokensPerStep }, trainer);
  }

  /**
   * Trains until stopped, or for `steps` more steps; then every single step is reported. Lets the model write now and then,
   * and at the end.
   */
  async train(steps: number | null, reports: Reports): Promise<void> {
    this.#stopped = false;
    this.#writtenAt = performance.now();
    const end = steps === null ? Infinity : this.#step + steps;
    while (!this.#stopped && this.#step < end) {
      const count = steps === null ? this.#group : 1;
      const start = performance.now();
      const loss = await this.trainer.steps(count);
      const at = performance.now();
      this.#step += count;
      const fitting = Math.round((count * GROUP_MS) / Math.max(at - start, 0.1));
      this.#group = Math.min(Math.max(fitting, 1), 2 * count, LARGEST_GROUP);
      reports.progress({ step: this.#step, loss, at });
      await breath();
      if (steps === null && at - this.#writtenAt > 2000 + this.#writingMs / WRITING) await this.#write(reports);
    }
    await this.#write(reports);
  }

  async #write(reports: Reports): Promise<void> {
    const start = performance.now();
    const bytes = await this.trainer.sample(new TextEncoder().encode(PROMPT), SAMPLE_BYTES);
    reports.wrote(new TextDecoder().decode(bytes));
    this.#writtenAt = performance.now();
    this.#writingMs = this.#writtenAt - start;
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
