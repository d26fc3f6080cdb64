/** Steps a second over the last few seconds. */
export class Rate {
  #marks: { step: number; at: number }[] = [];

  constructor(private readonly span = 3000) {}

  clear(): void {
    this.#marks = [];
  }

  add(step: number, at: number): number | null {
    this.#marks.push({ step, at });
    while (this.#marks.length > 2 && at - (this.#marks[1]?.at ?? at) > this.span) this.#marks.shift();
    const first = this.#marks[0];
    if (!first || at <= first.at) return null;
    return (1000 * (step - first.step)) / (at - first.at);
  }
}
