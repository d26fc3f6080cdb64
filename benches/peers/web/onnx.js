// Models of one node in ONNX's protobuf format (onnx.proto3).

export const [FLOAT, INT32, INT64] = [1, 6, 7];

const text = new TextEncoder();

function varint(n) {
  const bytes = [];
  for (; n > 127; n = Math.floor(n / 128)) bytes.push((n % 128) | 128);
  return [...bytes, n];
}

/** A field that is a number, a string, or a message of fields. */
function field(number, value) {
  if (typeof value === "number") return [...varint(number << 3), ...varint(value)];
  const bytes = typeof value === "string" ? [...text.encode(value)] : value.flat();
  return [...varint((number << 3) | 2), ...varint(bytes.length), ...bytes];
}

function value(name, [type, shape]) {
  const dims = field(2, shape.map((n) => field(1, [field(1, n)])));
  return [field(1, name), field(2, [field(1, [field(1, type), dims])])];
}

/** A constant of whole numbers. */
function tensor(name, numbers) {
  return [field(1, numbers.length), field(2, INT64), ...numbers.map((n) => field(7, [varint(n)])), field(8, name)];
}

/** The bytes of a model: inputs and outputs are `[type, shape]` by name. */
export function model(op, inputs, outputs, attributes = {}, constants = {}) {
  const node = [
    ...[...Object.keys(inputs), ...Object.keys(constants)].map((name) => field(1, name)),
    ...Object.keys(outputs).map((name) => field(2, name)),
    field(4, op),
    ...Object.entries(attributes).map(([name, n]) => field(5, [field(1, name), field(3, n), field(20, 2)])),
  ];
  const graph = [
    field(1, node),
    field(2, "graph"),
    ...Object.entries(constants).map(([name, numbers]) => field(5, tensor(name, numbers))),
    ...Object.entries(inputs).map(([name, type]) => field(11, value(name, type))),
    ...Object.entries(outputs).map(([name, type]) => field(12, value(name, type))),
  ];
  return Uint8Array.from([field(1, 8), field(8, [field(2, 17)]), field(7, graph)].flat());
}
