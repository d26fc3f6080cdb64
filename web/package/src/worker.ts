// The thread of the CPU executor, so that the page stays responsive.
import { failure } from "./errors.js";
import { call } from "./host.js";
import type { Reply, Request } from "./link.js";
import { load } from "./wasm.js";

const post = (reply: Reply) => postMessage(reply);
let loaded: Promise<unknown> = Promise.resolve();

addEventListener("message", async ({ data }: MessageEvent<Request>) => {
  if (data.kind === "load") {
    loaded = load(data.module);
    return;
  }
  const { id, name, args, watched } = data;
  try {
    await loaded;
    const tell = watched ? (warmup: { made: number; wanted: number }) => post({ kind: "warmup", id, warmup }) : undefined;
    post({ kind: "result", id, result: await call(name, args, tell) });
  } catch (error) {
    post({ kind: "failure", id, failure: failure(error) });
  }
});
