import { IGNORE, InfiniTransformer, type Labelled, type TextStream } from "wgrad";
import { type App, Kept, type Panel } from "../app.js";
import { Chart, LossChart } from "../chart.js";
import { Heat } from "../heat.js";
import { Run } from "../run.js";
import { sharpen } from "../sharpen.js";
import { bytes, element, View, whole } from "../ui.js";

/** Digits of a code, and what they may be. */
const DIGITS = 6;
const BASE = 10;
/** Tokens: a digit at its place, a question for a place, and letters to walk through. */
const held = (place: number, digit: number) => place * BASE + digit;
const asked = (place: number) => DIGITS * BASE + place;
const LETTERS = 27;
const letter = (i: number) => DIGITS * BASE + DIGITS + i;
const VOCABULARY = DIGITS * BASE + DIGITS + LETTERS;

const SHAPE = { dim: 64, depth: 1, heads: 2, dimHead: 32 };
/** Segments are short while it learns, so that the code is soon out of sight, and long on the walk. */
const TAUGHT = 16;
const WALKED = 256;
const WALKED_SMALL = 32;

/** A lesson: texts so long, so many at a time, for so many steps. At first the code is all there is; then it stands alone. */
interface Lesson {
  length: number;
  batch: number;
  steps: number;
  lr: number;
  /** Steps over which repetitions of the code give way to letters. */
  fade: number;
}

const LESSONS: Lesson[] = [
  { length: 64, batch: 16, steps: 120, lr: 5e-3, fade: 90 },
  { length: 512, batch: 4, steps: 60, lr: 1e-2, fade: 0 },
  { length: 2048, batch: 2, steps: 40, lr: 1e-2, fade: 0 },
];
/** How much larger its queries and keys are on a walk than in its lessons, which are hundreds of times shorter. */
const SHARPER = 4;
const SMALL: Lesson[] = [{ length: 48, batch: 8, steps: 80, lr: 1e-2, fade: 50 }];
/** Questions at the end of a text. */
const QUESTIONS = 16;

/** Whole numbers below `n`, always the same. */
function dice(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return (state >>> 8) % n;
  };
}

function lesson({ length, batch, fade }: Lesson, from: number, roll: (n: number) => number): (step: number) => Labelled {
  return (step) => {
    const ids = new Uint32Array(batch * length);
    const labels = new Uint32Array(batch * length).fill(IGNORE);
    const dense = fade > 0 ? Math.max(0, 1 - (step - from) / fade) : 0;
    for (let row = 0; row < batch * length; row += length) {
      const code = Array.from({ length: DIGITS }, () => roll(BASE));
      const end = length - QUESTIONS;
      for (let t = 0; t < end; t++) {
        const place = t % DIGITS;
        ids[row + t] = roll(1000) < 1000 * dense ? held(place, code[place] ?? 0) : letter(roll(LETTERS));
      }
      const start = roll(TAUGHT - DIGITS);
      code.forEach((digit, place) => (ids[row + start + place] = held(place, digit)));
      for (let t = end; t < length; t++) {
        const place = roll(DIGITS);
        ids[row + t] = asked(place);
        labels[row + t] = held(place, code[place] ?? 0);
      }
    }
    return { ids, labels };
  };
}

/** Infini-attention holds a code over any distance. */
export class Recall implements Panel {
  #view = new View("recall");
  #run: Run;
  #kept: Kept<InfiniTransformer>;
  #loss: LossChart;
  #memory: Chart;
  #heat: Heat;
  #stream: TextStream | undefined;
  #walker: InfiniTransformer | undefined;
  #code: number[] = [];
  #distance = 0;

