/** Texts to begin with: this project's own pages, and its shaders for contrast. */
import about from "../../../README.md?raw";
import architecture from "../../../ARCHITECTURE.md?raw";
import contributing from "../../../CONTRIBUTING.md?raw";
import reliability from "../../../docs/reliability.md?raw";

const shaders = import.meta.glob<string>("../../../shaders/{rowwise,select,attention}/*.wgsl", {
  query: "?raw",
  import: "default",
  eager: true,
});

export const PROSE = [about, architecture, contributing, reliability].join("\n");
export const CODE = Object.values(shaders).join("\n").slice(0, 40_000);
export const LINES =
  "In the spring of 1876 the lamp stood on the third shelf, and Marta (who kept the accounts) wrote: 12 crowns, 4 pence. " +
  "The lamp, she noted, was for reading; the accounts were for remembering. A small machine reads this line too, and must " +
  "decide which bytes deserve a second look.";
