import { chooseSlots, decode, ProductKeyTransformer, type SlotUsage, type TrainOptions } from "wgrad";
import { type App, Kept, type Panel } from "../app.js";
import { Chart, LossChart } from "../chart.js";
import { Heat } from "../heat.js";
import { Run } from "../run.js";
import { CODE, PROSE } from "../texts.js";
import { element, short, View, whole } from "../ui.js";

const BIG = { dim: 96, depth: 2, heads: 4, seqLen: 64, numKeys: 64, topk: 16, memoryHeads: 4, memoryDimHead: 32, pkmLayers: [2] };
const SMALL = { ...BIG, dim: 32, heads: 2, seqLen: 32, numKeys: 16, topk: 4, memoryHeads: 2, memoryDimHead: 16 };
/** Learning rates: of everything, of the slots while all learns, and of the slots where only they may. */
const RATE = { lr: 2e-3, valuesLr: 1e-2, sparse: 0.1 };
/** Bytes of a text that losses and slots are measured on. */
const MEASURED = 2048;
/** Milliseconds between two looks at the slots. */
const LOOK = 4000;

/** Two ways to learn a second text. */
interface Way {
  name: string;
  slots: Uint32Array | undefined;
}

/** Product-key memory learns the reader's text, then another without forgetting. */
export class Learn implements Panel {
  #view = new View("learn");
  #run: Run;
  #kept: Kept<ProductKeyTransformer>;
  #loss: LossChart;
  #heat: Heat;
  #old: Chart;
  #new: Chart;
  #looked = 0;

  constructor(readonly app: App) {
    const view = this.#view;
    this.#run = new Run(view.run(), app);
    this.#kept = new Kept(app, (device, source) => ProductKeyTransformer.load(device, source));
    this.#kept.buttons(view.button("train").parentElement as Element, "learn", () => this.#trained());
    this.#loss = new LossChart(view.chart("loss"));
    this.#heat = new Heat(view.canvas("slots"));
    const lines = [{ colour: "accent", width: 3 }, { colour: "warm", width: 2, dash: [6, 4] }];
    const both = (y: string) => ({ lines, x: "steps of fine-tuning", y, low: null });
    this.#old = new Chart(view.chart("old"), both("the loss on the first text, sparse and with all parameters"));
    this.#new = new Chart(view.chart("new"), both("the loss on the second text, sparse and with all parameters"));
    const [text, second] = [view.in("text"), view.in("second")];
    [text.value, second.value] = [PROSE, CODE];
    for (const area of [text, second]) dropped(area as unknown as HTMLTextAreaElement, app);
    const { small } = app.options;
    if (small) {
      view.in("steps").value = "30";
      Object.assign(view.in("count"), { min: "10", step: "10", value: "40" });
    }
    view.watch(["count"], () => view.say("count", `${whole.format(view.number("count"))} of ${whole.format((small ? SMALL : BIG).numKeys ** 2)}`));
    view.button("train").onclick = () => this.#run.go("Making the model", () => this.#train());
    view.button("tune").onclick = () => this.#run.go("Looking for slots", () => this.#tune());
  }

