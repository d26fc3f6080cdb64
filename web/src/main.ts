import init from "../pkg/wgrad.js";
import { describeAdapter } from "./adapter.js";

function say(text: string): void {
  const status = document.querySelector("#status");
  if (status) status.textContent = text;
}

try {
  await init();
  say(await describeAdapter());
} catch (error) {
  say(`The page cannot start: ${error instanceof Error ? error.message : String(error)}`);
  throw error;
}
