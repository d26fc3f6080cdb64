import { App, type Panel } from "./app.js";
import { themes } from "./colours.js";
import { failure } from "./failure.js";
import { readOptions } from "./options.js";
import { Bench } from "./panels/bench.js";
import { Carry } from "./panels/carry.js";
import { Learn } from "./panels/learn.js";
import { Recall } from "./panels/recall.js";
import { Route } from "./panels/route.js";

const PANELS = { recall: Recall, learn: Learn, route: Route, carry: Carry, bench: Bench };
type Name = keyof typeof PANELS;
const NAMES = Object.keys(PANELS) as Name[];

const byId = (id: string) => document.getElementById(id) as HTMLElement;
const tab = (name: Name) => byId(`tab-${name}`);

themes(byId("theme") as HTMLButtonElement);
document.body.dataset.state = "opening";

/** Shows a panel, and opens it when it is seen for the first time. */
function tabs(app: App | undefined): void {
  const opened = new Set<Panel>();
  const show = (name: Name, focus = false) => {
    for (const other of NAMES) {
      const chosen = other === name;
      tab(other).setAttribute("aria-selected", String(chosen));
      tab(other).tabIndex = chosen ? 0 : -1;
      byId(other).hidden = !chosen;
    }
    if (focus) tab(name).focus();
    if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
    tab(name).scrollIntoView({ block: "nearest", inline: "nearest" });
    const panel = app?.panels.get(name);
    if (!app || !panel || opened.has(panel)) return;
    opened.add(panel);
    app.soon(async () => panel.open?.());
  };
  for (const [i, name] of NAMES.entries()) {
    tab(name).onclick = () => show(name);
    tab(name).onkeydown = ({ key }) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: NAMES.length - 1 }[key];
      if (to !== undefined) show(NAMES[(to + NAMES.length) % NAMES.length] ?? "recall", true);
    };
  }
  const asked = () => NAMES.find((name) => `#${name}` === location.hash) ?? "recall";
  addEventListener("hashchange", () => show(asked()));
  show(asked());
}

async function start(): Promise<void> {
  const app = new App(readOptions(location.search));
  addEventListener("unhandledrejection", (event) => app.fail(event.reason));
  await app.connect();
  for (const name of NAMES) app.panels.set(name, new PANELS[name](app));
  tabs(app);
  // For tests, and for whoever opens the console.
  Object.assign(window, { wgradDemo: app });
}

start().catch((error: unknown) => {
  const { code, message } = failure(error);
  document.body.dataset.state = "failed";
  byId("device").textContent = "No executor";
  byId("alert-title").textContent = "The page cannot start.";
  byId("alert-code").textContent = code ?? "";
  byId("alert-text").textContent = message;
  byId("alert").hidden = false;
  tabs(undefined);
});
