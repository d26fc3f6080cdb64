import { expect, test } from "./site.js";

test("a browser that has never heard of WebGPU is served too", async ({ page, site }) => {
  // Nor of module workers: training runs on the page's own thread.
  await page.addInitScript(() => {
    Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined });
    Object.defineProperty(window, "Worker", { value: undefined });
  });
  await page.goto(`${site}?steps=3`);
  await expect(page.locator("#place")).toHaveText("on the page's own thread");
  await expect(page.getByRole("status")).toContainText("CPU executor: this browser offers no WebGPU");
  await expect(page.getByRole("button")).toHaveText("Continue");
});

test("a GPU that was asked for and is not there is an error", async ({ page, site }) => {
  await page.goto(`${site}?executor=gpu`);
  await expect(page.getByRole("alert")).toContainText("no-adapter");
  await expect(page.getByRole("alert")).toContainText("no GPU adapter fits the request");
});
