import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { colour, onColours } from "./colours.js";
import { short } from "./ui.js";

/** Points kept; beyond it every second one goes. */
const POINTS = 3000;

export interface Line {
  colour: string;
  width?: number;
  dash?: number[];
}

export interface ChartOptions {
  lines: Line[];
  /** Name of what is along the axis, for readers of the screen. */
  x: string;
  y: string;
  /** Logarithmic axes. */
  logX?: boolean;
  logY?: boolean;
  /** Smallest range that is shown, from 0. */
  least?: { x: number; y?: number };
  format?: (value: number) => string;
  /** Lowest value shown; 0 unless said otherwise, null for the data's own. */
  low?: number | null;
}

/** A number for an axis: short. */
function si(n: number): string {
  const size = Math.abs(n);
  if (size >= 1e6) return `${short.format(n / 1e6)}M`;
  if (size >= 1e3) return `${short.format(n / 1e3)}k`;
  return n === 0 || size >= 1e-3 ? short.format(n) : n.toExponential(0);
}

/** Lines over a common axis, in the page's colours. */
export class Chart {
  #data: (number | null)[][];
  #plot: uPlot | undefined;
  #due = false;

  constructor(
    readonly host: HTMLElement,
    readonly options: ChartOptions,
  ) {
    this.#data = [[], ...options.lines.map(() => [])];
    host.setAttribute("role", "img");
    host.setAttribute("aria-label", `Chart of ${options.y} over ${options.x}: nothing yet`);
    new ResizeObserver(() => this.#fit()).observe(host);
    onColours(() => {
      this.#plot?.destroy();
      this.#plot = undefined;
      this.#fit();
    });
  }

  clear(): void {
    this.#data = this.#data.map(() => []);
    this.#draw();
  }

  /** Adds a point of every line; null where a line has none. */
  add(x: number, ...ys: (number | null)[]): void {
    const xs = this.#data[0] ?? [];
    const last = xs.at(-1);
    if (last !== undefined && last !== null && last >= x) {
      // The same place again: fill in what was not known.
      ys.forEach((y, i) => {
        const line = this.#data[i + 1];
        if (line && y !== null) line[xs.indexOf(x)] = y;
      });
      return this.#draw();
    }
    xs.push(x);
    this.#data.slice(1).forEach((line, i) => line.push(ys[i] ?? null));
    if (xs.length > POINTS) this.#data = this.#data.map((line) => line.filter((_, i) => i % 2 === 1));
    this.#draw();
  }

  #draw(): void {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#plot?.setData(this.#data as uPlot.AlignedData);
      const ends = this.#data.slice(1).map((line) => line.findLast((y) => y !== null));
      const said = ends.filter((y) => y !== undefined && y !== null).map((y) => short.format(y as number));
      const { x, y } = this.options;
      const at = this.#data[0]?.at(-1);
      const text = at === undefined || at === null ? "nothing yet" : `${said.join(" and ")} at ${short.format(at)}`;
      this.host.setAttribute("aria-label", `Chart of ${y} over ${x}: ${text}`);
    });
  }

  #fit(): void {
    const size = { width: this.host.clientWidth, height: this.host.clientHeight };
    // A hidden panel has no size; it is told when it gets one.
    if (size.width < 40 || size.height < 40) return;
    if (this.#plot) this.#plot.setSize(size);
    else this.#plot = this.#make(size);
  }

  #make(size: { width: number; height: number }): uPlot {
    const { lines, logX, logY, least, format = si, low = 0 } = this.options;
    const line = colour("line");
    const axis = {
      stroke: colour("muted"),
      font: `12px ${getComputedStyle(this.host).fontFamily}`,
      grid: { stroke: line, width: 1 },
      ticks: { stroke: line, width: 1, size: 4 },
    };
    const floor = (min: number | null) => (low === null ? (min ?? 0) : low);
    const log = { distr: 3 as const, log: 10 as const };
    return new uPlot(
      {
        ...size,
        cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
        legend: { show: false },
        padding: [10, 16, 0, 0],
        scales: {
          x: logX ? { time: false, ...log } : { time: false, range: (_, __, last) => [0, Math.max(last ?? 0, least?.x ?? 1)] },
          y: logY ? log : { range: (_, min, max) => [floor(min), Math.max(1.06 * (max ?? 1), least?.y ?? 1e-9)] },
        },
        axes: [
          { ...axis, size: 30, values: (_, ticks) => ticks.map((n) => (n === null ? "" : si(n))) },
          { ...axis, size: 56, values: (_, ticks) => ticks.map((n) => (n === null ? "" : format(n))) },
        ],
        series: [
          {},
          ...lines.map((l) => ({
            stroke: colour(l.colour),
            width: l.width ?? 2,
            dash: l.dash ?? [],
            spanGaps: true,
            points: { show: false },
          })),
        ],
      },
      this.#data as uPlot.AlignedData,
      this.host,
    );
  }
}

/** A loss that jumps about, and its running mean. */
export class LossChart extends Chart {
  #mean = { step: 0, weight: 0, sum: 0 };

  constructor(host: HTMLElement, { memory = 0.94, y = Math.log(256) } = {}) {
    super(host, {
      lines: [{ colour: "accent-soft", width: 1 }, { colour: "accent" }],
      x: "the steps",
      y: "the loss",
      least: { x: 20, y },
    });
    this.memory = memory;
  }

  readonly memory: number;

  override clear(): void {
    this.#mean = { step: 0, weight: 0, sum: 0 };
    super.clear();
  }

  loss(step: number, loss: number): void {
    if (step <= this.#mean.step) this.clear();
    const kept = this.memory ** (step - this.#mean.step);
    const weight = kept * this.#mean.weight + 1 - kept;
    this.#mean = { step, weight, sum: kept * this.#mean.sum + (1 - kept) * loss };
    this.add(step, loss, this.#mean.sum / weight);
  }
}
