import { execFile } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { extname, join } from "node:path";
import { promisify } from "node:util";
import { expect, test as base } from "@playwright/test";
import { build } from "vite";
import webpack from "webpack";

const sh = promisify(execFile);
const web = join(import.meta.dirname, "..");
const project = join(web, "../target/packed");

const TYPES: Record<string, string> = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };

/** A server of static files that knows nothing of modules. */
function serve(folder: string): Promise<Server> {
  const server = createServer((request, response) => {
    try {
      const path = join(folder, new URL(request.url ?? "/", "http://localhost").pathname);
      const body = readFileSync(path.endsWith("/") ? `${path}index.html` : path);
      response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "text/html" }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

const MAIN = `
import * as wgrad from "wgrad";
import { run } from "./journey.js";
const options = Object.fromEntries(new URLSearchParams(location.search));
run(wgrad, { ...options, software: true }).then(
  (result) => (globalThis.__result = { result }),
  (error) => (globalThis.__result = { error: error.stack ?? String(error) }),
);
`;
/** Spoiled inputs, as many as the address says. */
const HURT = `
import * as wgrad from "wgrad";
import { hurt } from "./inputs.js";
const { trials, seed } = Object.fromEntries(new URLSearchParams(location.search));
wgrad.init({ software: true }).then((device) => hurt(wgrad, device, Number(trials), Number(seed))).then(
  (result) => (globalThis.__result = { result }),
  (error) => (globalThis.__result = { error: error.stack ?? String(error) }),
);
`;
const IMPORTS = JSON.stringify({ imports: { wgrad: "./node_modules/wgrad/dist/index.js" } });

/** A page without a bundler. */
const page = (main: string) =>
  `<!doctype html><script type="importmap">${IMPORTS}</script><script type="module" src="${main}"></script>`;

/** The project by webpack, with its defaults. */
function pack(): Promise<void> {
  const output = { path: join(project, "webpack"), filename: "main.js" };
  return new Promise((resolve, reject) => {
    webpack({ mode: "production", context: project, entry: "./main.js", output }, (error, stats) => {
      const problems = error?.message ?? (stats?.hasErrors() ? stats.toString("errors-only") : undefined);
      if (problems) return reject(new Error(problems));
      writeFileSync(join(project, "webpack/index.html"), `<!doctype html><script src="./main.js"></script>`);
      resolve();
    });
  });
}

/** A project that has the packed package installed, and a server of what was made of it. */
const test = base.extend<object, { site: string }>({
  site: [
    async ({}, use) => {
      rmSync(project, { recursive: true, force: true });
      mkdirSync(project, { recursive: true });
      await sh("npm", ["pack", "--pack-destination", project, join(web, "package")], { cwd: project });
      const [packed = ""] = readdirSync(project);
      const manifest = { name: "packed", private: true, type: "module" };
      writeFileSync(join(project, "package.json"), JSON.stringify(manifest));
      await sh("npm", ["install", "--offline", "--no-audit", "--no-fund", "--legacy-peer-deps", packed], { cwd: project });
      cpSync(join(web, "tests/journey.js"), join(project, "journey.js"));
      cpSync(join(web, "tests/inputs.js"), join(project, "inputs.js"));
      writeFileSync(join(project, "main.js"), MAIN);
      writeFileSync(join(project, "hurt.js"), HURT);
      writeFileSync(join(project, "hurt.html"), page("./hurt.js"));
      writeFileSync(join(project, "index.html"), `<!doctype html><script type="module" src="./main.js"></script>`);
      writeFileSync(join(project, "plain.html"), page("./main.js"));
      await build({ root: project, base: "./", logLevel: "error", build: { target: "es2022", outDir: "vite" } });
      await pack();
      const server = await serve(project);
      const address = server.address();
      if (typeof address !== "object" || !address) throw new Error("the server has no address");
      await use(`http://127.0.0.1:${address.port}/`);
      server.close();
    },
    { scope: "worker", timeout: 300_000 },
  ],
});

/** What `journey.js` gives, as far as it is looked at. */
interface Result {
  kind: string;
  adapter: string;
  reason?: string;
  worker: boolean;
  limits: number;
  graph: {
    refused: { name: string; code: string; message: string };
    losses: number[];
    values: number[];
    indices: number[];
    state: number[];
    pairs: number[];
    sums: number[];
  };
  /** Each is what came out, or the error in words. */
  kernel: {
    values: [number[], number[], number[]] | string;
    right: number | string;
    wrong: string;
    short: string;
    broken: string;
    shape: string;
    builtIn: number | string;
  };
  seen: {
    loss: [number, number];
    slots: [number, number, number, boolean];
    changed: string[];
    table: string;
    recognised: [string, number, string, number];
    scores: number[];
    kept: [number, number, number[], number][];
    labelled: [number, number];
    state: number[];
  };
  model: {
    info: { kind: string; parameters: number };
    losses: number[];
    onwards: number[];
    resumed: number[];
    text: string;
    aborted: string;
    flat: [number, number, number];
    wrong: { name: string; code: string };
    /** From `init` to the first step's loss. */
    ms: number;
    pipelines: number;
  };
  other: { found: { losses: number[]; onwards: number[]; resumed: number[]; count: number }[]; refused: string };
  lost?: { code: string; expected: number[]; resumed: number[] };
}

/** A kernel of one's own: on a GPU it is right, and what is wrong with one is said; the CPU executor refuses it. */
function checkKernel({ kind, kernel }: Result): void {
  expect(kernel.shape).toMatch(/^ShapeError shape: cube: expected 2 inputs, got 1/);
  expect(kernel.builtIn).toBeLessThan(0.02);
  if (kind === "cpu") {
    for (const refused of [kernel.values, kernel.right]) expect(refused).toMatch(/^ArgumentError argument: .*cube/);
    return;
  }
  const x = Array.from({ length: 8 }, (_, i) => (i % 2 ? Math.sin(0.7 * i) : 0));
  const expected = [x.map((v) => v ** 3), x.map((v) => v ** 9), x.map((v) => 9 * v ** 8)];
  for (const [i, values] of (kernel.values as number[][]).entries()) {
    for (const [j, value] of values.entries()) expect(value).toBeCloseTo(expected[i]?.[j] ?? NaN, 4);
  }
  expect(kernel.right).toBeLessThan(0.02);
  expect(kernel.wrong).toMatch(/^ArgumentError argument: gradcheck: gradient of input 0: .* by the tape, .* by differences/);
  expect(kernel.short).toMatch(/^ArgumentError argument: gradient of cube.*: expected 2 cotangents, .*, got 1/);
  expect(kernel.broken).toMatch(/^DeviceError shader-compile: shader cube does not compile/);
}

function check(result: Result): void {
  const { graph, model, other, seen, lost } = result;
  expect(graph.refused).toMatchObject({ name: "ShapeError", code: "shape" });
  expect(graph.refused.message).toContain("matmul");
  expect(graph.losses[0]).toBeCloseTo(63, 3);
  expect(graph.losses[1]).toBeLessThan(10);
  expect(graph.values).toEqual([3, 2, 6, 5]);
  expect(graph.indices).toEqual([2, 1, 0, 1]);
  // Best pairs of (1 2 3) with itself: 3 + 3 and 3 + 2; of (6 5 4): 6 + 6 and 6 + 5.
  expect(graph.pairs).toEqual([8, 7, 0, 1]);
  // Rows 0 and 1 of (1 2 3), (6 5 4), by 3 and 2; then by 6 and 5.
  expect(graph.sums).toEqual([15, 16, 17, 36, 37, 38]);
  checkKernel(result);
  expect(model.info).toMatchObject({ kind: "infini", parameters: 29204 });
  expect(model.losses).toHaveLength(8);
  expect(model.losses[7]).toBeLessThan((model.losses[0] ?? 0) - 1);
  // Saving and loading lose nothing, not a bit.
  expect(model.resumed).toEqual(model.onwards);
  expect(model.text).toHaveLength(20);
  expect(model.aborted).toBe("AbortError");
  expect(model.flat[0]).toBe(model.flat[1]);
  expect(model.flat[2]).toBe(4 * 900);
  expect(model.wrong).toEqual({ name: "CheckpointError", code: "checkpoint" });
  expect(seen.loss[0]).toBeGreaterThan(5);
  expect(seen.loss[1]).toBe(99);
  // Every byte but the last reads 16 slots with either head; of the chosen ones, and nothing else, some have changed.
  expect(seen.slots).toEqual([99 * 2 * 16, 8, expect.any(Number), true]);
  expect(seen.slots[2]).toBeGreaterThan(0);
  expect(seen.changed).toEqual([seen.table]);
  expect(seen.recognised).toEqual(["pkm", 0, "recurrent", 0]);
  expect(seen.scores).toEqual([100, 100]);
  expect(seen.kept.map(([tokens]) => tokens)).toEqual([16, 32, 48, 64, 80, 96]);
  expect(seen.kept[0]?.[2]).toEqual([1, 16, 32]);
  expect(new Set(seen.kept.map(([, , , first]) => first)).size).toBe(6);
  expect(seen.labelled[0]).toBeCloseTo(seen.labelled[1], 3);
  expect(seen.state).toEqual([1, 2, 16, 16]);
  expect(other.found).toHaveLength(4);
  for (const { losses, onwards, resumed, count } of other.found) {
    expect(losses[2]).toBeLessThan(losses[0] ?? 0);
    expect(resumed).toEqual(onwards);
    expect(count).toBe(3);
  }
  expect(other.refused).toBe("argument: model.head: is no option here; check the spelling");
  if (result.kind === "gpu") {
    expect(result.limits).toBeGreaterThan(20);
    expect(lost?.code).toBe("device-lost");
    expect(lost?.resumed).toEqual(lost?.expected);
  }
}

for (const [place, path] of [
  ["a plain page", "plain.html"],
  ["Vite's page", "vite/"],
  ["webpack's page", "webpack/"],
] as const) {
  test(`the package in ${place}`, async ({ page, site }, info) => {
    const errors: string[] = [];
    page.on("pageerror", (error) => errors.push(error.message));
    await page.goto(site + path);
    await page.waitForFunction(() => "__result" in globalThis);
    const { result, error } = (await page.evaluate(() => Reflect.get(globalThis, "__result"))) as {
      result: Result;
      error?: string;
    };
    expect(error).toBeUndefined();
    check(result);
    expect(errors).toEqual([]);
    if (info.project.name === "packed-webgpu") expect(result).toMatchObject({ kind: "gpu", worker: false });
    else {
      expect(result).toMatchObject({ kind: "cpu", worker: true });
      expect(result.reason).toContain("no WebGPU");
    }
    console.log(`${place}: ${result.adapter}: first training step ${result.model.ms} ms after init, ${result.model.pipelines} pipelines`);
  });
}

test("a GPU in a worker", async ({ page, site }, info) => {
  test.skip(info.project.name !== "packed-webgpu");
  await page.goto(`${site}plain.html?worker=true`);
  await page.waitForFunction(() => "__result" in globalThis);
  const { result, error } = (await page.evaluate(() => Reflect.get(globalThis, "__result"))) as {
    result: Result;
    error?: string;
  };
  expect(error).toBeUndefined();
  expect(result).toMatchObject({ kind: "gpu", worker: true });
  check(result);
});

/** How many spoiled inputs are tried, from which seed on. */
const TRIALS = Number(process.env.WGRAD_FUZZ_TRIALS ?? 150);
const SEED = Number(process.env.WGRAD_FUZZ_SEED ?? 1);

function refusals(where: string, counts: Record<string, number>): void {
  console.log(`${where}: ${TRIALS} spoiled inputs: ${JSON.stringify(counts)}`);
  const { accepted = 0, ...refused } = counts;
  expect(Object.values(refused).reduce((a, b) => a + b, accepted)).toBe(TRIALS);
  expect(accepted).toBeLessThan(TRIALS / 2);
}

test("spoiled inputs are refused in a page", async ({ page, site }) => {
  await page.goto(`${site}hurt.html?trials=${TRIALS}&seed=${SEED}`);
  await page.waitForFunction(() => "__result" in globalThis, undefined, { timeout: 280_000 });
  const { result, error } = (await page.evaluate(() => Reflect.get(globalThis, "__result"))) as {
    result: Record<string, number>;
    error?: string;
  };
  expect(error).toBeUndefined();
  refusals("a page", result);
});

test("spoiled inputs are refused in Node", async ({ site }, info) => {
  test.skip(info.project.name === "packed-webgpu", "once is enough");
  expect(site).toContain("http");
  const script = `
    import * as wgrad from "wgrad";
    import { hurt } from "./inputs.js";
    const device = await wgrad.init({ executor: "cpu" });
    console.log("RESULT " + JSON.stringify(await hurt(wgrad, device, ${TRIALS}, ${SEED})));
    process.exit(0);`;
  writeFileSync(join(project, "hurt.mjs"), script);
  const { stdout } = await sh("node", ["hurt.mjs"], { cwd: project });
  refusals("Node", JSON.parse(/^RESULT (.*)$/m.exec(stdout)?.[1] ?? "{}") as Record<string, number>);
});

/** The journey in a Node process of its own; what it printed if there is no adapter for it. */
async function inNode(name: string, options: object): Promise<Result | string> {
  const script = `
    import * as wgrad from "wgrad";
    import { run } from "./journey.js";
    const result = await run(wgrad, ${JSON.stringify(options)}).catch((error) => {
      if (error.code === "no-adapter") return error.message;
      throw error;
    });
    console.log("RESULT " + JSON.stringify(result));
    process.exit(0);`;
  writeFileSync(join(project, name), script);
  const { stdout } = await sh("node", [name], { cwd: project });
  const line = stdout.split("\n").find((text) => text.startsWith("RESULT "));
  return JSON.parse(line?.slice(7) ?? "null") as Result | string;
}

test("the package in Node", async ({ site }, info) => {
  test.skip(info.project.name === "packed-webgpu", "once is enough");
  expect(site).toContain("http");
  const result = (await inNode("node.mjs", { executor: "cpu" })) as Result;
  expect(result).toMatchObject({ kind: "cpu", worker: false });
  check(result);
});

test("the package in Node with Dawn", async ({ site }, info) => {
  test.skip(info.project.name !== "packed-webgpu", "once is enough");
  expect(site).toContain("http");
  // What `npm install webgpu` would do; its binaries are in the package.
  symlinkSync(join(web, "node_modules/webgpu"), join(project, "node_modules/webgpu"), "junction");
  const result = await inNode("dawn.mjs", { executor: "gpu", software: true });
  // `cargo xtask test` names a driver; without one this machine may have none.
  if (typeof result === "string") {
    expect(process.env.WGRAD_TEST_ADAPTER, result).toBeUndefined();
    test.skip(true, result);
    return;
  }
  expect(result).toMatchObject({ kind: "gpu", worker: false });
  check(result);
  console.log(`Node with Dawn: ${result.adapter}: first training step ${result.model.ms} ms after init`);
});
