import { encode, Graph, type Plan, RoutedDecoder, type Var } from "wgrad";
import { type App, Kept, type Panel } from "../app.js";
import { Chart } from "../chart.js";
import { colour, onColours } from "../colours.js";
import { Heat } from "../heat.js";
import { Run } from "../run.js";
import { LINES, PROSE } from "../texts.js";
import { element, short, View, whole } from "../ui.js";

const BIG = { dim: 96, depth: 2, heads: 4, window: 32, heavyKeys: 16 };
const SMALL = { ...BIG, dim: 32, heads: 2, window: 16, heavyKeys: 8 };
/** Rows, columns and iterations of the plan that Sinkhorn scales. */
const PLAN = { rows: 24, columns: 24, iterations: 16 };
const FRAME_MS = 90;

type Vars = Record<string, Var<"f32">>;

/** Routers and the two algorithms that make their choice soft. */
export class Route implements Panel {
  #view = new View("route");
  #run: Run;
  #kept: Kept<RoutedDecoder>;
  #descent: Chart;
  #sinkhorn: Chart;
  #heat: Heat;
  #raw: Float32Array = new Float32Array();
  #tokens: Uint32Array = new Uint32Array();
  #plans = new Map<string, Promise<Plan<Vars>>>();
  #shares: Float32Array = new Float32Array();
  #wanted = 0;

