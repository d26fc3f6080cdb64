import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

/** Points kept; beyond it every second one goes. */
const POINTS = 4000;
/** How much of the smooth line a step leaves as it was. */
const MEMORY = 0.94;
const HEIGHT = 320;
/** Before the first steps: the loss of a guess among 256 bytes. */
const EMPTY = { steps: 20, loss: Math.log(256) };

/** The loss over the steps, as it was read and smoothed, in the page's colours. */
export class LossChart {
  #steps: number[] = [];
  #losses: number[] = [];
  #smooth: number[] = [];
  /** Sum of the weights, and of the losses times their weights. */
  #mean = { step: 0, weight: 0, sum: 0 };
  #plot: uPlot;
  #due = false;

  constructor(private readonly host: HTMLElement) {
    this.#plot = this.#make();
    new ResizeObserver(() => this.#plot.setSize(this.#size())).observe(host);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.#plot.destroy();
      this.#plot = this.#make();
    });
  }

  add(step: number, loss: number): void {
    const kept = MEMORY ** (step - this.#mean.step);
    const weight = kept * this.#mean.weight + 1 - kept;
    this.#mean = { step, weight, sum: kept * this.#mean.sum + (1 - kept) * loss };
    this.#steps.push(step);
    this.#losses.push(loss);
    this.#smooth.push(this.#mean.sum / weight);
    if (this.#steps.length > POINTS) {
      const thin = (values: number[]) => values.filter((_, i) => i % 2 === 1);
      [this.#steps, this.#losses, this.#smooth] = [thin(this.#steps), thin(this.#losses), thin(this.#smooth)];
    }
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#plot.setData(this.#data());
    });
  }

  #data(): uPlot.AlignedData {
    return [this.#steps, this.#losses, this.#smooth];
  }

  #size(): { width: number; height: number } {
    return { width: this.host.clientWidth, height: HEIGHT };
  }

  #make(): uPlot {
    const style = getComputedStyle(this.host);
    const colour = (name: string) => style.getPropertyValue(`--${name}`).trim();
    const axis = {
      stroke: colour("muted"),
      font: `12px ${style.fontFamily}`,
      grid: { stroke: colour("line"), width: 1 },
      ticks: { stroke: colour("line"), width: 1, size: 4 },
    };
    const options: uPlot.Options = {
      ...this.#size(),
      cursor: { y: false, points: { size: 6 } },
      legend: { show: false },
      padding: [8, 14, 0, 0],
      scales: {
        x: { time: false, range: (_, __, last) => [0, Math.max(last ?? 0, EMPTY.steps)] },
        y: { range: (_, __, high) => [0, 1.05 * Math.max(high ?? 0, EMPTY.loss)] },
      },
      axes: [
        { ...axis, size: 28, incrs: [5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6] },
        { ...axis, size: 28 },
      ],
      series: [
        {},
        { stroke: colour("accent-soft"), width: 1, points: { show: false } },
        { stroke: colour("accent"), width: 2, points: { show: false } },
      ],
    };
    return new uPlot(options, this.#data(), this.host);
  }
}
