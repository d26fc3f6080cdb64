// All libraries in one page; `peer.js` calls what is on `window.peers`.

const NAMES = ["wgrad", "tfjs", "ort", "jax"];
const COMPARED = 1e-2;

const libraries = {};
const prepared = {};
/** What this library found, by operation. */
let ours;

// Whoever asks for a device gets it, and we know whose queue to wait for.
let opened = [];
const requestDevice = GPUAdapter.prototype.requestDevice;
GPUAdapter.prototype.requestDevice = async function (...args) {
  const device = await requestDevice.apply(this, args);
  opened.push(device);
  return device;
};

async function waited(library, work) {
  await work.flush?.();
  await Promise.all(library.devices.map((device) => device.queue.onSubmittedWorkDone()));
}

/** Largest distance from what this library found, over the largest value. */
function distance(y) {
  let [off, most] = [0, 1e-30];
  for (let i = 0; i < ours.length; i++) {
    off = Math.max(off, Math.abs(y[i] - ours[i]));
    most = Math.max(most, Math.abs(ours[i]));
  }
  return y.length === ours.length && off >= 0 ? off / most : Infinity;
}

window.peers = {
  /** Versions of those that are there. */
  async start(names) {
    const about = {};
    for (const name of NAMES.filter((name) => name === "wgrad" || names.includes(name))) {
      const library = (await import(`./${name}.js`)).default;
      opened = [];
      libraries[name] = library;
      about[name] = await library.start();
      library.devices = opened;
    }
    return about;
  },

  /** Milliseconds until the first result is there; none where a library does not have the operation. */
  async prepare(name, op, dims) {
    const library = libraries[name];
    opened = library.devices;
    const from = performance.now();
    const work = await library.prepare(op, dims);
    if (!work) return { first_ms: null };
    const y = await work.output();
    const first_ms = performance.now() - from;
    if (name === "wgrad") ours = y;
    else if (distance(y) > COMPARED) {
      await work.free();
      return { first_ms: null, error: `differs from wgrad by ${distance(y)} of the largest value` };
    }
    prepared[name] = work;
    return { first_ms };
  },

  /** Milliseconds a run, of so many in a row that are waited for together. */
  async run(name, times) {
    const [library, work] = [libraries[name], prepared[name]];
    if (!work) throw new Error("nothing is prepared");
    const from = performance.now();
    for (let i = 0; i < times; i++) await work.run();
    await waited(library, work);
    return { ms: [(performance.now() - from) / times] };
  },

  async drop(name) {
    await prepared[name]?.free();
    delete prepared[name];
    return {};
  },
};
