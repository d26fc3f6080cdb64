import { type DType, Graph, Store, type Var } from "wgrad";
import type { App, Panel } from "../app.js";
import { Run } from "../run.js";
import { element, short, View } from "../ui.js";

/** Median time of a kernel, and what it did in it. */
interface Result {
  kernel: string;
  size: string;
  ms: number;
  rate: number;
  unit: "GFLOP/s" | "GB/s" | "M rows/s" | "M entries/s";
}

interface Case {
  kernel: string;
  size: string;
  unit: Result["unit"];
  /** In the unit's billions, or millions, a run. */
  work: number;
  build(graph: Graph, state: State): Var<DType>;
}

/** A tensor of random numbers that is on the device before the clock starts. */
type State = (name: string, shape: number[]) => Var;

function cases(small: boolean): Case[] {
  const n = small ? 128 : 1024;
  const rows = small ? 16 : 256;
  const wide = small ? 1024 : 16_384;
  const [table, width, hits] = small ? [1024, 32, 1024] : [65_536, 64, 65_536];
  const [heads, tokens, d] = small ? [2, 128, 16] : [8, 1024, 64];
  const qkv = [1, heads, tokens, d];
  return [
    { kernel: "matmul", size: `${n} × ${n} × ${n}`, unit: "GFLOP/s", work: (2 * n ** 3) / 1e9, build: (_, s) => s("a", [n, n]).matmul(s("b", [n, n])) },
    { kernel: "top-k", size: `${rows} × ${wide}, k 32`, unit: "M entries/s", work: (rows * wide) / 1e6, build: (g, s) => s("a", [rows, wide]).topK(32).values },
    { kernel: "soft top-k, 20 iterations", size: `${rows} × ${wide}, k 64`, unit: "M entries/s", work: (rows * wide) / 1e6, build: (g, s) => s("a", [rows, wide]).softTopK(64, { iterations: 20 }) },
    { kernel: "soft top-k, exact", size: `${rows} × ${wide}, k 64`, unit: "M entries/s", work: (rows * wide) / 1e6, build: (g, s) => s("a", [rows, wide]).softTopK(64) },
    { kernel: "gather", size: `${hits} rows of ${width}`, unit: "GB/s", work: (2 * hits * width * 4) / 1e9, build: (g, s) => s("a", [table, width]).gather(places(g, hits, table)) },
    { kernel: "weighted gather", size: `${hits} rows of ${width}, 32 each`, unit: "GB/s", work: (hits * width * 4) / 1e9, build: (g, s) => s("a", [table, width]).weightedGather(places(g, hits, table).reshape([hits / 32, 32]), g.full([hits / 32, 32], 0.5)) },
    { kernel: "attention, causal", size: `${heads} heads, ${tokens} tokens, ${d}`, unit: "GFLOP/s", work: (2 * heads * tokens ** 2 * d) / 1e9, build: (_, s) => s("a", qkv).attention(s("b", qkv), s("c", qkv), { causal: true }) },
  ];
}

/** Places all over a table, in no order. */
const places = (graph: Graph, hits: number, rows: number): Var<"u32"> => graph.iota([hits], 0).mul(40_503).rem(rows);

const LIMIT_MS = 500;

/** How fast kernels run here. */
export class Bench implements Panel {
  #view = new View("bench");
  #run: Run;
  #results: Result[] = [];

  constructor(readonly app: App) {
    const view = this.#view;
    this.#run = new Run(view.run(), app);
    view.button("bench").onclick = () => this.#run.go("Compiling", () => this.#bench());
    view.button("copy").onclick = () => this.#copy();
  }

  async #bench(): Promise<void> {
    const view = this.#view;
    this.#results = [];
    view.out("results").replaceChildren();
    view.say("where", `${this.app.device.adapter}; times are medians`);
    const all = cases(this.app.options.small);
    for (const [i, test] of all.entries()) {
      await this.#run.pulse(i, all.length, test.kernel);
      const ms = await this.#time(test);
      this.#results.push({ kernel: test.kernel, size: test.size, ms, rate: (1000 * test.work) / ms, unit: test.unit });
      this.#show();
    }
    await this.#run.pulse(all.length, all.length, "Done");
    view.button("copy").disabled = false;
  }

  /** Median of runs, each as many times in a row as take a few milliseconds, and one small reading. */
  async #time({ build }: Case): Promise<number> {
    const graph = new Graph();
    const store = await Store.create(this.app.device);
    const filling: Promise<void>[] = [];
    const value = build(graph, (name, shape) => {
      const count = shape.reduce((a, b) => a * b, 1);
      // Numbers in no order, the same for everybody.
      const numbers = Float32Array.from({ length: count }, (_, i) => ((Math.imul(i + 1, 0x9e3779b9) >>> 8) / 2 ** 24) * 2 - 1);
      filling.push(store.set(name, numbers, shape));
      return graph.state(name, shape);
    });
    await Promise.all(filling);
    // A number that depends on the result: reading it is waiting for it.
    const flat = value.reshape([value.shape.reduce((a, b) => a * b, 1)]);
    const plan = await graph.compile(this.app.device, { value, first: flat.slice(0, 0, 1) }, { onProgress: this.#run.pipelines });
    try {
      return await this.#median(async (read) => void (await plan.run({}, { store, read })));
    } finally {
      for (const thing of [plan, store, graph]) thing.free();
    }
  }

  async #median(run: (read: ["first"] | []) => Promise<void>): Promise<number> {
    const once = async (times: number) => {
      const from = performance.now();
      for (let i = 1; i < times; i++) await run([]);
      await run(["first"]);
      return (performance.now() - from) / times;
    };
    const first = await once(1);
    const times = Math.min(Math.max(Math.round(20 / Math.max(await once(1), first / 50)), 1), 32);
    const found: number[] = [];
    const end = performance.now() + LIMIT_MS;
    do found.push(await once(times));
    while (performance.now() < end && found.length < 25 && !this.#run.signal.aborted);
    return found.sort((a, b) => a - b)[found.length >> 1] ?? NaN;
  }

  #show(): void {
    const most = new Map<string, number>();
    for (const { unit, rate } of this.#results) most.set(unit, Math.max(most.get(unit) ?? 0, rate));
    const rows = this.#results.map(({ kernel, size, ms, rate, unit }) => {
      const row = element("tr");
      const head = element("th", "", kernel);
      head.scope = "row";
      const bar = element("meter");
      bar.value = rate / (most.get(unit) || 1);
      bar.setAttribute("aria-label", `${Math.round(100 * bar.value)} % of the best in ${unit}`);
      const cell = element("td");
      cell.append(bar);
      row.append(head, element("td", "", size), element("td", "", `${short.format(ms)} ms`), element("td", "", `${short.format(rate)} ${unit}`), cell);
      return row;
    });
    this.#view.out("results").replaceChildren(...rows);
  }

  async #copy(): Promise<void> {
    const { adapter, kind, limits } = this.app.device;
    const text = JSON.stringify({ adapter, kind, agent: navigator.userAgent, maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize, results: this.#results }, null, 2);
    try {
      await navigator.clipboard.writeText(text);
      this.#view.say("copied", "Copied.");
    } catch {
      this.app.alert("The browser does not let this page copy.", "", text);
    }
  }

  lost(): void {}

  async recover(): Promise<void> {}
}
