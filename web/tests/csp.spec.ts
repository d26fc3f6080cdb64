import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { test as base, expect } from "@playwright/test";
import { preview } from "vite";

/** Nothing but what the page's own server sends, and no script or style inside a document. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "worker-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
].join("; ");
const PANELS = ["recall", "learn", "route", "carry", "bench"];

/** The built page from a server that sends the policy with every answer, those to workers too. */
const test = base.extend<{ complaints: string[] }, { site: string }>({
  site: [
    async ({}, use) => {
      const root = fileURLToPath(new URL("..", import.meta.url));
      const headers = { "content-security-policy": POLICY };
      const server = await preview({ root, logLevel: "error", preview: { host: "127.0.0.1", port: 0, headers } });
      const address = server.resolvedUrls?.local[0];
      if (!address) throw new Error("vite's preview server has no address");
      await use(address);
      await server.close();
    },
    { scope: "worker" },
  ],
  // What the browser says of the policy, whether the page or a worker broke it.
  complaints: async ({ page }, use) => {
    const found: string[] = [];
    page.on("console", (message) => /content security policy/i.test(message.text()) && found.push(message.text()));
    await page.exposeFunction("complain", (text: string) => found.push(text));
    await page.addInitScript(() => {
      addEventListener("securitypolicyviolation", (event) => {
        void Reflect.get(globalThis, "complain")(`${event.violatedDirective}: ${event.blockedURI} ${event.sourceFile}`);
      });
    });
    await use(found);
  },
});

for (const executor of ["cpu", "gpu"] as const) {
  test(`the page keeps to a strict policy on the ${executor}`, async ({ page, site, complaints }) => {
    for (const panel of PANELS) {
      await page.goto("about:blank");
      const response = await page.goto(`${site}?executor=${executor}&software=1&small=1#${panel}`);
      expect(response?.headers()["content-security-policy"]).toBe(POLICY);
      await expect(page.locator("body")).toHaveAttribute("data-state", "ready");
      await expect(page.locator(`#${panel}`)).toBeVisible();
    }
    // Something that computes and draws.
    await page.locator('#bench [data-do="bench"]').click();
    await expect(page.locator("body")).toHaveClass(/busy/);
    await expect(page.locator("body")).not.toHaveClass(/busy/, { timeout: 280_000 });
    expect(complaints).toEqual([]);
  });
}

test("the page of checks keeps to it too", async ({ page, site, complaints }) => {
  await page.goto(`${site}check.html?executor=cpu&filter=softmax`);
  await expect(page.locator("body")).toHaveAttribute("data-state", "passed");
  expect(complaints).toEqual([]);
});

test("the page of a shared device keeps to it too", async ({ page, site, complaints }) => {
  await page.goto(`${site}shared.html?software=1&small=1&steps=1`);
  await expect(page.locator("body")).toHaveAttribute("data-state", "noise");
  expect(complaints).toEqual([]);
});

test("a page that breaks the policy is noticed", async ({ page, site, complaints }) => {
  await page.goto(`${site}check.html?executor=cpu&filter=none`);
  await page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "globalThis.ran = true";
    document.body.append(script);
  });
  await expect.poll(() => complaints.length).toBeGreaterThan(0);
  expect(await page.evaluate(() => "ran" in globalThis)).toBe(false);
});

test("documents hold no script, style or handler of their own", () => {
  const dist = fileURLToPath(new URL("../dist", import.meta.url));
  const documents = readdirSync(dist).filter((name) => name.endsWith(".html"));
  expect(documents.sort()).toEqual(["check.html", "index.html", "shared.html"]);
  for (const name of documents) {
    const text = readFileSync(join(dist, name), "utf8");
    for (const [script, attributes] of text.matchAll(/<script([^>]*)>/g)) expect(attributes, `${name}: ${script}`).toContain("src=");
    expect(text, name).not.toMatch(/<style|<[^>]+\s(on\w+|style)=/);
    expect(text, name).not.toContain("javascript:");
  }
});
