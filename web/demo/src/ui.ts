/** A panel's section, and what is in it: `data-in` are controls, `data-out` texts, `data-do` buttons. */
export class View {
  readonly root: HTMLElement;

  constructor(id: string) {
    const found = document.getElementById(id);
    if (!found) throw new Error(`the page has no #${id}`);
    this.root = found;
  }

  #find<E extends HTMLElement>(selector: string): E {
    const found = this.root.querySelector<E>(selector);
    if (!found) throw new Error(`#${this.root.id} has no ${selector}`);
    return found;
  }

  in<E extends HTMLElement = HTMLInputElement>(name: string): E {
    return this.#find<E>(`[data-in="${name}"]`);
  }

  out(name: string): HTMLElement {
    return this.#find(`[data-out="${name}"]`);
  }

  say(name: string, text: string): void {
    const out = this.out(name);
    if (out.textContent !== text) out.textContent = text;
  }

  button(name: string): HTMLButtonElement {
    return this.#find(`[data-do="${name}"]`);
  }

  chart(name: string): HTMLElement {
    return this.#find(`[data-chart="${name}"]`);
  }

  canvas(name: string): HTMLCanvasElement {
    return this.#find(`[data-heat="${name}"]`);
  }

  run(): HTMLElement {
    return this.#find("[data-run]");
  }

  /** A number from a control. */
  number(name: string): number {
    return Number(this.in(name).value);
  }

  /** Calls `changed` now and whenever one of these controls is moved. */
  watch(names: string[], changed: () => void): void {
    for (const name of names) this.in(name).addEventListener("input", changed);
    changed();
  }
}

export const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

const UNITS = ["bytes", "kB", "MB", "GB", "TB"];

/** Bytes for people, in powers of 1000. */
export function bytes(n: number): string {
  const power = n < 1 ? 0 : Math.min(Math.floor(Math.log10(n) / 3), UNITS.length - 1);
  return `${short.format(n / 1000 ** power)} ${UNITS[power]}`;
}

/** A new element with a class and a text. */
export function element<K extends keyof HTMLElementTagNameMap>(tag: K, className = "", text = ""): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

export function seconds(ms: number): string {
  const s = Math.max(Math.round(ms / 1000), 0);
  return s < 60 ? `${s} s` : `${Math.floor(s / 60)} min ${s % 60} s`;
}
