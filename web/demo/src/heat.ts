import { dark, onColours } from "./colours.js";

/** Stops of the colour maps, dark to bright and the other way round: the page's indigo, and its yellow for what is negative. */
const MAPS = {
  light: { one: [[240, 240, 248], [150, 148, 232], [70, 64, 178], [28, 20, 92]], less: [[246, 246, 250], [245, 178, 84], [170, 82, 16]] },
  dark: { one: [[26, 26, 38], [74, 68, 168], [150, 144, 250], [255, 232, 170]], less: [[26, 26, 38], [172, 104, 26], [255, 206, 120]] },
};

function pick(stops: number[][], x: number): number[] {
  const at = Math.min(Math.max(x, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(at), stops.length - 2);
  const [a = [0, 0, 0], b = [0, 0, 0]] = [stops[i], stops[i + 1]];
  return a.map((v, c) => v + (at - i) * ((b[c] ?? 0) - v));
}

/** Numbers as an image: a pixel each, enlarged without smoothing. */
export class Heat {
  #shown: { data: ArrayLike<number>; rows: number; columns: number; top: number } | undefined;

  constructor(readonly canvas: HTMLCanvasElement) {
    canvas.width = canvas.height = 1;
    onColours(() => this.#paint());
  }

  /** Shows numbers from 0 to `top`, negative ones in another colour; without `top` the largest is brightest. */
  show(data: ArrayLike<number>, rows: number, columns: number, top?: number): void {
    let most = top ?? 0;
    if (top === undefined) for (let i = 0; i < data.length; i++) most = Math.max(most, Math.abs(data[i] ?? 0));
    this.#shown = { data, rows, columns, top: most || 1 };
    this.#paint();
  }

  #paint(): void {
    const context = this.canvas.getContext("2d");
    if (!this.#shown || !context) return;
    const { data, rows, columns, top } = this.#shown;
    [this.canvas.width, this.canvas.height] = [columns, rows];
    const image = context.createImageData(columns, rows);
    const map = dark() ? MAPS.dark : MAPS.light;
    for (let i = 0; i < rows * columns; i++) {
      const x = (data[i] ?? 0) / top;
      const [r = 0, g = 0, b = 0] = pick(x < 0 ? map.less : map.one, Math.abs(x));
      image.data.set([r, g, b, 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
  }
}
