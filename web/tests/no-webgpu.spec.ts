import { expect, test } from "./site.js";

test("a browser that has never heard of WebGPU is served too", async ({ page, site }) => {
  await page.addInitScript(() => Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined }));
  await page.goto(site);
  await expect(page.getByRole("status")).toHaveText("No WebGPU in this browser.");
});
