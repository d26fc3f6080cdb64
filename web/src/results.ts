import type { Failure } from "./failure.js";

/** The training page's results, for tests and for whoever opens the console. */
export interface TrainingResults {
  state: "opening" | "ready" | "training" | "stopping" | "stopped" | "done" | "failed";
  device: string | null;
  isGpu: boolean | null;
  where: "worker" | "page" | null;
  losses: number[];
  /** What the model wrote last. */
  sample: string | null;
  failure: Failure | null;
}

/** The self-check page's results. */
export interface CheckResults {
  state: "running" | "done" | "failed";
  device: string | null;
  /** Shader texts that the browser compiled. */
  shaders: number;
  /** Samples that were run. */
  checked: number;
  failures: string[];
}

declare global {
  interface Window {
    __wgrad?: TrainingResults | CheckResults;
  }
}
