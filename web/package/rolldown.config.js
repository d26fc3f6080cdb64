// The JavaScript of the package. `new URL(…, import.meta.url)` stays as it is: bundlers of users know the form.
const options = { dir: `${import.meta.dirname}/dist`, format: "es", minify: true, entryFileNames: "[name].js", chunkFileNames: "wgrad-[name].js" };

export default {
  cwd: import.meta.dirname,
  input: { index: "src/index.ts", worker: "src/worker.ts", node: "src/node.ts" },
  platform: "neutral",
  external: [/^node:/],
  output: options,
};
