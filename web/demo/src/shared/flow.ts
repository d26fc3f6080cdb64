import { type Device, Graph, type Plan, Store, type Var } from "wgrad";

/** Frequencies at which the network sees places and times; without them it learns the sharp arms slowly. */
const WAVES = [2, 4, 8];
/** Names and sizes of the network's layers: a point and a time with their waves in, a velocity out. */
const LAYERS = [
  ["in", 3 * (1 + 2 * WAVES.length), 64],
  ["hidden", 64, 64],
  ["out", 64, 2],
] as const;
/** Examples of a training step. */
const BATCH = 512;
const LEARNING_RATE = 6e-3;
const [BETA1, BETA2] = [0.9, 0.99];

type Weights = Record<string, Var>;

/** Shapes of all parameters by name. */
function shapes(): [string, number[]][] {
  return LAYERS.flatMap(([name, inputs, outputs]): [string, number[]][] => [
    [`${name}.weight`, [inputs, outputs]],
    [`${name}.bias`, [outputs]],
  ]);
}

function states(graph: Graph, prefix = ""): Weights {
  return Object.fromEntries(shapes().map(([name, shape]) => [name, graph.state(prefix + name, shape)]));
}

/** The velocity of points `[n, 2]` at times `[n, 1]`: two hidden layers. */
function velocity(weights: Weights, points: Var, times: Var): Var {
  const layer = (x: Var, name: string) => x.matmul(weights[`${name}.weight`] as Var).add(weights[`${name}.bias`] as Var);
  const place = points.concat([times], 1);
  const waves = WAVES.flatMap((wave) => [place.mul(wave).sin(), place.mul(wave).cos()]);
  return layer(layer(layer(place.concat(waves, 1), "in").silu(), "hidden").silu(), "out");
}

/** Points of a spiral with three arms, drawn on the device. */
function spiral(graph: Graph): Var {
  const along = graph.random("uniform", [BATCH, 1], 1);
  const arm = graph.random("uniform", [BATCH, 1], 2).mul(3).floor();
  const angle = along.mul(3.5).add(arm.mul((2 * Math.PI) / 3));
  const radius = along.mul(1.2).add(0.15);
  const sharp = radius.mul(angle.cos()).concat([radius.mul(angle.sin())], 1);
  return sharp.add(graph.random("normal", [BATCH, 2], 3).mul(0.03));
}

/** One step of flow matching (Lipman et al. 2023, arXiv 2210.02747) with Adam; nothing is fed but the number of the step. */
function learning(): { graph: Graph; loss: Var } {
  const graph = new Graph();
  const [weights, first, second] = [states(graph), states(graph, "first."), states(graph, "second.")];
  const from = graph.random("normal", [BATCH, 2], 4);
  const way = spiral(graph).sub(from);
  const time = graph.random("uniform", [BATCH, 1], 5);
  const loss = velocity(weights, from.add(way.mul(time)), time).sub(way).square().mean();
  const names = Object.keys(weights);
  const gradients = graph.grad(loss, Object.values(weights));
  const step = graph.input("step", [1]);
  // 1 - beta^step
  const grown = (beta: number) => step.mul(Math.log(beta)).exp().neg().add(1);
  for (const [i, name] of names.entries()) {
    const [w, m, v, g] = [weights[name], first[name], second[name], gradients[i]] as [Var, Var, Var, Var];
    const mean = m.mul(BETA1).add(g.mul(1 - BETA1));
    const square = v.mul(BETA2).add(g.square().mul(1 - BETA2));
    graph.assign(m, mean);
    graph.assign(v, square);
    const change = mean.div(grown(BETA1)).div(square.div(grown(BETA2)).sqrt().add(1e-8));
    graph.assign(w, w.sub(change.mul(LEARNING_RATE)));
  }
  return { graph, loss };
}

/** A network that learns to carry noise to a spiral, and particles that it carries. All of it stays on the device. */
export class Flow {
  /** Steps learned. */
  steps = 0;
  #rounds = 0;

  private constructor(
    readonly particles: number,
    /** Frames from noise to the spiral. */
    readonly frames: number,
    readonly store: Store,
    readonly plans: { forget: Plan; learn: Plan<{ loss: Var }>; scatter: Plan; move: Plan },
  ) {}

  static async create(device: Device, particles: number, frames: number): Promise<Flow> {
    const store = await Store.create(device);
    await store.set("particles", new Float32Array(2 * particles), [particles, 2]);
    for (const [name, shape] of shapes()) {
      const zeros = new Float32Array(shape.reduce((n, size) => n * size, 1));
      for (const prefix of ["", "first.", "second."]) await store.set(prefix + name, zeros, shape);
    }

    const forget = new Graph();
    for (const [i, [name, shape]] of shapes().entries()) {
      const [inputs = 1] = shape;
      const fresh = shape.length === 2 ? forget.random("normal", shape, 10 + i).mul(inputs ** -0.5) : forget.full(shape, 0);
      forget.assign(forget.state(name, shape), fresh);
      for (const prefix of ["first.", "second."]) forget.assign(forget.state(prefix + name, shape), forget.full(shape, 0));
    }

    const scatter = new Graph();
    scatter.assign(scatter.state("particles", [particles, 2]), scatter.random("normal", [particles, 2], 30));

    const move = new Graph();
    const points = move.state("particles", [particles, 2]);
    const time = move.input("time", [1, 1]).expand([particles, 1]);
    move.assign(points, points.add(velocity(states(move), points, time).div(frames)));

    const { graph, loss } = learning();
    const flow = new Flow(particles, frames, store, {
      forget: await forget.compile(device, {}),
      learn: await graph.compile(device, { loss }),
      scatter: await scatter.compile(device, {}),
      move: await move.compile(device, {}),
    });
    await flow.forget();
    return flow;
  }

  async forget(): Promise<void> {
    this.steps = 0;
    await this.plans.forget.run({}, { store: this.store, seed: 1 });
  }

  /** A step of training. Queued: nothing waits for it unless the loss is wanted. */
  async learn(tell = false): Promise<number | undefined> {
    const step = ++this.steps;
    const read = tell ? (["loss"] as const) : [];
    const { loss } = await this.plans.learn.run({ step: Float32Array.of(step) }, { store: this.store, step, seed: 2, read });
    return loss?.[0];
  }

  /** Noise again. */
  async scatter(): Promise<void> {
    await this.plans.scatter.run({}, { store: this.store, step: this.#rounds++, seed: 3 });
  }

  /** Moves the particles by one frame. */
  async move(frame: number): Promise<void> {
    await this.plans.move.run({ time: Float32Array.of(frame / this.frames) }, { store: this.store });
  }
}
