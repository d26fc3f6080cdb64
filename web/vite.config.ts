import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const place = (name: string) => fileURLToPath(new URL(name, import.meta.url));

export default defineConfig({
  root: place("demo"),
  // Relative addresses: the built page works from any folder of a server.
  base: "./",
  resolve: { alias: { wgrad: place("package/dist/index.js") } },
  // The page learns from this repository's own texts.
  server: { fs: { allow: [place("..")] } },
  build: {
    target: "es2022",
    outDir: place("dist"),
    emptyOutDir: true,
    rollupOptions: { input: ["index", "check", "shared"].map((name) => place(`demo/${name}.html`)) },
  },
  worker: { format: "es" },
});
