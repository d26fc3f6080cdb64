// Spoiled inputs for the npm package as it was built, in Node, until the time is over: `cargo xtask fuzz --test wasm`.
// Reads WGRAD_FUZZ_MINUTES and WGRAD_FUZZ_SEED.
import * as wgrad from "../package/dist/node.js";
import { hurt } from "./inputs.js";

const minutes = Number(process.env.WGRAD_FUZZ_MINUTES ?? 1);
// Seeds are 32 bits here; equal seeds still give equal trials.
const first = Number(BigInt(process.env.WGRAD_FUZZ_SEED ?? 1) % 2n ** 31n);
const end = Date.now() + 60_000 * minutes;
const device = await wgrad.init({ executor: "cpu" });
const total = {};
let tried = 0;
while (Date.now() < end) {
  const counts = await hurt(wgrad, device, 50, first + tried);
  for (const [code, n] of Object.entries(counts)) total[code] = (total[code] ?? 0) + n;
  tried += 50;
}
console.log(`${tried} spoiled inputs of the npm package, from seed ${first} on: ${JSON.stringify(total)}`);
process.exit(0);
