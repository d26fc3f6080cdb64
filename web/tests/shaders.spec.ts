import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@playwright/test";

interface Shader {
  name: string;
  code: string;
}

interface Report {
  adapter: string;
  pipelines: number;
  problems: string[];
}

/** Every `.wgsl` file that the native shader tests wrote. */
function dumped(): Shader[] {
  const folder = process.env.WGRAD_DUMP_SHADERS ?? join(import.meta.dirname, "../../target/shaders");
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" });
  const names = files.filter((name) => name.endsWith(".wgsl")).sort();
  return names.map((name) => ({ name, code: readFileSync(join(folder, name), "utf8") }));
}

/** Runs in the page: compiles each shader, and makes a pipeline of each entry point. */
async function compile(shaders: Shader[]): Promise<Report> {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw new Error("this browser offers no WebGPU adapter");
  const device = await adapter.requestDevice();
  const problems: string[] = [];
  let pipelines = 0;
  for (const { name, code } of shaders) {
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ label: name, code });
    const { messages } = await module.getCompilationInfo();
    const errors = messages.filter((message) => message.type === "error");
    problems.push(...errors.map((error) => `${name}:${error.lineNum}:${error.linePos}: ${error.message}`));
    const entries = [...code.matchAll(/@compute\b[^{]*?\bfn\s+(\w+)/g)].map((match) => match[1] ?? "");
    if (entries.length === 0) problems.push(`${name}: no compute entry point`);
    for (const entryPoint of errors.length > 0 ? [] : entries) {
      try {
        await device.createComputePipelineAsync({ label: name, layout: "auto", compute: { module, entryPoint } });
        pipelines += 1;
      } catch (error) {
        problems.push(`${name}: ${entryPoint}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    const invalid = await device.popErrorScope();
    if (invalid && errors.length === 0) problems.push(`${name}: ${invalid.message}`);
  }
  const { vendor, architecture } = adapter.info;
  device.destroy();
  return { adapter: `${vendor} ${architecture}`, pipelines, problems };
}

test("the browser compiles every shader", async ({ page }) => {
  const shaders = dumped();
  expect(shaders.length, "no shader was dumped").toBeGreaterThan(0);
  // WebGPU needs a secure context, not a server.
  await page.route("http://localhost/", (route) => route.fulfill({ contentType: "text/html", body: "" }));
  await page.goto("http://localhost/");
  const { adapter, pipelines, problems } = await page.evaluate(compile, shaders);
  console.log(`adapter: ${adapter}, ${shaders.length} shaders, ${pipelines} pipelines`);
  expect(problems).toEqual([]);
});
