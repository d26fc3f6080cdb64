import type { Page } from "@playwright/test";
import { expect, test } from "./site.js";

interface Seen {
  /** Light on the arms of the spiral, of all light. */
  share: number;
  /** Pixels with light on them, of all. */
  lit: number;
  picture: string;
}

/** How much of the picture's light lies on the three arms. Drawn once more and copied before the browser takes the picture away. */
function look(page: Page): Promise<Seen> {
  return page.evaluate(() => {
    const canvas = document.querySelector("canvas") as HTMLCanvasElement;
    const { width, height } = canvas;
    const copy = document.createElement("canvas");
    Object.assign(copy, { width, height });
    const context = copy.getContext("2d") as CanvasRenderingContext2D;
    (Reflect.get(window, "renderer") as { draw(): void }).draw();
    context.drawImage(canvas, 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    // The middle of the arms, a little wider than the examples scatter.
    const arm = new Uint8Array(width * height);
    const reach = Math.ceil(0.06 * width);
    for (let i = 0; i < 600; i++) {
      const along = (i % 200) / 200;
      const angle = 3.5 * along + (Math.floor(i / 200) * 2 * Math.PI) / 3;
      const radius = 0.15 + 1.2 * along;
      const x = Math.round((0.5 + 0.3 * radius * Math.cos(angle)) * width);
      const y = Math.round((0.5 - 0.3 * radius * Math.sin(angle)) * height);
      for (let dy = -reach; dy <= reach; dy++) {
        for (let dx = -reach; dx <= reach; dx++) {
          const at = (y + dy) * width + x + dx;
          if (dx * dx + dy * dy <= reach * reach && arm[at] === 0) arm[at] = 1;
        }
      }
    }
    let [on, all, lit] = [0, 0, 0];
    for (let i = 0; i < width * height; i++) {
      const light = Math.max(data[4 * i] ?? 0, data[4 * i + 1] ?? 0, data[4 * i + 2] ?? 0) - 24;
      if (light <= 0) continue;
      lit += 1;
      all += light;
      if (arm[i]) on += light;
    }
    return { share: on / Math.max(all, 1), lit: lit / (width * height), picture: copy.toDataURL() };
  });
}

test("shared device: a renderer draws what a model moves", async ({ page, site }, info) => {
  // Mapping a buffer is the only way back from the GPU.
  await page.addInitScript(() => {
    const { mapAsync } = GPUBuffer.prototype;
    Object.assign(window, { mapped: 0 });
    GPUBuffer.prototype.mapAsync = function (mode, ...range) {
      if (mode === GPUMapMode.READ) Reflect.set(window, "mapped", Reflect.get(window, "mapped") + 1);
      return mapAsync.call(this, mode, ...range);
    };
  });
  const body = page.locator("body");
  await page.goto(`${site}shared.html?software=1&small=1&steps=600`);
  await expect(body).toHaveAttribute("data-state", "noise");
  const noise = await look(page);
  const mapped = () => page.evaluate(() => Reflect.get(window, "mapped") as number);
  const before = await mapped();
  await page.getByRole("button", { name: "Fly" }).click();
  await expect(body).toHaveAttribute("data-state", "done");
  // Eighty frames, and not a byte came back.
  expect(await mapped()).toBe(before);
  const spiral = await look(page);
  await info.attach("spiral", { body: Buffer.from(spiral.picture.split(",")[1] ?? "", "base64"), contentType: "image/png" });
  console.log(`share of the light on the arms: ${noise.share.toFixed(3)}, then ${spiral.share.toFixed(3)}; loss ${await page.locator("#loss").textContent()}`);
  expect(noise.lit).toBeGreaterThan(0.05);
  expect(spiral.lit).toBeGreaterThan(0.05);
  expect(spiral.share).toBeGreaterThan(noise.share + 0.15);
  expect(spiral.share).toBeGreaterThan(0.8);
});

test("shared device: without a GPU the page says why", async ({ page, site }) => {
  await page.goto(`${site}shared.html?executor=cpu`);
  await expect(page.locator("body")).toHaveAttribute("data-state", "refused");
  await expect(page.getByRole("status")).toContainText("no GPU device to share");
});
