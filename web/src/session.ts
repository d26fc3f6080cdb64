import { Engine, type Found, type Ready, type Reports } from "./engine.js";
import { type Failure, failure } from "./failure.js";
import type { Options } from "./options.js";
import type { Reply, Request } from "./worker.js";

/** A training run that the page talks to, wherever it runs. */
export interface Session {
  ready: Ready;
  where: "worker" | "page";
  train(steps: number | null): void;
  stop(): void;
}

/** What a session tells the page. */
export interface Listener extends Reports {
  found(found: Found): void;
  idle(): void;
  failed(failure: Failure): void;
}

/**
 * Opens a session in a worker, so that the page stays responsive. Only where workers lack the WebGPU that the page has, or
 * do not start, does it run on the page's own thread, pausing after each group of steps.
 */
export async function open(options: Options, listener: Listener): Promise<Session> {
  return (await inWorker(options, listener)) ?? inPage(options, listener);
}

async function inPage(options: Options, listener: Listener): Promise<Session> {
  const engine = await Engine.open(options, (found) => listener.found(found));
  return {
    ready: engine.ready,
    where: "page",
    train: (steps) => {
      const run = engine.train(steps, listener);
      run.then(() => listener.idle()).catch((error: unknown) => listener.failed(failure(error)));
    },
    stop: () => engine.stop(),
  };
}

function inWorker(options: Options, listener: Listener): Promise<Session | null> {
  let worker: Worker;
  try {
    worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  } catch {
    return Promise.resolve(null);
  }
  const ask = (request: Request) => worker.postMessage(request);
  return new Promise((resolve, reject) => {
    let opened = false;
    const giveUp = () => {
      worker.terminate();
      resolve(null);
    };
    worker.onerror = (event) => {
      if (opened) listener.failed({ code: null, message: event.message || "The worker stopped." });
      else giveUp();
    };
    worker.onmessage = ({ data }: MessageEvent<Reply>) => {
      switch (data.kind) {
        case "found":
          return listener.found(data.found);
        case "ready":
          opened = true;
          return resolve({
            ready: data.ready,
            where: "worker",
            train: (steps) => ask({ kind: "train", steps }),
            stop: () => ask({ kind: "stop" }),
          });
        case "elsewhere":
          return giveUp();
        case "progress":
          return listener.progress(data.progress);
        case "wrote":
          return listener.wrote(data.text);
        case "idle":
          return listener.idle();
        case "failed":
          if (opened) return listener.failed(data.failure);
          worker.terminate();
          return reject(Object.assign(new Error(data.failure.message), { code: data.failure.code }));
      }
    };
    ask({ kind: "open", options, pageHasGpu: !!navigator.gpu });
  });
}
