// What a visitor downloads: wasm and JavaScript, gzipped. The worker and Node's entry are counted too.
import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const folder = new URL("./dist/", import.meta.url);
const files = readdirSync(folder).filter((name) => /\.(js|wasm)$/.test(name));
let sum = 0;
for (const name of files) {
  const bytes = readFileSync(new URL(name, folder));
  const small = gzipSync(bytes, { level: 9 }).length;
  sum += small;
  console.log(`${small} gzipped, ${bytes.length} plain: ${name}`);
}
console.log(`${sum} gzipped together`);
