import { expect, test } from "./site.js";

test("a browser that has never heard of WebGPU is served too", async ({ page, site }) => {
  // Nor of module workers: all work is done on the page's own thread.
  await page.addInitScript(() => {
    Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined });
    Object.defineProperty(window, "Worker", { value: undefined });
  });
  await page.goto(`${site}?small=1#learn`);
  await expect(page.locator("#executor")).toContainText("CPU executor");
  await expect(page.locator("#place")).toHaveText("this browser offers no WebGPU; on the page's own thread");
  await page.locator('#learn [data-in="steps"]').fill("3");
  await page.locator('#learn [data-do="train"]').click();
  await expect(page.locator('#learn [data-out="sample"]')).toHaveText(/^The /);
});

test("a GPU that was asked for and is not there is an error", async ({ page, site }) => {
  await page.goto(`${site}?executor=gpu`);
  await expect(page.getByRole("alert")).toContainText("no-adapter");
  await expect(page.getByRole("alert")).toContainText("no GPU adapter fits the request");
});
