import { defineConfig } from "vite";

export default defineConfig({
  // Relative addresses: the built page works from any folder of a server.
  base: "./",
  build: { target: "es2022" },
});
