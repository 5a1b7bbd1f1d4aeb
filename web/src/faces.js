/** An exported model that draws: a name's noise, its base network, and an upscaler if the export has one. */

import { read } from "./files.js";
import { noiseFor } from "./names.js";
import { Network } from "./network.js";
import { encodePng } from "./png.js";
import { checkedRecipe, jointClass } from "./recipe.js";

/** @import { Progress } from "./files.js" */
/** @import { State } from "./network.js" */
/** @import { Picture } from "./png.js" */
/** @import { Labels, Recipe } from "./recipe.js" */
/** @typedef {typeof import("onnxruntime-common")} Runtime */
/** @typedef {"wasm" | "webgpu"} Provider what computes the networks */

/**
 * @typedef {object} Options
 * @property {boolean} [upscale] false leaves the export's upscaler out
 */

const MOST_THREADS = 4;

/**
 * Threads that onnxruntime may use here: more than one only where the server's headers isolate the page.
 * @returns {number}
 */
export function threads() {
  const cores = globalThis.crossOriginIsolated ? navigator.hardwareConcurrency || 1 : 1;
  return Math.min(cores, MOST_THREADS);
}

export class Faces {
  /** @type {Promise<unknown>} */
  #last = Promise.resolve();

  /**
   * @param {Runtime} runtime
   * @param {Recipe} recipe
   * @param {Network} base
   * @param {Network | null} upscaler
   */
  constructor(runtime, recipe, base, upscaler) {
    this.runtime = runtime;
    this.recipe = recipe;
    this.base = base;
    this.upscaler = upscaler;
  }

  /**
   * Load an export.
   * @param {Runtime | Promise<Runtime>} runtime onnxruntime-web, whose `env.wasm` is set
   * @param {URL | string} folder address of the export, with a slash at its end
   * @param {Progress} [progress]
   * @param {Provider} [provider]
   */
  static async load(runtime, folder, progress, provider = "wasm") {
    const text = new TextDecoder().decode(await read(new URL("recipe.json", folder)));
    const recipe = checkedRecipe(JSON.parse(text));
    const { base, upscaler } = recipe.networks;
    const contents = await Promise.all(
      (upscaler ? [base, upscaler] : [base]).map(({ file }) => read(new URL(file, folder), progress)),
    );
    const ready = await runtime;
    return new Faces(
      ready,
      recipe,
      await Network.open(ready, base, contents[0], provider),
      upscaler ? await Network.open(ready, upscaler, contents[1], provider) : null,
    );
  }

  /** The attributes that can be chosen, with their values. */
  get labels() {
    return this.recipe.labels;
  }

  /**
   * The pixels of a name's face. Calls wait for each other.
   * @param {string} name
   * @param {Labels} [labels]
   * @param {Options} [options]
   * @returns {Promise<Picture>}
   */
  draw(name, labels = {}, { upscale = true } = {}) {
    const drawn = this.#last.then(() => this.#draw(name, labels, upscale));
    this.#last = drawn.catch(() => {});
    return drawn;
  }

  /**
   * The face as a PNG file.
   * @param {string} name
   * @param {Labels} [labels]
   * @param {Options} [options]
   */
  async png(name, labels, options) {
    return encodePng(await this.draw(name, labels, options));
  }

  /** Give the memory back; the object draws no more. */
  async close() {
    await this.#last;
    await this.base.session.release();
    await this.upscaler?.session.release();
  }

  /**
   * @param {string} name
   * @param {Labels} labels
   * @param {boolean} upscale
   * @returns {Promise<Picture>}
   */
  async #draw(name, labels, upscale) {
    const { channels, height, width } = this.recipe.image;
    /** @type {Record<string, import("onnxruntime-common").Tensor>} */
    const inputs = {};
    const index = jointClass(labels, this.recipe.labels);
    if (Object.keys(this.recipe.labels).length) {
      inputs.class_label = new this.runtime.Tensor("int64", [BigInt(index)], [1]);
    }
    const state = await this.base.draw(noiseOf(name, [channels, height, width], this.recipe.noise.stream), inputs);
    return picture(upscale && this.upscaler ? await this.#enlarge(this.upscaler, name, state) : state);
  }

  /**
   * @param {Network} upscaler
   * @param {string} name
   * @param {State} small
   */
  #enlarge(upscaler, name, { values, shape }) {
    const { ratio = 1, stream } = upscaler.description;
    const [channels, height, width] = shape;
    const inside = values.map((x) => Math.min(Math.max(x, -1), 1));
    const small = new this.runtime.Tensor("float32", inside, [1, ...shape]);
    return upscaler.draw(noiseOf(name, [channels, ratio * height, ratio * width], stream), { small });
  }
}

/**
 * @param {string} name
 * @param {State["shape"]} shape
 * @param {number} [stream]
 * @returns {State}
 */
function noiseOf(name, shape, stream) {
  return { values: noiseFor(name, shape[0] * shape[1] * shape[2], stream), shape };
}

/**
 * RGBA bytes of an image in [-1, 1].
 * @param {State} state of 1 or 3 channels; others beyond 3 are left out
 * @returns {Picture}
 */
function picture({ values, shape: [channels, height, width] }) {
  const area = width * height;
  const data = new Uint8ClampedArray(area * 4).fill(255);
  for (let pixel = 0; pixel < area; pixel++) {
    for (let colour = 0; colour < 3; colour++) {
      const value = values[Math.min(colour, channels - 1) * area + pixel];
      data[pixel * 4 + colour] = (value / 2 + 0.5) * 255;
    }
  }
  return { width, height, data };
}
