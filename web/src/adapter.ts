/** What the browser offers to compute with, in words. */
export async function describeAdapter(): Promise<string> {
  if (!("gpu" in navigator) || !navigator.gpu) return "No WebGPU in this browser.";
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) return "WebGPU offers no adapter.";
  const { vendor, architecture, description } = adapter.info;
  return `WebGPU adapter: ${[vendor, architecture, description].filter(Boolean).join(" ")}`;
}
