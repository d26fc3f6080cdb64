import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

/** Points kept; beyond it every second one goes. */
const POINTS = 4000;
/** Weight of a new loss in the smooth line. */
const SMOOTHING = 0.08;
const HEIGHT = 320;

/** The loss over the steps, as it was read and smoothed, in the page's colours. */
export class LossChart {
  #steps: number[] = [];
  #losses: number[] = [];
  #smooth: number[] = [];
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
    const last = this.#smooth.at(-1) ?? loss;
    this.#steps.push(step);
    this.#losses.push(loss);
    this.#smooth.push(last + SMOOTHING * (loss - last));
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
      scales: { x: { time: false }, y: { range: (_, low, high) => [Math.min(low, 1), Math.max(high, 2)] } },
      axes: [axis, { ...axis, size: 40 }],
      series: [
        {},
        { stroke: colour("accent-soft"), width: 1, points: { show: false } },
        { stroke: colour("accent"), width: 2, points: { show: false } },
      ],
    };
    return new uPlot(options, this.#data(), this.host);
  }
}
