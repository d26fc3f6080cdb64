import init, { checkCustom, checkSample, Device, sampleNames, shaders, TrainerDemo } from "../../pkg/wgrad.js";
import { failure } from "./failure.js";
import { readOptions } from "./options.js";
import type { CheckResults } from "./results.js";

const results: CheckResults = { state: "running", device: null, shaders: 0, checked: 0, losses: [], failures: [] };
window.__wgrad = results;

function say(id: string, text: string): void {
  const found = document.getElementById(id);
  if (found) found.textContent = text;
}

function report(name: string, message: string): void {
  results.failures.push(`${name}: ${message}`);
  const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
  [term.textContent, detail.textContent] = [name, message];
  document.getElementById("failures")?.append(term, detail);
}

/** Every shader through the browser's own compiler, whose rules are stricter than those of the native one. */
async function compileShaders(): Promise<void> {
  const adapter = await navigator.gpu?.requestAdapter();
  const device = await adapter?.requestDevice();
  if (!device) throw new Error("this browser offers no WebGPU adapter to compile shaders for");
  for (const { name, text } of await shaders()) {
    device.pushErrorScope("validation");
    const { messages } = await device.createShaderModule({ label: name, code: text }).getCompilationInfo();
    await device.popErrorScope();
    const errors = messages.filter((message) => message.type === "error");
    for (const { lineNum, linePos, message } of errors) report(name, `${lineNum}:${linePos}: ${message}`);
    results.shaders += 1;
    say("summary", `${results.shaders} shaders compiled`);
  }
  device.destroy();
}

/** A training run that other machines do too, a step at a time. */
async function train(device: Device, steps: number, seed: number): Promise<void> {
  const trainer = await TrainerDemo.create(device, seed);
  const bar = document.querySelector("progress");
  for (let step = 1; step <= steps; step++) {
    const loss = await trainer.step();
    results.losses.push(loss);
    if (bar) bar.value = step / steps;
    say("summary", `${step} of ${steps} steps, loss ${loss.toFixed(4)}`);
  }
  results.state = "done";
}

/** Every operation's samples on the executor that the address asks for, against double precision on the CPU. */
async function run(): Promise<void> {
  const options = readOptions(location.search);
  await init();
  const device = await Device.request(options.executor, options.software, false, false);
  results.device = device.isGpu ? `WebGPU: ${device.adapter}` : "CPU executor";
  say("device", results.device);
  say("limits", device.toString());
  if (options.steps !== null) return train(device, options.steps, options.seed);
  if (device.isGpu) await compileShaders();
  // A kernel that is not the library's, through its gradient.
  await checkCustom(device).catch((error: unknown) => report("a kernel of one's own", failure(error).message));
  const names = sampleNames(new URLSearchParams(location.search).get("filter") ?? "");
  const bar = document.querySelector("progress");
  for (const [index, name] of names.entries()) {
    try {
      await checkSample(device, name);
    } catch (error) {
      const { code, message } = failure(error);
      report(name, message);
      // Nothing can pass after these.
      if (code === "panic" || code === "device-lost") throw error;
    }
    results.checked = index + 1;
    if (bar) bar.value = results.checked / names.length;
    say("summary", `${results.checked} of ${names.length} samples, ${results.failures.length} failed`);
    await new Promise((resolve) => setTimeout(resolve));
  }
  results.state = "done";
  document.body.dataset.state = results.failures.length === 0 ? "passed" : "failed";
}

run().catch((error: unknown) => {
  results.state = "failed";
  document.body.dataset.state = "failed";
  report("The check stopped", failure(error).message);
});