  constructor(readonly app: App) {
    const view = this.#view;
    this.#run = new Run(view.run(), app);
    this.#kept = new Kept(app, (device, source) => RoutedDecoder.load(device, source));
    this.#kept.buttons(view.button("train").parentElement as Element, "route", async () => {
      view.say("trained", "Read from the file.");
      await this.#score();
    });
    this.#descent = new Chart(view.chart("descent"), {
      lines: [{ colour: "accent", width: 3 }, { colour: "warm", width: 2, dash: [6, 4] }],
      x: "iterations",
      y: "the sum of the shares, and k",
      low: 0,
    });
    this.#sinkhorn = new Chart(view.chart("sinkhorn"), {
      lines: [{ colour: "accent", width: 3 }],
      x: "iterations",
      y: "the largest error of a column's sum",
    });
    this.#heat = new Heat(view.canvas("plan"));
    view.in("text").value = app.options.small ? LINES.slice(0, 120) : LINES;
    if (app.options.small) Object.assign(view.in("k"), { max: "32", value: "8" });
    view.watch(["k", "eps", "iterations"], () => {
      const { k, eps, iterations } = this.#settings;
      view.say("k", whole.format(k));
      view.say("eps", short.format(eps));
      view.say("iterations", whole.format(iterations));
      this.#soon();
    });
    view.watch(["temperature"], () => view.say("temperature", short.format(this.#temperature)));
    view.in("exact").onchange = () => {
      view.in("iterations").disabled = view.in("exact").checked;
      this.#soon();
    };
    view.in("layer").onchange = () => this.#again();
    view.in("text").onchange = () => this.#again();
    view.button("train").onclick = () => this.#run.go("Making the model", () => this.#train());
    view.button("descend").onclick = () => this.#run.go("Compiling", () => this.#descend());
    view.button("sinkhorn").onclick = () => this.#run.go("Compiling", () => this.#balance());
    onColours(() => this.#colour());
  }

  get #settings() {
    const view = this.#view;
    return {
      k: view.number("k"),
      eps: 10 ** view.number("eps"),
      iterations: view.number("iterations"),
      exact: view.in("exact").checked,
    };
  }

  get #temperature(): number {
    return 10 ** this.#view.number("temperature");
  }

  /** A fresh router's taste, as soon as the panel is seen. */
  async open(): Promise<void> {
    if (!this.#kept.model) {
      const options = this.app.options.small ? SMALL : BIG;
      this.#kept.replace(await RoutedDecoder.create(this.app.device, { ...options, seed: this.app.options.seed }));
    }
    await this.#score();
  }

  #again(): void {
    this.app.soon(() => this.#score());
  }

  async #train(): Promise<void> {
    const { small } = this.app.options;
    const model = this.#kept.model as RoutedDecoder;
    const steps = small ? 20 : 200;
    const { signal, pipelines } = this.#run;
    const before = (await model.info()).steps;
    const length = small ? 48 : 128;
    let last = NaN;
    for await (const { step, loss } of model.train(PROSE, { steps, batch: small ? 2 : 8, length, lr: 3e-3, warmup: 10, signal, onProgress: pipelines })) {
      last = loss;
      this.#view.say("trained", `Step ${whole.format(step)}, loss ${loss.toFixed(3)} nats a byte.`);
      await this.#run.pulse(step - before, steps, `Step ${step}, loss ${loss.toFixed(3)}`);
      await this.#kept.save(false);
    }
    await this.#kept.save();
    this.#view.say("trained", `Trained for ${whole.format(before + steps)} steps to ${last.toFixed(3)} nats a byte.`);
    await this.#score();
  }

  /** The router's scores of the text. */
  async #score(): Promise<void> {
    const model = this.#kept.model;
    if (!model) return;
    this.#tokens = encode(this.#view.in("text").value);
    if (this.#tokens.length < 2) return;
    const layers = await model.scores(this.#tokens);
    const chosen = layers[Math.min(this.#view.number("layer"), layers.length - 1)];
    if (!chosen) return;
    this.#raw = chosen;
    this.#write();
    await this.#soften();
  }

  /** A plan by its name; made once. */
  #plan(name: string, build: (graph: Graph) => Vars): Promise<Plan<Vars>> {
    const found = this.#plans.get(name);
    if (found) return found;
    const graph = new Graph();
    const made = graph.compile(this.app.device, build(graph));
    // Sliders leave many behind.
    for (const [old, plan] of this.#plans) {
      if (this.#plans.size < 24) break;
      this.#plans.delete(old);
      plan.then((p) => p.free()).catch(() => {});
    }
    this.#plans.set(name, made);
    made.catch(() => this.#plans.delete(name)).finally(() => graph.free());
    return made;
  }

  /** After the last of several moves of a slider. */
  #soon(): void {
    const mine = ++this.#wanted;
    setTimeout(() => {
      if (mine !== this.#wanted || this.app.busy || this.#raw.length === 0) return;
      this.app.soon(() => this.#soften());
    }, 60);
  }

  /** The shares as the library's own operation gives them. */
  async #soften(): Promise<void> {
    const n = this.#raw.length;
    const { k, eps, iterations, exact } = this.#settings;
    const count = Math.min(k, n);
    const plan = await this.#plan(`soft ${n} ${count} ${eps} ${exact ? "exact" : iterations}`, (graph) => {
      const how = exact ? { eps } : { eps, iterations };
      return { shares: graph.input("raw", [n]).softTopK(count, how) };
    });
    const { shares } = await plan.run({ raw: this.#raw });
    if (!shares || shares.length !== this.#raw.length) return;
    this.#shares = shares;
    this.#colour();
    const sum = shares.reduce((a, b) => a + b, 0);
    const view = this.#view;
    view.say("sum", `${sum.toFixed(3)} of ${count}`);
    view.say("range", `${short.format(Math.max(...shares))} and ${short.format(Math.min(...shares))}`);
    const chosen = [...shares.keys()].sort((a, b) => (this.#raw[b] ?? 0) - (this.#raw[a] ?? 0)).slice(0, count);
    const counts = new Map<string, number>();
    for (const i of chosen) counts.set(shown(this.#tokens[i] ?? 0), (counts.get(shown(this.#tokens[i] ?? 0)) ?? 0) + 1);
    const often = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 8);
    view.say("chosen", often.map(([byte, n]) => `${byte === " " ? "space" : byte} ×${n}`).join(", "));
  }

  /** A span a byte. */
  #write(): void {
    const spans = Array.from(this.#tokens, (byte) => element("span", "", shown(byte)));
    this.#view.out("text").replaceChildren(...spans);
  }

  #colour(): void {
    const accent = colour("accent");
    const spans = this.#view.out("text").children;
    for (const [i, share] of this.#shares.entries()) {
      const span = spans[i] as HTMLElement | undefined;
      if (!span) continue;
      const strong = Math.min(Math.max(share, 0), 1);
      span.style.background = `color-mix(in srgb, ${accent} ${Math.round(strong * 100)}%, transparent)`;
      span.style.color = strong > 0.55 ? colour("on-accent") : "";
    }
  }

  /** Coordinate descent by hand, an iteration a run: the same graph, its own result fed back. */
  async #descend(): Promise<void> {
    const n = this.#raw.length;
    const { k, eps, iterations, exact } = this.#settings;
    const count = Math.min(k, n);
    const plan = await this.#plan(`step ${n}`, (graph) => {
      const [s, b] = [graph.input("s", [n]), graph.input("b", [n])];
      const [e, logK] = [graph.input("eps", [1]), graph.input("logk", [1])];
      const a = e.mul(logK.sub(s.add(b).div(e).logsumexp(0)));
      const next = s.add(a).relu().neg();
      return { b: next, shares: s.add(a).add(next).div(e).exp() };
    });
    this.#descent.clear();
    let b = this.#raw.map((s) => -s);
    const all = exact ? 100 : iterations;
    for (let i = 1; i <= all; i++) {
      const found = await plan.run({ s: this.#raw, b, eps: new Float32Array([eps]), logk: new Float32Array([Math.log(count)]) });
      b = found.b as Float32Array<ArrayBuffer>;
      this.#shares = found.shares as Float32Array;
      this.#descent.add(i, this.#shares.reduce((x, y) => x + y, 0), count);
      this.#colour();
      await this.#run.pulse(i, all, `Iteration ${i} of ${all}`);
      await new Promise((resolve) => setTimeout(resolve, FRAME_MS / 2));
    }
  }

  /** Sinkhorn's plan after each number of iterations. */
  async #balance(): Promise<void> {
    const { rows, columns, iterations } = PLAN;
    const temperature = this.#temperature;
    const name = (i: number) => `plan.${i}`;
    const plan = await this.#plan(`sinkhorn ${temperature}`, (graph) => {
      const scores = graph.input("scores", [rows, columns]);
      const all: Vars = {};
      for (let i = 1; i <= iterations; i++) all[name(i)] = scores.sinkhorn({ iterations: i, temperature });
      return all;
    });
    // The scores are those of the text, a piece a row.
    const n = Math.max(this.#raw.length, 1);
    const deviation = Math.sqrt(this.#raw.reduce((sum, x) => sum + x * x, 0) / n) || 1;
    const scores = Float32Array.from({ length: rows * columns }, (_, i) => (this.#raw[(i * 7 + Math.floor(i / columns) * 5) % n] ?? 0) / deviation);
    const found = await plan.run({ scores });
    this.#sinkhorn.clear();
    for (let i = 1; i <= iterations; i++) {
      const p = found[name(i)] as Float32Array;
      this.#heat.show(p, rows, columns);
      let error = 0;
      for (let c = 0; c < columns; c++) {
        let sum = 0;
        for (let r = 0; r < rows; r++) sum += p[r * columns + c] ?? 0;
        error = Math.max(error, Math.abs(sum - 1));
      }
      let across = 0;
      for (let r = 0; r < rows; r++) across = Math.max(across, Math.abs(p.subarray(r * columns, (r + 1) * columns).reduce((x, y) => x + y, 0) - 1));
      this.#sinkhorn.add(i, Math.max(error, across));
      await this.#run.pulse(i, iterations, `Iteration ${i} of ${iterations}`);
      await new Promise((resolve) => setTimeout(resolve, FRAME_MS));
    }
  }

  lost(): void {
    this.#kept.lost();
    this.#plans.clear();
  }

  async recover(): Promise<void> {
    await this.#kept.recover();
    await this.open();
  }
}

/** A byte as a reader sees it. */
function shown(byte: number): string {
  if (byte === 10) return "↵";
  if (byte === 32) return " ";
  return byte < 33 || byte > 126 ? "·" : String.fromCharCode(byte);
}
