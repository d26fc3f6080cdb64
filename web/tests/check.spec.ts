import type { CheckResults } from "../src/results.js";
import { expect, test } from "./site.js";

for (const executor of ["gpu", "cpu"]) {
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