  constructor(readonly app: App) {
    const view = this.#view;
    this.#run = new Run(view.run(), app);
    this.#kept = new Kept(app, (device, source) => InfiniTransformer.load(device, source));
    this.#kept.buttons(view.button("train").parentElement as Element, "recall", async () => this.#taught("Read from the file."));
    this.#loss = new LossChart(view.chart("loss"), { memory: 0.85, y: Math.log(BASE) });
    this.#memory = new Chart(view.chart("memory"), {
      lines: [{ colour: "accent", width: 3 }, { colour: "warm", width: 2, dash: [6, 4] }],
      x: "tokens read",
      y: "bytes of this model's memory and of a key-value cache",
      logX: true,
      logY: true,
      format: bytes,
    });
    this.#heat = new Heat(view.canvas("memory"));
    if (app.options.small) view.in("distance").value = "2";
    view.watch(["distance"], () => {
      this.#distance = Math.round(10 ** view.number("distance"));
      view.say("distance", whole.format(this.#distance));
    });
    view.button("train").onclick = () => this.#run.go("Making the model", () => this.#train());
    view.button("walk").onclick = async () => {
      if (await this.#run.go("Setting out", () => this.#walk())) await this.#run.go("Asking", () => this.#ask());
    };
    view.button("ask").onclick = () => this.#run.go("Asking", () => this.#ask());
    this.#blank("–");
  }

  get #segment(): number {
    return this.app.options.small ? WALKED_SMALL : WALKED;
  }

  #blank(text: string): void {
    this.#view.out("digits").replaceChildren(...Array.from({ length: DIGITS }, () => element("li", "", text)));
  }

  async #train(): Promise<void> {
    const { app } = this;
    this.#forget();
    this.#loss.clear();
    const options = { ...SHAPE, numTokens: VOCABULARY, segmentLength: TAUGHT, ffMult: 2, detachEvery: 1 << 20, headGateInitValue: -2 };
    const model = await InfiniTransformer.create(app.device, { ...options, seed: app.options.seed });
    this.#kept.replace(model);
    const lessons = app.options.small ? SMALL : LESSONS;
    const all = lessons.reduce((sum, { steps }) => sum + steps, 0);
    const roll = dice(app.options.seed);
    let from = 0;
    for (const [i, part] of lessons.entries()) {
      const { length, batch, steps, lr } = part;
      const { signal, pipelines } = this.#run;
      const how = { steps, batch, length, lr, weightDecay: 0, signal, onProgress: pipelines };
      for await (const { step, loss } of model.train(lesson(part, from, roll), how)) {
        this.#loss.loss(step, loss);
        await this.#run.pulse(step, all, `Lesson ${i + 1} of ${lessons.length}, ${length} tokens: step ${step} of ${all}, loss ${loss.toFixed(3)}`);
        await this.#kept.save(false);
      }
      from += steps;
    }
    await this.#kept.save();
    this.#taught(`Taught for ${all} steps.`);
  }

  #taught(text: string): void {
    this.#forget();
    this.#view.say("taught", text);
    this.#view.button("walk").disabled = false;
  }

  #forget(): void {
    this.#stream?.free();
    this.#walker?.free();
    this.#stream = this.#walker = undefined;
    this.#view.button("ask").disabled = true;
  }

  /** The same model with sharper queries and keys and longer segments: a walk is faster, and the code is in the memory alone all the same. */
  async #reader(): Promise<InfiniTransformer> {
    const file = this.#kept.file ?? (await this.#kept.save());
    if (!file) throw new Error("there is no model yet");
    this.#walker ??= await InfiniTransformer.load(this.app.device, sharpen(file, SHARPER), { options: { segmentLength: this.#segment } });
    return this.#walker;
  }

  async #walk(): Promise<void> {
    const view = this.#view;
    const typed = view.in("code").value;
    if (!/^[0-9]{6}$/.test(typed)) {
      view.in("code").focus();
      throw new Error(`"${typed}" is not six digits.`);
    }
    this.#code = [...typed].map(Number);
    this.#stream?.free();
    const model = await this.#reader();
    const stream = await model.stream({ onProgress: this.#run.pipelines });
    this.#stream = stream;
    this.#memory.clear();
    this.#blank("·");
    view.say("verdict", "");
    await stream.feed(this.#code.map((digit, place) => held(place, digit)));
    const roll = dice(7);
    // To the end of a segment, so that nothing of it is in sight of the question.
    const segment = this.#segment;
    const end = Math.ceil((this.#distance + DIGITS) / segment) * segment;
    const [started, steps] = [performance.now(), 48];
    let next = segment;
    while (stream.tokens < end) {
      const count = Math.min(next, end) - stream.tokens;
      await stream.feed(Uint32Array.from({ length: count }, () => letter(roll(LETTERS))), { signal: this.#run.signal });
      await this.#look();
      const rate = stream.tokens / ((performance.now() - started) / 1000);
      await this.#run.pulse(stream.tokens, end, `${whole.format(stream.tokens)} tokens walked, ${whole.format(rate)} a second`);
      // Points lie evenly on the chart's axis, but never further apart than a second's walk.
      const far = Math.min(next * (end / segment) ** (1 / steps), next + Math.max(rate, 4 * segment));
      next = Math.max(Math.ceil(far / segment), next / segment + 1) * segment;
    }
    view.button("ask").disabled = false;
  }

  async #look(): Promise<void> {
    const { tokens, bytes: own } = this.#stream as TextStream;
    const cache = tokens * SHAPE.depth * SHAPE.heads * SHAPE.dimHead * 2 * 4;
    this.#memory.add(tokens, own, cache);
    this.#view.say("bytes", bytes(own));
    this.#view.say("cache", bytes(cache));
    const found = await this.#stream?.read("stream.layers.0.memory.kv");
    if (!found) return;
    const [, heads = 1, rows = 1, columns = 1] = found.shape;
    // Heads side by side; the square root shows what is faint.
    const image = new Float32Array(heads * rows * columns);
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < rows; i++)
        for (let j = 0; j < columns; j++) {
          const x = found.data[(h * rows + i) * columns + j] ?? 0;
          image[i * heads * columns + h * columns + j] = Math.sign(x) * Math.sqrt(Math.abs(x));
        }
    this.#heat.show(image, rows, heads * columns);
  }

  async #ask(): Promise<void> {
    const stream = this.#stream;
    if (!stream) throw new Error("Tell it a code first.");
    const list: HTMLLIElement[] = [];
    let right = 0;
    for (let place = 0; place < DIGITS; place++) {
      await stream.feed([asked(place)]);
      const logits = (await stream.logits()).slice(held(place, 0), held(place, BASE));
      const best = logits.indexOf(Math.max(...logits));
      const sure = 1 / logits.reduce((sum, x) => sum + Math.exp(x - (logits[best] ?? 0)), 0);
      const good = best === this.#code[place];
      right += Number(good);
      const item = element("li", good ? "good" : "bad", String(best));
      const bar = element("meter");
      bar.value = sure;
      bar.setAttribute("aria-label", `sure to ${Math.round(100 * sure)} %`);
      item.append(bar, element("small", "", `${Math.round(100 * sure)} %`));
      list.push(item);
      this.#run.at(place + 1, DIGITS, "Asking");
    }
    this.#view.out("digits").replaceChildren(...list);
    const walked = whole.format(stream.tokens - DIGITS);
    this.#view.say("verdict", `${right} of ${DIGITS} right after ${walked} tokens, from ${bytes(stream.bytes)}.`);
  }

  lost(): void {
    this.#stream = this.#walker = undefined;
    this.#kept.lost();
    this.#view.button("walk").disabled = this.#view.button("ask").disabled = true;
  }

  async recover(): Promise<void> {
    await this.#kept.recover();
    if (this.#kept.model) this.#taught("Recovered.");
  }
}

