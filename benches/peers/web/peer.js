// One page with all libraries, driven by lines on standard input: `prepare NAME OP NUMBER..`, `run NAME TIMES`, `drop NAME`,
// `quit`. Each is answered by a line of JSON.
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const here = import.meta.dirname;
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json" };
// Precise clocks, and threads for those who want them.
const HEADERS = { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp" };

async function file(request, response) {
  const path = normalize(new URL(request.url, "http://localhost").pathname);
  const place = path.startsWith("/package/") ? join(here, "../../../web", path) : join(here, path);
  try {
    const body = await readFile(place);
    response.writeHead(200, { ...HEADERS, "content-type": TYPES[extname(place)] ?? "text/plain" }).end(body);
  } catch {
    response.writeHead(404).end();
  }
}

async function open() {
  const server = createServer(file);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const places = [process.env.WGRAD_CHROMIUM, "/usr/bin/chromium", "/usr/bin/google-chrome"];
  const executablePath = places.find((path) => path && existsSync(path));
  if (!executablePath) throw new Error("No Chromium found: install one, or set WGRAD_CHROMIUM to its path.");
  // The flags of web/playwright.config.ts: no sandbox, as containers run as root.
  const args = ["--no-sandbox", "--no-first-run", "--disable-quic", "--disable-sync", "--disable-background-networking", "--disable-component-update", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];
  const browser = await chromium.launch({ executablePath, args });
  const page = await browser.newPage();
  page.on("console", (message) => console.error(`page: ${message.text()}`));
  page.on("pageerror", (error) => console.error(`page: ${error.message}`));
  await page.goto(`http://127.0.0.1:${server.address().port}/index.html`);
  await page.waitForFunction(() => "peers" in window);
  return { server, browser, page };
}

const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

const { server, browser, page } = await open();
const about = await page.evaluate((names) => window.peers.start(names), (process.argv[2] ?? "").split(","));
answer({ about, browser: `Chromium ${browser.version()}` });
for await (const line of createInterface({ input: process.stdin })) {
  const [verb, name, ...rest] = line.trim().split(/\s+/);
  if (verb === "quit") break;
  const args = verb === "prepare" ? [name, rest[0], rest.slice(1).map(Number)] : [name, ...rest.map(Number)];
  try {
    answer(await page.evaluate(([verb, args]) => window.peers[verb](...args), [verb, args]));
  } catch (error) {
    answer({ first_ms: null, error: error.message.split("\n")[0] });
  }
}
await browser.close();
server.close();
