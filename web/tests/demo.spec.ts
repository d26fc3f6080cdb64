import { readFileSync } from "node:fs";
import type { Page } from "@playwright/test";
import { expect, test } from "./site.js";

/** Opens a panel of the page at the size for tests. */
async function open(page: Page, site: string, panel: string, query = ""): Promise<void> {
  await page.goto(`${site}?software=1&small=1${query}#${panel}`);
  await expect(page.locator("body")).toHaveAttribute("data-state", "ready");
}

const act = (page: Page, panel: string, what: string) => page.locator(`#${panel} [data-do="${what}"]`).click();
const out = (page: Page, panel: string, name: string) => page.locator(`#${panel} [data-out="${name}"]`);
const number = async (page: Page, panel: string, name: string) =>
  Number((await out(page, panel, name).textContent())?.replace(/[^0-9.]/g, ""));
/** Waits until nothing runs. */
const idle = async (page: Page) => {
  await expect(page.locator("body")).toHaveClass(/busy/, { timeout: 5000 }).catch(() => {});
  await expect(page.locator("body")).not.toHaveClass(/busy/, { timeout: 280_000 });
};
/** How many different colours a canvas has. */
const colours = (page: Page, name: string) =>
  page.locator(`[data-heat="${name}"]`).evaluate((canvas: HTMLCanvasElement) => {
    const { data } = canvas.getContext("2d")?.getImageData(0, 0, canvas.width, canvas.height) ?? { data: [] };
    return new Set(Array.from({ length: data.length / 4 }, (_, i) => data.slice(4 * i, 4 * i + 3).join())).size;
  });

