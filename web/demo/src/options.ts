/** What the address asks for: `?executor=auto|gpu|cpu&software=1&seed=1&steps=20&small=1`. */
export interface Options {
  executor: "auto" | "gpu" | "cpu";
  /** Also takes a software adapter, such as SwiftShader. */
  software: boolean;
  seed: number;
  /** Steps of a training run on the page that checks a browser. */
  steps: number | null;
  /** Models and runs of a size for tests. */
  small: boolean;
}

const EXECUTORS = ["auto", "gpu", "cpu"] as const;

export function readOptions(search: string): Options {
  const query = new URLSearchParams(search);
  const executor = EXECUTORS.find((name) => name === (query.get("executor") ?? "auto"));
  if (!executor) throw new Error(`?executor=${query.get("executor")}: expected ${EXECUTORS.join(", ")}.`);
  return {
    executor,
    software: query.get("software") === "1",
    seed: integer(query, "seed", 0) ?? 1,
    steps: integer(query, "steps", 1),
    small: query.get("small") === "1",
  };
}

function integer(query: URLSearchParams, key: string, least: number): number | null {
  const text = query.get(key);
  if (text === null) return null;
  const value = Number(text);
  if (Number.isInteger(value) && value >= least && value < 2 ** 32) return value;
  throw new Error(`?${key}=${text}: expected a whole number from ${least} on.`);
}
