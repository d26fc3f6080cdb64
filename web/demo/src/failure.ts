/** An error as it travels from a worker and is shown: a kind in one word, where there is one, and the message. */
export interface Failure {
  code: string | null;
  message: string;
}

export function failure(error: unknown): Failure {
  if (!(error instanceof Error)) return { code: null, message: String(error) };
  const code = "code" in error && typeof error.code === "string" ? error.code : null;
  if (error instanceof WebAssembly.RuntimeError) {
    return { code: "panic", message: `The program stopped (${error.message}); the browser's console says where.` };
  }
  return { code, message: error.message };
}
