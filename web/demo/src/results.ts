/** Results of the page that checks a browser, for tests and for whoever opens the console. */
export interface CheckResults {
  state: "running" | "done" | "failed";
  device: string | null;
  /** Shader texts that the browser compiled. */
  shaders: number;
  /** Samples that were run. */
  checked: number;
  /** Losses of a training run, if one was asked for. */
  losses: number[];
  failures: string[];
}

declare global {
  interface Window {
    __wgrad?: CheckResults;
  }
}
