import { expect, test } from "./site.js";

test("the page starts and says what it computes with", async ({ page, site }, info) => {
  const errors: string[] = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(site);

  const status = page.getByRole("status");
  if (info.project.name === "webgpu") {
    await expect(status).toHaveText(/^WebGPU adapter: google swiftshader/);
    console.log(`adapter: ${(await status.textContent())?.replace("WebGPU adapter: ", "")}, and without WebGPU`);
  } else {
    await expect(status).toHaveText("WebGPU offers no adapter.");
  }
  expect(errors).toEqual([]);
});
