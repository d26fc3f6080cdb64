import "./style.css";
import { LossChart } from "./chart.js";
import { type Found, PROMPT, type Progress } from "./engine.js";
import { type Failure, failure } from "./failure.js";
import { readOptions } from "./options.js";
import { Rate } from "./rate.js";
import type { TrainingResults } from "./results.js";
import { open, type Session } from "./session.js";

function element<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as T;
}

const results: TrainingResults = {
  state: "opening",
  device: null,
  isGpu: null,
  where: null,
  losses: [],
  sample: null,
  failure: null,
};
window.__wgrad = results;

const button = element<HTMLButtonElement>("toggle");
const numbers = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en");
const chart = new LossChart(element("chart"));
const rate = new Rate();

const LABELS: Record<TrainingResults["state"], string> = {
  opening: "Loading…",
  ready: "Start training",
  training: "Stop",
  stopping: "Stopping…",
  stopped: "Continue",
  done: "Continue",
  failed: "Reload",
};

function enter(state: TrainingResults["state"]): void {
  results.state = state;
  document.body.dataset.state = state;
  button.disabled = state === "opening" || state === "stopping";
  button.textContent = LABELS[state];
}

function fail(what: Failure): void {
  results.failure = what;
  element("error-title").textContent = results.device ? "Training stopped." : "The page cannot start.";
  if (!results.device) element("device").textContent = "No executor";
  element("error-text").textContent = what.message;
  element("error-code").textContent = what.code ?? "";
  element("error").hidden = false;
  enter("failed");
  // A new page is a new device: a lost one does not come back.
  button.onclick = () => location.reload();
}

function show(session: Session, { step, loss, at }: Progress): void {
  results.losses.push(loss);
  chart.add(step, loss);
  element("step").textContent = whole.format(step);
  element("loss").textContent = loss.toFixed(3);
  const steps = rate.add(step, at);
  if (steps === null) return;
  element("steps-rate").textContent = numbers.format(steps);
  element("tokens-rate").textContent = whole.format(Math.round(steps * session.ready.tokensPerStep));
}

function name({ device, isGpu }: Found): void {
  Object.assign(results, { device, isGpu });
  element("executor").dataset.kind = isGpu ? "gpu" : "cpu";
  element("device").textContent = device;
  element("place").textContent = isGpu ? "compiling kernels…" : "";
}

function announce({ ready, where }: Session): void {
  results.where = where;
  element("place").textContent = where === "worker" ? "in a worker" : "on the page's own thread";
  element("tokens-per-step").textContent = whole.format(ready.tokensPerStep);
  element("parameters").textContent = whole.format(ready.parameters);
}

async function run(): Promise<void> {
  const options = readOptions(location.search);
  let session: Session | undefined;
  session = await open(options, {
    found: name,
    progress: (progress) => session && show(session, progress),
    wrote: (text) => {
      results.sample = text;
      element("sample").textContent = text;
      element("sample-step").textContent = `after step ${element("step").textContent}`;
    },
    idle: () => enter(results.state === "stopping" ? "stopped" : "done"),
    failed: fail,
  });
  const opened = session;
  announce(opened);
  element("prompt").textContent = PROMPT;
  const start = () => {
    rate.clear();
    enter("training");
    opened.train(options.steps);
  };
  button.onclick = () => {
    if (results.state !== "training") return start();
    enter("stopping");
    opened.stop();
  };
  enter("ready");
  if (options.steps !== null) start();
}

addEventListener("error", (event) => fail(failure(event.error ?? event.message)));
addEventListener("unhandledrejection", (event) => fail(failure(event.reason)));
run().catch((error: unknown) => fail(failure(error)));
