import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const page = (name: string) => fileURLToPath(new URL(name, import.meta.url));

export default defineConfig({
  // Relative addresses: the built page works from any folder of a server.
  base: "./",
  build: { target: "es2022", rollupOptions: { input: [page("index.html"), page("check.html")] } },
  worker: { format: "es" },
});
