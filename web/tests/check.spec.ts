import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { CheckResults } from "../demo/src/results.js";
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

for (const executor of ["gpu", "cpu"]) {
  test(`training in the tab gives the native losses on the ${executor} executor`, async ({ page, site }) => {
    const { seed, losses } = native();
    await page.goto(`${site}check.html?software=1&executor=${executor}&steps=${losses.length}&seed=${seed}`);
    await page.waitForFunction(() => window.__wgrad?.state !== "running");
    const results = (await page.evaluate(() => window.__wgrad)) as CheckResults;
    expect(results.failures).toEqual([]);
    expect(results.device).toContain(executor === "gpu" ? "WebGPU: google swiftshader" : "CPU executor");
    expect(results.losses).toHaveLength(losses.length);
    const differences = results.losses.map((loss, i) => Math.abs(loss - (losses[i] ?? Infinity)));
    expect(Math.max(...differences)).toBeLessThan(1e-3);
    expect(results.losses.at(-1)).toBeLessThan((losses[0] ?? 0) - 1);
  });

  test(`every operation's samples agree with the oracle on the ${executor} executor`, async ({ page, site }) => {
    test.setTimeout(600_000);
    await page.goto(`${site}check.html?software=1&executor=${executor}`);
    await page.waitForFunction(() => window.__wgrad?.state !== "running", undefined, { timeout: 590_000 });
    const results = (await page.evaluate(() => window.__wgrad)) as CheckResults;
    expect(results.failures).toEqual([]);
    expect(results.state).toBe("done");
    expect(results.checked).toBeGreaterThan(50);
    if (executor === "gpu") expect(results.shaders).toBeGreaterThan(20);
    console.log(`${results.device}: ${results.checked} samples, ${results.shaders} shaders`);
  });
}
