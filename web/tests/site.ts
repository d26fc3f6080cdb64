import { fileURLToPath } from "node:url";
import { test as base } from "@playwright/test";
import { preview } from "vite";

/** Tests of the built page: `site` is the address of a server of `dist` that lives as long as the worker. */
export const test = base.extend<object, { site: string }>({
  site: [
    async ({}, use) => {
      const root = fileURLToPath(new URL("..", import.meta.url));
      const server = await preview({ root, logLevel: "error", preview: { host: "127.0.0.1", port: 0 } });
      const address = server.resolvedUrls?.local[0];
      if (!address) throw new Error("vite's preview server has no address");
      await use(address);
      await server.close();
    },
    { scope: "worker" },
  ],
});

export { expect } from "@playwright/test";
