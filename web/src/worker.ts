import { Engine, type Found, type Progress, type Ready } from "./engine.js";
import { type Failure, failure } from "./failure.js";
import type { Options } from "./options.js";

export type Request =
  | { kind: "open"; options: Options; pageHasGpu: boolean }
  | { kind: "train"; steps: number | null }
  | { kind: "stop" };

export type Reply =
  | { kind: "found"; found: Found }
  | { kind: "ready"; ready: Ready }
  /** The page has a WebGPU that this worker has not. */
  | { kind: "elsewhere" }
  | { kind: "progress"; progress: Progress }
  | { kind: "wrote"; text: string }
  | { kind: "idle" }
  | { kind: "failed"; failure: Failure };

let engine: Engine | undefined;

function reply(message: Reply): void {
  postMessage(message);
}

async function handle(request: Request): Promise<void> {
  switch (request.kind) {
    case "open": {
      const { options, pageHasGpu } = request;
      if (options.executor !== "cpu" && pageHasGpu && !navigator.gpu) return reply({ kind: "elsewhere" });
      engine = await Engine.open(options, (found) => reply({ kind: "found", found }));
      return reply({ kind: "ready", ready: engine.ready });
    }
    case "train":
      await engine?.train(request.steps, {
        progress: (progress) => reply({ kind: "progress", progress }),
        wrote: (text) => reply({ kind: "wrote", text }),
      });
      return reply({ kind: "idle" });
    case "stop":
      return engine?.stop();
  }
}

addEventListener("message", ({ data }: MessageEvent<Request>) => {
  handle(data).catch((error: unknown) => reply({ kind: "failed", failure: failure(error) }));
});
