// Writes every piece of TypeScript in the documents as a module of its own into web/snippets, where tsc checks it.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

const documents = ["../docs/guide/src/browser.md", "package/README.md"];
const folder = new URL("./snippets/", import.meta.url);
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder);
let count = 0;
for (const path of documents) {
  const text = readFileSync(new URL(path, import.meta.url), "utf8");
  for (const [, code] of text.matchAll(/^```ts\n([\s\S]*?)^```$/gm)) {
    count += 1;
    writeFileSync(new URL(`${count}.ts`, folder), `// ${path}\n${code}export {};\n`);
  }
}
if (count === 0) throw new Error("no TypeScript in the documents");
