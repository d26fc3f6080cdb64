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
const webgpu = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];
const withWebgpu = browser(...webgpu);
// A canvas of WebGPU needs the browser's own drawing on the same driver.
const withCanvas = browser(...webgpu, "--enable-features=Vulkan", "--use-vulkan=swiftshader", "--use-angle=swiftshader");
const SHARED = /shared device/;

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
    { name: "webgpu", testMatch: /(demo|check|access|csp)\.spec\.ts/, grepInvert: SHARED, use: withWebgpu },
    { name: "canvas", testMatch: /(shared|csp)\.spec\.ts/, grep: SHARED, use: withCanvas },
    // A browser in which `requestAdapter` finds nothing.
    { name: "no-webgpu", testMatch: ["demo.spec.ts", "no-webgpu.spec.ts"], use: browser("--disable-gpu") },
    { name: "packed-webgpu", testMatch: "packed.spec.ts", use: withWebgpu },
    { name: "packed-no-webgpu", testMatch: "packed.spec.ts", use: browser("--disable-gpu") },
  ],
});
