import type { Shaped } from "./host.js";

/** How often each slot of a memory was read. */
export class SlotUsage {
  /** Times that a slot was read. */
  readonly hits: Uint32Array;
  /** Sum of the gates it was read with. */
  readonly weights: Float32Array;
  /** Pieces of the text in which it was read. */
  readonly batches: Uint32Array;
  /** Pieces that were counted. */
  totalBatches = 0;

  constructor(readonly slots: number) {
    this.hits = new Uint32Array(slots);
    this.weights = new Float32Array(slots);
    this.batches = new Uint32Array(slots);
  }

  /** Share of the slots that were read at all. */
  get shareUsed(): number {
    return this.hits.reduce((n, hits) => n + Number(hits > 0), 0) / Math.max(this.slots, 1);
  }

  /** @internal */
  add({ data: slots }: Shaped<Uint32Array>, { data: gates }: Shaped<Float32Array>, losses: Float32Array): void {
    const per = slots.length / Math.max(losses.length, 1);
    const seen = new Set<number>();
    this.totalBatches += 1;
    for (let i = 0; i < slots.length; i++) {
      // Behind the end of the text nothing is predicted.
      if (losses[Math.floor(i / per)] === 0) continue;
      const slot = slots[i] as number;
      this.hits[slot] = (this.hits[slot] ?? 0) + 1;
      this.weights[slot] = (this.weights[slot] ?? 0) + (gates[i] ?? 0);
      if (!seen.has(slot)) this.batches[slot] = (this.batches[slot] ?? 0) + 1;
      seen.add(slot);
    }
  }
}

/**
 * The `count` slots that matter most for a text and least for what was read before (TF-IDF; Lin et al. 2025), as a mask for
 * {@link TrainOptions.slots}. Slots that the text does not read are never chosen.
 */
export function chooseSlots(text: SlotUsage, background: SlotUsage, count: number): Uint32Array {
  const total = Math.max(text.hits.reduce((sum, hits) => sum + hits, 0), 1);
  const score = (i: number) =>
    ((text.hits[i] ?? 0) / total) * Math.log((background.totalBatches + 1) / ((background.batches[i] ?? 0) + 1));
  const read = [...text.hits.keys()].filter((i) => (text.hits[i] ?? 0) > 0);
  const scores = new Map(read.map((i) => [i, score(i)]));
  read.sort((a, b) => (scores.get(b) ?? 0) - (scores.get(a) ?? 0) || a - b);
  const mask = new Uint32Array(text.slots);
  for (const i of read.slice(0, count)) mask[i] = 1;
  return mask;
}