  get #options(): typeof BIG {
    return this.app.options.small ? SMALL : BIG;
  }

  #how(): TrainOptions {
    const { small } = this.app.options;
    const { signal, pipelines } = this.#run;
    return { batch: small ? 4 : 16, length: this.#options.seqLen, lr: RATE.lr, warmup: 10, signal, onProgress: pipelines };
  }

  async #train(): Promise<void> {
    const view = this.#view;
    const text = view.in("text").value;
    const steps = Math.max(1, Math.round(view.number("steps")));
    if (!this.#kept.model) {
      const options = { ...this.#options, valuesLr: RATE.valuesLr, seed: this.app.options.seed };
      this.#kept.replace(await ProductKeyTransformer.create(this.app.device, options));
    }
    const model = this.#kept.model as ProductKeyTransformer;
    const { parameters, steps: before } = await model.info();
    view.say("parameters", `${whole.format(parameters)} parameters`);
    if (before === 0) this.#loss.clear();
    try {
      for await (const { step, loss, tokensPerSecond } of model.train(text, { ...this.#how(), steps })) {
        this.#loss.loss(step, loss);
        view.say("loss", loss.toFixed(3));
        view.say("step", whole.format(step));
        view.say("rate", whole.format(tokensPerSecond));
        await this.#run.pulse(step - before, steps, `Step ${step}, loss ${loss.toFixed(3)}`);
        if (performance.now() - this.#looked > LOOK) await this.#look();
        await this.#kept.save(false);
      }
    } finally {
      // Stopped or done: what there is, is shown and can be tuned.
      if (document.body.dataset.state === "ready") await this.#trained();
    }
  }

  async #trained(): Promise<void> {
    const model = this.#kept.model;
    if (!model) return;
    this.#run.warm("Looking at what it learned");
    const { steps } = await model.info();
    this.#view.say("step", whole.format(steps));
    await this.#look();
    await this.#kept.save();
    await this.#write(model);
    this.#view.button("tune").disabled = false;
    this.#view.say("tuned", "");
  }

  async #usage(text: string): Promise<SlotUsage> {
    const [usage] = await (this.#kept.model as ProductKeyTransformer).usage(text.slice(0, MEASURED), { length: this.#options.seqLen });
    if (!usage) throw new Error("the model of this file has no memory");
    return usage;
  }

  async #look(): Promise<void> {
    const usage = await this.#usage(this.#view.in("text").value);
    const side = Math.round(Math.sqrt(usage.slots));
    this.#heat.show(Float32Array.from(usage.hits, (hits) => Math.log1p(hits)), side, side);
    this.#view.say("used", `${short.format(100 * usage.shareUsed)} %`);
    this.#view.say("slots", `of ${whole.format(usage.slots)} on ${whole.format(MEASURED)} bytes`);
    this.#looked = performance.now();
  }

  async #write(model: ProductKeyTransformer): Promise<void> {
    const prompt = "The ";
    const tokens: number[] = [];
    for await (const token of model.generate(prompt, { count: this.app.options.small ? 40 : 240, temperature: 0.7, topP: 0.9 })) tokens.push(token);
    this.#view.say("sample", prompt + decode(tokens));
  }

  async #tune(): Promise<void> {
    const view = this.#view;
    const model = this.#kept.model as ProductKeyTransformer;
    const [first, second] = [view.in("text").value, view.in("second").value];
    const { small } = this.app.options;
    const file = await this.#kept.save();
    if (!file) return;
    const slots = chooseSlots(await this.#usage(second), await this.#usage(first), view.number("count"));
    const chosen = slots.reduce((sum, bit) => sum + bit, 0);
    const measured = { length: this.#options.seqLen, batch: 8 };
    const loss = async (m: ProductKeyTransformer, text: string) => (await m.evaluate(text.slice(0, MEASURED), measured)).loss;
    const before = { old: await loss(model, first), fresh: await loss(model, second) };
    const ways: Way[] = [
      { name: `${whole.format(chosen)} slots`, slots },
      { name: "All parameters", slots: undefined },
    ];
    this.#old.clear();
    this.#new.clear();
    const rows = [row("Before", before.fresh, before.old)];
    view.out("table").replaceChildren(...rows);
    const [steps, every] = small ? [8, 4] : [60, 6];
    const said: string[] = [];
    // The losses of one way lie beside those of the other.
    for (const [i, way] of ways.entries()) {
      const tuned = await ProductKeyTransformer.load(this.app.device, file);
      const start = (await tuned.info()).steps;
      const show = (step: number, old: number, fresh: number) => {
        const at = (value: number) => (i === 0 ? [value, null] : [null, value]) as [number | null, number | null];
        this.#old.add(step, ...at(old));
        this.#new.add(step, ...at(fresh));
      };
      show(0, before.old, before.fresh);
      let [old, fresh] = [before.old, before.fresh];
      try {
        const how = { ...this.#how(), steps, every, ...(way.slots ? { slots: way.slots, valuesLr: RATE.sparse } : {}) };
        for await (const { step } of tuned.train(second, how)) {
          [old, fresh] = [await loss(tuned, first), await loss(tuned, second)];
          show(step - start, old, fresh);
          const text = `${way.name}: step ${step - start} of ${steps}; new ${fresh.toFixed(3)}, first ${old.toFixed(3)}`;
          await this.#run.pulse(i * steps + step - start, ways.length * steps, text);
        }
      } finally {
        tuned.free();
      }
      rows.push(row(way.name, fresh, old, old - before.old));
      view.out("table").replaceChildren(...rows);
      said.push(`${way.name}: learned ${(before.fresh - fresh).toFixed(2)}, forgot ${Math.max(old - before.old, 0).toFixed(2)} nats`);
    }
    view.say("tuned", `${said.join("; ")}.`);
  }

  lost(): void {
    this.#kept.lost();
    this.#view.button("tune").disabled = true;
  }

  async recover(): Promise<void> {
    await this.#kept.recover();
    if (this.#kept.model) await this.#trained();
  }
}

function row(name: string, fresh: number, old: number, forgot?: number): HTMLTableRowElement {
  const made = element("tr");
  const head = element("th", "", name);
  head.scope = "row";
  const sign = forgot === undefined ? "–" : `${forgot > 0 ? "+" : "−"}${Math.abs(forgot).toFixed(3)}`;
  made.append(head, ...[fresh.toFixed(3), old.toFixed(3), sign].map((text) => element("td", "", text)));
  return made;
}

/** Lets a text file be dropped on an area. */
export function dropped(area: HTMLTextAreaElement, app: App): void {
  area.addEventListener("dragover", (event) => event.preventDefault());
  area.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer?.files ?? [];
    if (!file) return;
    event.preventDefault();
    file.text().then(
      (text) => (area.value = text),
      (error: unknown) => app.fail(error),
    );
  });
}
