import type { App } from "./app.js";
import { element, seconds } from "./ui.js";

/** A panel's long work: a progress bar, pause and stop. One runs at a time on the page. */
export class Run {
  #bar = element("progress");
  #text = element("span", "note");
  #pause = element("button", "", "Pause");
  #stop = element("button", "", "Stop");
  #abort = new AbortController();
  #paused = false;
  #wake: (() => void) | undefined;
  #began = 0;

  constructor(
    readonly host: HTMLElement,
    readonly app: App,
  ) {
    host.className = "run card";
    host.hidden = true;
    this.#bar.setAttribute("aria-label", "Progress");
    this.#pause.type = this.#stop.type = "button";
    host.append(this.#bar, this.#text, this.#pause, this.#stop);
    this.#pause.onclick = () => this.#setPaused(!this.#paused);
    this.#stop.onclick = () => this.stop();
    document.addEventListener("visibilitychange", () => {
      this.host.dataset.state = this.#state();
      this.#wake?.();
    });
  }

  #state(): string {
    return this.#paused ? "paused" : document.hidden ? "hidden" : "running";
  }

  #setPaused(paused: boolean): void {
    this.#paused = paused;
    this.#pause.textContent = paused ? "Go on" : "Pause";
    this.host.dataset.state = this.#state();
    if (!paused) this.#wake?.();
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  stop(): void {
    this.#abort.abort();
    this.#setPaused(false);
  }

  /** Does `work`; true if it came to its end, false if it was stopped. Other errors are shown. */
  async go(what: string, work: () => Promise<void>): Promise<boolean> {
    if (!this.app.take(this)) return false;
    this.#abort = new AbortController();
    this.#began = performance.now();
    this.host.hidden = false;
    this.#setPaused(false);
    this.warm(what);
    try {
      await this.app.turn(work);
      return true;
    } catch (error) {
      if (!this.signal.aborted) this.app.fail(error);
      return false;
    } finally {
      this.host.hidden = true;
      this.app.release(this);
    }
  }

  /** Shows that something is prepared, how far is not known. */
  warm(text: string): void {
    this.#bar.removeAttribute("value");
    this.#text.textContent = text;
  }

  /** For the package's `onProgress`: pipelines made. */
  readonly pipelines = ({ made, wanted }: { made: number; wanted: number }): void => {
    if (wanted > 0) this.at(made, wanted, `Compiling: ${made} of ${wanted} pipelines`);
  };

  at(done: number, all: number, text: string): void {
    this.#bar.max = all;
    this.#bar.value = Math.min(done, all);
    this.#text.textContent = text;
  }

  /** Shows how far it is. Waits while it is paused or the tab is hidden, and throws when it is stopped. */
  async pulse(done: number, all: number, text: string): Promise<void> {
    const left = done > 0 ? ((performance.now() - this.#began) * (all - done)) / done : 0;
    this.at(done, all, left > 2000 ? `${text} · ${seconds(left)} left` : text);
    // Lets the page paint, and answers to clicks.
    await new Promise((resolve) => setTimeout(resolve));
    while ((this.#paused || document.hidden) && !this.signal.aborted) {
      const from = performance.now();
      this.host.dataset.state = this.#state();
      await new Promise<void>((resolve) => (this.#wake = resolve));
      this.#began += performance.now() - from;
    }
    this.#wake = undefined;
    this.host.dataset.state = this.#state();
    this.signal.throwIfAborted();
  }
}
