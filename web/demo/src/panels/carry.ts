import { BlockRecurrentTransformer, encode } from "wgrad";
import { type App, Kept, type Panel } from "../app.js";
import { Chart, LossChart } from "../chart.js";
import { Heat } from "../heat.js";
import { Run } from "../run.js";
import { PROSE } from "../texts.js";
import { View, whole } from "../ui.js";
import { dropped } from "./learn.js";

const BIG = { dim: 96, depth: 2, heads: 4, dimHead: 24, blockWidth: 32, maxSeqLen: 128, numStateVectors: 32, recurrentLayers: [2] };
const SMALL = { ...BIG, dim: 32, heads: 2, dimHead: 16, blockWidth: 16, maxSeqLen: 48, numStateVectors: 16 };

/** A block-recurrent transformer reads a long text, with what it hands on and without. */
export class Carry implements Panel {
  #view = new View("carry");
  #run: Run;
  #kept: Kept<BlockRecurrentTransformer>;
  #loss: LossChart;
  #along: Chart;
  #states: Heat;
  #change: Heat;

  constructor(readonly app: App) {
    const view = this.#view;
    this.#run = new Run(view.run(), app);
    this.#kept = new Kept(app, (device, source) => BlockRecurrentTransformer.load(device, source));
    this.#kept.buttons(view.button("train").parentElement as Element, "carry", async () => {
      view.button("read").disabled = false;
    });
    this.#loss = new LossChart(view.chart("loss"));
    this.#along = new Chart(view.chart("along"), {
      lines: [{ colour: "accent", width: 3 }, { colour: "warm", width: 2, dash: [6, 4] }],
      x: "tokens read",
      y: "the mean loss so far, with states and without",
      low: null,
    });
    this.#states = new Heat(view.canvas("states"));
    this.#change = new Heat(view.canvas("change"));
    view.in("text").value = app.options.small ? PROSE.slice(0, 4000) : PROSE;
    if (app.options.small) view.in("steps").value = "20";
    dropped(view.in<HTMLTextAreaElement>("text"), app);
    view.button("train").onclick = async () => {
      if (await this.#run.go("Making the model", () => this.#train())) await this.#run.go("Opening the text", () => this.#read());
    };
    view.button("read").onclick = () => this.#run.go("Opening the text", () => this.#read());
  }

  get #options(): typeof BIG {
    return this.app.options.small ? SMALL : BIG;
  }

  async #train(): Promise<void> {
    const view = this.#view;
    const { small, seed } = this.app.options;
    const text = view.in("text").value;
    const steps = Math.max(1, Math.round(view.number("steps")));
    if (!this.#kept.model) {
      this.#loss.clear();
      this.#kept.replace(await BlockRecurrentTransformer.create(this.app.device, { ...this.#options, seed }));
    }
    const model = this.#kept.model as BlockRecurrentTransformer;
    const before = (await model.info()).steps;
    const { signal, pipelines } = this.#run;
    const how = { steps, batch: small ? 2 : 8, length: this.#options.maxSeqLen, lr: 3e-3, warmup: 10, signal, onProgress: pipelines };
    try {
      for await (const { step, loss, tokensPerSecond } of model.train(text.slice(0, Math.ceil(0.9 * text.length)), how)) {
        this.#loss.loss(step, loss);
        view.say("loss", loss.toFixed(3));
        view.say("step", `step ${whole.format(step)}, ${whole.format(tokensPerSecond)} tokens a second`);
        await this.#run.pulse(step - before, steps, `Step ${step}, loss ${loss.toFixed(3)}`);
        await this.#kept.save(false);
      }
    } finally {
      if (document.body.dataset.state === "ready") {
        await this.#kept.save();
        view.button("read").disabled = false;
      }
    }
  }

  /** Reads the text block by block: once handing states on, and beside it without. */
  async #read(): Promise<void> {
    const view = this.#view;
    const model = this.#kept.model as BlockRecurrentTransformer;
    const { options } = await model.info();
    const length = Number(options.blockWidth ?? 64);
    const tokens = encode(view.in("text").value);
    const blocks = Math.floor((tokens.length - 1) / length);
    if (blocks < 1) throw new Error(`The text is too short: a block has ${length} bytes.`);
    const { signal, pipelines } = this.#run;
    const together = { length, signal, onProgress: pipelines };
    const [kept, fresh] = [model.read(tokens, together), model.read(tokens, { ...together, forget: true })];
    this.#along.clear();
    let [withStates, without, done] = [0, 0, 0];
    let last: Float32Array | undefined;
    for await (const { tokens: at, loss, states } of kept) {
      const { value } = await fresh.next();
      done += 1;
      withStates += loss;
      without += value?.loss ?? NaN;
      const [bank] = states;
      if (bank) {
        const [, rows = 1, columns = 1] = bank.shape;
        this.#states.show(bank.data, rows, columns);
        const before = last;
        if (before) this.#change.show(bank.data.map((x, i) => x - (before[i] ?? 0)), rows, columns);
        last = bank.data;
      }
      this.#along.add(at, withStates / done, without / done);
      view.say("blocks", whole.format(done));
      view.say("tokens", `${whole.format(at)} tokens`);
      view.say("with", (withStates / done).toFixed(3));
      view.say("without", (without / done).toFixed(3));
      await this.#run.pulse(done, blocks, `Block ${done} of ${blocks}`);
    }
  }

  lost(): void {
    this.#kept.lost();
    this.#view.button("read").disabled = true;
  }

  async recover(): Promise<void> {
    await this.#kept.recover();
    this.#view.button("read").disabled = !this.#kept.model;
  }
}
