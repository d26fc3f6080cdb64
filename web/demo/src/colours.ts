/** The page's colours as a canvas wants them, and who wants to know when they change. */

const watchers = new Set<() => void>();
const cache = new Map<string, string>();

export function onColours(changed: () => void): void {
  watchers.add(changed);
}

function changed(): void {
  cache.clear();
  for (const watcher of watchers) watcher();
}

/** A colour of the style sheet by its name there. */
export function colour(name: string): string {
  let found = cache.get(name);
  if (found === undefined) {
    const probe = document.createElement("i");
    probe.className = "probe";
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    found = getComputedStyle(probe).color;
    probe.remove();
    cache.set(name, found);
  }
  return found;
}

export function dark(): boolean {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** The button that switches, and remembers the choice. */
export function themes(button: HTMLButtonElement): void {
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", dark() ? "Switch to light colours" : "Switch to dark colours");
    button.setAttribute("aria-pressed", String(dark()));
    changed();
  };
  try {
    const kept = localStorage.getItem("theme");
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  } catch {
    // No storage, no memory of the choice.
  }
  button.onclick = () => {
    const next = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("theme", next);
    } catch {
      // As above.
    }
    show();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
}
