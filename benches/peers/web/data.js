// The same numbers for every library.

function numbers(seed) {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const size = (shape) => shape.reduce((a, b) => a * b, 1);

/** Values of deviation 1. */
export function floats(shape, seed) {
  const next = numbers(seed);
  return Float32Array.from({ length: size(shape) }, () => 3.464 * (next() - 0.5));
}

export function below(shape, most, seed) {
  const next = numbers(seed);
  return Uint32Array.from({ length: size(shape) }, () => Math.floor(most * next()));
}

/** The tensors of an operation, by what it is called and how large it is. */
export function inputs(op, dims) {
  const [a, b, c] = dims;
  switch (op) {
    case "matmul":
      return { a: [a, b], b: [b, c] };
    case "top_k":
    case "softmax":
      return { a: [a, b] };
    case "gather":
      return { a: [a, b], at: [c] };
    case "gather_grad":
      return { a: [a, b], at: [c], dy: [c, b] };
    default:
      return null;
  }
}
