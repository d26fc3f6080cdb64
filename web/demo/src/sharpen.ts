/**
 * The same model with queries and keys that are `factor` times as large. Where a letter's key meets a question's query, features
 * are e^x with x far below 0, and fall to their power; those that a digit and its question share are above 0 and only grow, which
 * the memory's normalisation takes back. What a walk adds to an answer falls from little to nothing.
 */
export function sharpen(file: Uint8Array<ArrayBuffer>, factor: number): Uint8Array<ArrayBuffer> {
  const sharp = file.slice();
  const view = new DataView(sharp.buffer);
  // Safetensors: the length of a JSON header, the header, the data.
  const start = 8 + Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(sharp.subarray(8, start))) as Record<string, { data_offsets?: number[] }>;
  for (const [name, { data_offsets: place }] of Object.entries(header)) {
    if (!/^layers\.\d+\.0\.to_qkv\.weight$/.test(name) || !place) continue;
    const [from = 0, to = 0] = place;
    const third = (to - from) / 3;
    // Queries, keys, values: the first two thirds.
    for (let at = start + from; at < start + from + 2 * third; at += 4) {
      view.setFloat32(at, view.getFloat32(at, true) * factor, true);
    }
  }
  return sharp;
}
