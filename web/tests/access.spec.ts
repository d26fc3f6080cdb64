import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { expect, test } from "./site.js";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PANELS = ["recall", "learn", "route", "carry", "bench"];

interface Finding {
  id: string;
  impact: string;
  nodes: { html: string; failureSummary: string }[];
}

for (const scheme of ["light", "dark"] as const) {
  test(`axe finds nothing serious in ${scheme} colours`, async ({ page, site }) => {
    await page.emulateMedia({ colorScheme: scheme });
    const others = ["check.html?executor=cpu&filter=none", "shared.html?executor=cpu"];
    for (const name of [...PANELS.map((panel) => `?executor=cpu&small=1#${panel}`), ...others]) {
      await page.goto("about:blank");
      await page.goto(site + name);
      if (name.startsWith("?")) await expect(page.locator("body")).toHaveAttribute("data-state", "ready");
      if (name.startsWith("shared")) await expect(page.locator("body")).toHaveAttribute("data-state", "refused");
      await page.evaluate(AXE);
      const findings = await page.evaluate(async () => {
        const { violations } = await Reflect.get(window, "axe").run();
        return violations as Finding[];
      });
      const serious = findings.filter(({ impact }) => ["serious", "critical"].includes(impact));
      expect(serious.map(({ id, nodes }) => `${name}: ${id}: ${nodes[0]?.html} ${nodes[0]?.failureSummary}`)).toEqual([]);
    }
  });
}

test("the panels are reached by keyboard alone", async ({ page, site }) => {
  await page.goto(`${site}?executor=cpu&small=1`);
  await expect(page.locator("body")).toHaveAttribute("data-state", "ready");
  await page.getByRole("tab", { name: "Recall" }).focus();
  for (const name of ["Learn", "Route", "Carry", "Bench", "Recall"]) {
    await page.keyboard.press("ArrowRight");
    await expect(page.getByRole("tab", { name })).toBeFocused();
    await expect(page.getByRole("tabpanel", { name })).toBeVisible();
    await expect(page.getByRole("tabpanel")).toHaveCount(1);
  }
  await page.keyboard.press("End");
  await page.keyboard.press("Tab");
  await expect(page.getByRole("button", { name: "Run the bench" })).toBeFocused();
});

test("nothing is wider than a phone, and the colours can be switched", async ({ page, site }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  await page.emulateMedia({ colorScheme: "light" });
  await page.goto(`${site}?executor=cpu&small=1`);
  await expect(page.locator("body")).toHaveAttribute("data-state", "ready");
  for (const panel of PANELS) {
    await page.locator(`#tab-${panel}`).click();
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    expect(wide, panel).toBeLessThanOrEqual(360);
  }
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await page.locator("#theme").click();
  expect(await ground()).not.toBe(light);
  await page.reload();
  expect(await ground()).not.toBe(light);
});
