/** Asks the worker for faces: one at a time, the large one before the small ones of the wall. */

/** @import { Picture } from "../src/png.js" */
/** @import { Labels, Recipe } from "../src/recipe.js" */
/** @typedef {{ picture: Picture, seconds: number }} Drawn */
/** @typedef {{ name: string, labels: Labels, upscale: boolean }} Wish */
/** @typedef {Wish & { done: (drawn: Drawn) => void, failed: (error: Error) => void }} Job */
/** @typedef {import("../src/faces.js").Provider} Provider */
/** @typedef {{ recipe: Recipe, threads: number, provider: Provider }} Model */

export class Painter {
  /** @type {Job[]} */ #first = [];
  /** @type {Job[]} */ #later = [];
  /** @type {Job | null} */ #current = null;
  #count = 0;

  /**
   * @param {(bytes: number, provider: Provider) => void} progress called as parts of the model and runtime arrive
   * @param {boolean} [hasWebgpu] whether the export holds the runtime for it
   */
  constructor(progress, hasWebgpu = false) {
    const script = new URL(`./worker.js${hasWebgpu ? "?webgpu" : ""}`, import.meta.url);
    this.worker = new Worker(script, { type: "module" });
    /** @type {Promise<Model>} */
    this.model = new Promise((resolve, reject) => {
      this.worker.addEventListener("error", () => reject(new Error("This browser cannot start the model.")));
      this.worker.addEventListener("message", ({ data }) => {
        if (data.kind === "progress") progress(data.bytes, data.provider);
        else if (data.kind === "ready") resolve(data);
        else if (data.kind === "failed") reject(new Error(data.reason));
        else this.#finish(data);
      });
    });
    this.model.then(() => this.#next(), () => this.worker.terminate());
  }

  /**
   * @param {string} name
   * @param {Labels} labels
   * @param {boolean} [isLarge] by the upscaler, if there is one, and before all others; a large one that has not begun
   * is dropped
   * @returns {Promise<Drawn>}
   */
  draw(name, labels, isLarge = false) {
    return new Promise((done, failed) => {
      const job = { name, labels, upscale: isLarge, done, failed };
      if (isLarge) {
        this.#first = [job];
      } else {
        this.#later.push(job);
      }
      this.model.then(() => this.#next(), failed);
    });
  }

  #next() {
    if (!this.#current) {
      this.#current = this.#first.shift() ?? this.#later.shift() ?? null;
      if (this.#current) {
        const { name, labels, upscale } = this.#current;
        this.worker.postMessage({ id: ++this.#count, name, labels, upscale });
      }
    }
  }

  /** @param {{ kind: string, reason: string } & Drawn} answer */
  #finish(answer) {
    const job = this.#current;
    this.#current = null;
    if (answer.kind === "drawn") job?.done(answer);
    else job?.failed(new Error(answer.reason));
    this.#next();
  }
}
