import { existsSync } from "node:fs";
import { defineConfig } from "@playwright/test";

const places = [
  process.env.WGRAD_CHROMIUM,
  "/usr/bin/chromium",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];
const executablePath = places.find((path) => path && existsSync(path));
if (!executablePath) throw new Error("No Chromium found: install one, or set WGRAD_CHROMIUM to its path.");

// A test browser talks to the page's own server and to nobody else. No sandbox: containers run as root.
const args = [
  "--no-sandbox",
  "--no-first-run",
  "--disable-quic",
  "--disable-sync",
  "--disable-background-networking",
  "--disable-component-update",
];
const browser = (...more: string[]) => ({ launchOptions: { executablePath, args: [...args, ...more] } });

// Chromium's own software adapter: the same on every machine, with a GPU and without.
const withWebgpu = browser("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader");

export default defineConfig({
  testDir: "tests",
  // A software adapter compiles and runs slowly, more so on a busy machine.
  timeout: 300_000,
  expect: { timeout: 120_000 },
  workers: 1,
  forbidOnly: !!process.env.CI,
  reporter: "list",
  projects: [
    { name: "shaders", testMatch: "shaders.spec.ts", use: withWebgpu },
    { name: "webgpu", testMatch: ["demo.spec.ts", "check.spec.ts", "access.spec.ts", "csp.spec.ts"], use: withWebgpu },
    // A browser in which `requestAdapter` finds nothing.
    { name: "no-webgpu", testMatch: ["demo.spec.ts", "no-webgpu.spec.ts"], use: browser("--disable-gpu") },
    { name: "packed-webgpu", testMatch: "packed.spec.ts", use: withWebgpu },
    { name: "packed-no-webgpu", testMatch: "packed.spec.ts", use: browser("--disable-gpu") },
  ],
});
