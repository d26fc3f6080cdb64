import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { TrainingResults } from "../src/results.js";
import { expect, test } from "./site.js";

interface Reference {
  seed: number;
  losses: number[];
}

/** The same training run natively: `cargo run --example web_reference > target/web-reference.json`. */
function native(): Reference {
  const path = process.env.WGRAD_WEB_REFERENCE ?? join(import.meta.dirname, "../../target/web-reference.json");
  return JSON.parse(readFileSync(path, "utf8")) as Reference;
}

test("training in the tab gives the native losses", async ({ page, site }, info) => {
  const { seed, losses } = native();
  const errors: string[] = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(`${site}?software=1&steps=${losses.length}&seed=${seed}`);
  await page.waitForFunction(() => ["done", "failed"].includes(window.__wgrad?.state ?? ""));

  const results = (await page.evaluate(() => window.__wgrad)) as TrainingResults;
  expect(results.failure).toBeNull();
  expect(results.where).toBe("worker");
  const status = page.getByRole("status");
  if (info.project.name === "webgpu") {
    await expect(status).toContainText("WebGPU: google swiftshader");
    console.log(`adapter: ${results.device?.replace("WebGPU: ", "")}, and without WebGPU`);
  } else {
    await expect(status).toContainText("CPU executor: this browser offers no WebGPU");
  }
  expect(results.losses).toHaveLength(losses.length);
  const differences = results.losses.map((loss, i) => Math.abs(loss - (losses[i] ?? Infinity)));
  expect(Math.max(...differences)).toBeLessThan(1e-3);
  expect(results.losses.at(-1)).toBeLessThan((losses[0] ?? 0) - 1);
  expect(results.sample).not.toBeNull();
  expect(errors).toEqual([]);
});

test("training starts, stops and goes on", async ({ page, site }) => {
  await page.goto(`${site}?software=1`);
  const button = page.getByRole("button");
  await button.click();
  await expect(button).toHaveText("Stop");
  await expect(page.locator("#tokens-rate")).toHaveText(/\d/);
  await button.click();
  await expect(button).toHaveText("Continue");
  const steps = await page.locator("#step").textContent();
  await button.click();
  await expect(page.locator("#step")).not.toHaveText(steps ?? "");
  await button.click();
  await expect(button).toHaveText("Continue");
});

test("a wrong address is answered on the page", async ({ page, site }) => {
  await page.goto(`${site}?executor=abacus`);
  await expect(page.getByRole("alert")).toContainText("?executor=abacus: expected auto, gpu, cpu.");
});
