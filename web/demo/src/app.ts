import { type Device, init, type LanguageModel, WgradError } from "wgrad";
import type { Options } from "./options.js";
import type { Run } from "./run.js";

/** A panel of the page. */
export interface Panel {
  /** Called when it is seen for the first time on a device. */
  open?(): Promise<void>;
  /** Everything it had on the old device is gone. */
  lost(): void;
  /** Goes on, on a new device, from what was saved last. */
  recover(): Promise<void>;
}

const byId = (id: string) => document.getElementById(id) as HTMLElement;

/** The device, what runs on it, and what is said about both. */
export class App {
  device!: Device;
  readonly panels = new Map<string, Panel>();
  #running: Run | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor(readonly options: Options) {
    byId("alert-close").onclick = () => this.clear();
  }

  /** Finds a device and says which. */
  async connect(): Promise<void> {
    const { executor, software } = this.options;
    const device = await init({ executor, software });
    this.device = device;
    const where = device.worker ? "in a worker" : "on the page's own thread";
    byId("executor").dataset.kind = device.kind;
    byId("device").textContent = device.kind === "gpu" ? `WebGPU: ${device.adapter}` : "CPU executor";
    byId("place").textContent = device.reason ? `${device.reason}; ${where}` : where;
    byId("executor").title = device.toString();
    document.body.dataset.state = "ready";
    device.lost.then((reason) => {
      if (device === this.device) this.#lost(reason);
    });
  }

  #lost(reason: string): void {
    document.body.dataset.state = "lost";
    byId("executor").dataset.kind = "lost";
    this.#running?.stop();
    for (const panel of this.panels.values()) panel.lost();
    this.alert("The GPU was taken away.", "device-lost", `${reason} What was saved last is still here.`, "Recover", async () => {
      await this.connect();
      await this.turn(async () => {
        for (const panel of this.panels.values()) await panel.recover();
      });
    });
  }

  /** Says that something went wrong, with a button that may mend it. */
  alert(title: string, code: string, text: string, act?: string, mend?: () => Promise<void>): void {
    byId("alert-title").textContent = title;
    byId("alert-code").textContent = code;
    byId("alert-text").textContent = text;
    const button = byId("alert-act") as HTMLButtonElement;
    button.hidden = !act;
    button.textContent = act ?? "";
    button.disabled = false;
    button.onclick = () => {
      button.disabled = true;
      mend?.().then(
        () => this.clear(),
        (error: unknown) => this.fail(error),
      );
    };
    byId("alert").hidden = false;
    byId("alert").scrollIntoView({ block: "nearest" });
  }

  clear(): void {
    byId("alert").hidden = true;
  }

  fail(error: unknown): void {
    const { code = "", message } = error instanceof WgradError ? error : { message: error instanceof Error ? error.message : String(error) };
    // A lost device has told so itself, with a way out.
    if (code === "device-lost" || document.body.dataset.state === "lost") return;
    const panic = code === "panic";
    const title = panic ? "The library stopped." : "That did not work.";
    if (panic) this.alert(title, code, message, "Reload", async () => location.reload());
    else this.alert(title, code, message);
  }

  /** Reserves the device for a run, and all start buttons with it. */
  take(run: Run): boolean {
    if (this.#running) return false;
    this.#running = run;
    document.body.classList.add("busy");
    this.clear();
    return true;
  }

  release(run: Run): void {
    if (this.#running === run) this.#running = undefined;
    document.body.classList.remove("busy");
    document.dispatchEvent(new Event("idle"));
  }

  /** Does `work` after all that was asked for before: models and plans take one call at a time. */
  turn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#last.then(work, work);
    this.#last = mine.catch(() => {});
    return mine;
  }

  /** The same for what a control asks for: errors are shown. */
  soon(work: () => Promise<void>): void {
    this.turn(work).catch((error: unknown) => this.fail(error));
  }

  get busy(): boolean {
    return this.#running !== undefined;
  }
}

/** A model of a panel, and the last file of it: for the reader's disk, and for a new device. */
export class Kept<M extends LanguageModel> {
  model: M | undefined;
  #file: Uint8Array<ArrayBuffer> | undefined;
  #at = 0;

  constructor(
    readonly app: App,
    readonly load: (device: Device, source: Uint8Array | Blob) => Promise<M>,
  ) {}

  get file(): Uint8Array<ArrayBuffer> | undefined {
    return this.#file;
  }

  replace(model: M): void {
    this.model?.free();
    this.model = model;
  }

  /** Keeps a copy; at most one in ten seconds unless it is `now`. */
  async save(now = true): Promise<Uint8Array<ArrayBuffer> | undefined> {
    if (!this.model || (!now && performance.now() - this.#at < 10_000)) return this.#file;
    this.#file = await this.model.save();
    this.#at = performance.now();
    return this.#file;
  }

  lost(): void {
    this.model = undefined;
  }

  async recover(): Promise<void> {
    if (this.#file) this.model = await this.load(this.app.device, this.#file);
  }

  /** Puts buttons into a row that write the model to a file and read one. `read` shows what was read. */
  buttons(row: Element, name: string, read: () => Promise<void>): void {
    const [save, load] = [document.createElement("button"), document.createElement("label")];
    [save.type, save.textContent, save.className] = ["button", "Save", "quiet"];
    save.dataset.do = "save";
    load.className = "button quiet";
    const input = document.createElement("input");
    [input.type, input.accept] = ["file", ".safetensors"];
    input.dataset.in = "file";
    load.append("Load", input);
    row.append(save, load);
    save.onclick = () => {
      if (!this.model) return this.app.alert("There is nothing to save yet.", "", "Train a model first, or load one.");
      const write = (file: Uint8Array<ArrayBuffer> | undefined) => file && download(file, `${name}.safetensors`);
      // In the middle of a run the last copy has to do.
      if (this.app.busy) write(this.#file);
      else this.app.soon(async () => void write(await this.save()));
    };
    input.onchange = () => {
      const [file] = input.files ?? [];
      input.value = "";
      if (!file) return;
      if (this.app.busy) return this.app.alert("Something is running.", "", "Stop it first, then load a file.");
      this.app.soon(async () => {
        this.app.clear();
        const model = await this.load(this.app.device, file);
        this.replace(model);
        await this.save();
        await read();
      });
    };
  }
}

function download(bytes: Uint8Array<ArrayBuffer>, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