test.describe("the panels", () => {
  let errors: string[] = [];
  test.beforeEach(({ page }) => {
    errors = [];
    page.on("pageerror", (error) => errors.push(error.message));
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  });
  test.afterEach(() => expect(errors).toEqual([]));

  test("Recall holds a code in a memory that does not grow", async ({ page, site }, info) => {
    await open(page, site, "recall");
    if (info.project.name === "webgpu") {
      await expect(page.locator("#executor")).toContainText("WebGPU: google swiftshader");
      console.log(`adapter: ${(await page.locator("#device").textContent())?.replace("WebGPU: ", "")}, and without WebGPU`);
    } else {
      await expect(page.locator("#executor")).toContainText("CPU executor this browser offers no WebGPU; in a worker");
    }
    await act(page, "recall", "train");
    await expect(out(page, "recall", "taught")).toHaveText("Taught for 80 steps.", { timeout: 280_000 });
    await page.locator('#recall [data-in="code"]').fill("271828");
    await act(page, "recall", "walk");
    await expect(out(page, "recall", "verdict")).toContainText("right after 128 tokens");
    const right = await page.locator("#recall .digits .good").count();
    expect(right).toBeGreaterThanOrEqual(5);
    expect(await colours(page, "memory")).toBeGreaterThan(20);
    const bytes = await out(page, "recall", "bytes").textContent();
    await page.locator('#recall [data-in="distance"]').fill("3");
    await act(page, "recall", "walk");
    await expect(out(page, "recall", "verdict")).toContainText("right after 1,024 tokens");
    expect(await out(page, "recall", "bytes").textContent()).toBe(bytes);
    expect(await out(page, "recall", "cache").textContent()).toBe("524 kB");
  });

  test("Learn trains, shows its slots, and fine-tunes in two ways", async ({ page, site }) => {
    await open(page, site, "learn");
    // The page's own texts change with the documents; the second one here is read from few slots.
    await page.locator('#learn [data-in="text"]').fill("The lamp stood on the third shelf, and Marta wrote. ".repeat(80));
    await page.locator('#learn [data-in="second"]').fill("0123456789 ".repeat(300));
    await act(page, "learn", "train");
    await expect(out(page, "learn", "sample")).toHaveText(/^The /, { timeout: 280_000 });
    expect(await number(page, "learn", "loss")).toBeLessThan(5);
    expect(await number(page, "learn", "step")).toBe(30);
    expect(await number(page, "learn", "used")).toBeGreaterThan(1);
    expect(await colours(page, "slots")).toBeGreaterThan(3);
    await act(page, "learn", "tune");
    await expect(page.locator("#learn tbody tr")).toHaveCount(3, { timeout: 280_000 });
    await idle(page);
    const rows = await page.locator("#learn tbody tr").allTextContents();
    const losses = await page.locator("#learn tbody td:nth-child(2)").allTextContents();
    expect(rows[1]).toContain("40 slots");
    // All parameters learn more; both learn something, or nothing worse.
    const [before = 0, sparse = 0, all = 0] = losses.map(Number);
    expect(sparse).toBeLessThan(before);
    expect(all).toBeLessThan(before);
  });

  test("Route colours a text, and both algorithms converge", async ({ page, site }) => {
    await open(page, site, "route");
    await expect(out(page, "route", "sum")).toHaveText("8.000 of 8");
    await expect(page.locator("#route .routed span")).toHaveCount(120);
    await page.locator('#route [data-in="k"]').fill("16");
    await expect(out(page, "route", "sum")).toHaveText(/^16\.0\d\d of 16$/);
    await page.locator('#route [data-in="iterations"]').fill("2");
    await expect(out(page, "route", "sum")).not.toHaveText(/^16\.0/);
    await page.locator('#route [data-in="exact"]').check();
    await expect(out(page, "route", "sum")).toHaveText("16.000 of 16");
    await act(page, "route", "train");
    await expect(out(page, "route", "trained")).toHaveText(/Trained for 20 steps to [0-4]\./, { timeout: 280_000 });
    await idle(page);
    await act(page, "route", "sinkhorn");
    await idle(page);
    expect(await colours(page, "plan")).toBeGreaterThan(20);
    const said = async (chart: string) => page.locator(`[data-chart="${chart}"]`).getAttribute("aria-label");
    await expect.poll(() => said("sinkhorn")).toMatch(/ 0\.000?\d* at 16$|e-\d+ at 16$/);
    await act(page, "route", "descend");
    await idle(page);
    await expect.poll(() => said("descent")).toContain("16 and 16 at 100");
  });

  test("Carry reads with states and without", async ({ page, site }) => {
    await open(page, site, "carry");
    await act(page, "carry", "train");
    await expect(out(page, "carry", "blocks")).toHaveText(/\d+/, { timeout: 280_000 });
    await idle(page);
    await expect(out(page, "carry", "blocks")).toHaveText(/^2\d\d$/);
    expect(await number(page, "carry", "with")).toBeLessThan(await number(page, "carry", "without"));
    expect(await colours(page, "states")).toBeGreaterThan(20);
    expect(await colours(page, "change")).toBeGreaterThan(20);
  });

  test("Bench fills its table and can be copied", async ({ page, site, context }) => {
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    await open(page, site, "bench");
    await act(page, "bench", "bench");
    await idle(page);
    await expect(page.locator("#bench tbody tr")).toHaveCount(7);
    await act(page, "bench", "copy");
    await expect(out(page, "bench", "copied")).toHaveText("Copied.");
    const { results } = JSON.parse(await page.evaluate(() => navigator.clipboard.readText())) as { results: { ms: number }[] };
    expect(results.every(({ ms }) => ms > 0)).toBe(true);
  });

  test("a run pauses, goes on and stops; a hidden tab waits", async ({ page, site }) => {
    await open(page, site, "learn");
    await page.locator('#learn [data-in="steps"]').fill("5000");
    await act(page, "learn", "train");
    await expect(out(page, "learn", "step")).not.toHaveText("0");
    const run = page.locator("#learn .run");
    const still = async () => {
      // A step that was under way may end.
      await page.waitForTimeout(3000);
      const before = await out(page, "learn", "step").textContent();
      await page.waitForTimeout(2000);
      expect(await out(page, "learn", "step").textContent()).toBe(before);
      return before ?? "";
    };
    await run.getByRole("button", { name: "Pause" }).click();
    await expect(run).toHaveAttribute("data-state", "paused");
    let step = await still();
    await run.getByRole("button", { name: "Go on" }).click();
    await expect(out(page, "learn", "step")).not.toHaveText(step);
    const hide = (hidden: boolean) =>
      page.evaluate((value) => {
        Object.defineProperty(document, "hidden", { value, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
      }, hidden);
    await hide(true);
    await expect(run).toHaveAttribute("data-state", "hidden");
    step = await still();
    await hide(false);
    await expect(out(page, "learn", "step")).not.toHaveText(step);
    await run.getByRole("button", { name: "Stop" }).click();
    await idle(page);
    await expect(run).toBeHidden();
    await expect(page.locator("#alert")).toBeHidden();
    // What it learned until then can be used.
    await expect(page.locator('#learn [data-do="tune"]')).toBeEnabled();
  });

  test("a model goes to a file and back; a wrong file is refused", async ({ page, site }, info) => {
    await open(page, site, "learn");
    await page.locator('#learn [data-in="steps"]').fill("2");
    await act(page, "learn", "train");
    await expect(out(page, "learn", "sample")).toHaveText(/^The /, { timeout: 280_000 });
    await idle(page);
    const [download] = await Promise.all([page.waitForEvent("download"), act(page, "learn", "save")]);
    expect(download.suggestedFilename()).toBe("learn.safetensors");
    const file = info.outputPath("learn.safetensors");
    await download.saveAs(file);
    const load = (panel: string) => page.locator(`#${panel} [data-in="file"]`);
    await load("learn").setInputFiles({ name: "broken.safetensors", mimeType: "", buffer: readFileSync(file).subarray(0, 1000) });
    await expect(page.getByRole("alert")).toContainText("checkpoint");
    await page.getByRole("button", { name: "Dismiss" }).click();
    await load("learn").setInputFiles({ name: "text.txt", mimeType: "text/plain", buffer: Buffer.from("not a model at all") });
    await expect(page.getByRole("alert")).toContainText("checkpoint");
    await page.reload();
    await expect(page.locator("body")).toHaveAttribute("data-state", "ready");
    await load("learn").setInputFiles(file);
    await expect(out(page, "learn", "sample")).toHaveText(/^The /);
    await expect(page.getByRole("alert")).toBeHidden();
    // It goes on where it was.
    await page.locator('#learn [data-in="steps"]').fill("1");
    await act(page, "learn", "train");
    await expect(out(page, "learn", "step")).toHaveText("3");
    await idle(page);
    await page.getByRole("tab", { name: "Recall" }).click();
    await load("recall").setInputFiles(file);
    await expect(page.getByRole("alert")).toContainText('expected a model of kind "infini", the file has "pkm"');
  });
});

test("a device that is lost is replaced, and training goes on", async ({ page, site }, info) => {
  test.skip(info.project.name !== "webgpu");
  await open(page, site, "learn");
  await page.locator('#learn [data-in="steps"]').fill("3");
  await act(page, "learn", "train");
  await expect(out(page, "learn", "sample")).toHaveText(/^The /, { timeout: 280_000 });
  await idle(page);
  await page.locator('#learn [data-in="steps"]').fill("5000");
  await act(page, "learn", "train");
  await expect(out(page, "learn", "step")).not.toHaveText("3");
  // As a driver would: not by a call of the package.
  await page.evaluate(() => {
    const { device } = Reflect.get(window, "wgradDemo");
    return device.link.call("destroy", [device.opened.device]);
  });
  const alert = page.getByRole("alert");
  await expect(alert).toContainText("device-lost");
  await idle(page);
  await alert.getByRole("button", { name: "Recover" }).click();
  await expect(page.locator("body")).toHaveAttribute("data-state", "ready");
  await expect(alert).toBeHidden();
  await expect(page.locator('#learn [data-do="tune"]')).toBeEnabled();
  const kept = await number(page, "learn", "step");
  expect(kept).toBeGreaterThanOrEqual(3);
  await page.locator('#learn [data-in="steps"]').fill("2");
  await act(page, "learn", "train");
  await expect(out(page, "learn", "step")).toHaveText(String(kept + 2));
  await idle(page);
});

test("a wrong address is answered on the page", async ({ page, site }) => {
  await page.goto(`${site}?executor=abacus`);
  await expect(page.getByRole("alert")).toContainText("?executor=abacus: expected auto, gpu, cpu.");
});
