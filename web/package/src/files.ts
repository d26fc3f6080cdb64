import { CheckpointError } from "./errors.js";

/** Where a file comes from: its bytes, a Blob or File (from OPFS or a file dialog), or an address. */
export type Source = Uint8Array | ArrayBuffer | Blob | Response | URL | string;

/** How much of a file has been read. */
export interface Progress {
  loaded: number;
  /** Undefined where the server does not say. */
  total: number | undefined;
}

export async function bytesOf(
  source: Source,
  onProgress?: (progress: Progress) => void,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  if (source instanceof Uint8Array) return source;
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (source instanceof Blob) return read(source.stream(), source.size, onProgress, signal);
  const response = source instanceof Response ? source : await fetch(source, signal ? { signal } : {});
  if (!response.ok || !response.body) {
    throw new CheckpointError("checkpoint", `${response.url}: the server answered ${response.status}`);
  }
  // The length is that of what is sent, which may be compressed.
  const length = response.headers.has("content-encoding") ? null : response.headers.get("content-length");
  return read(response.body, length === null ? undefined : Number(length), onProgress, signal);
}

async function read(
  stream: ReadableStream<Uint8Array>,
  total: number | undefined,
  onProgress?: (progress: Progress) => void,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let loaded = 0;
  const reader = stream.getReader();
  for (;;) {
    if (signal?.aborted) {
      await reader.cancel(signal.reason);
      signal.throwIfAborted();
    }
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    loaded += value.length;
    onProgress?.({ loaded, total });
  }
  const bytes = new Uint8Array(loaded);
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}
