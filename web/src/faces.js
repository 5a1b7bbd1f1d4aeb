/** An exported model that draws: the steps of its recipe around a network of onnxruntime. */

import { read } from "./files.js";
import { noiseFor } from "./names.js";
import { encodePng } from "./png.js";
import { checkedRecipe, jointClass } from "./recipe.js";

/** @import { Progress } from "./files.js" */
/** @import { Picture } from "./png.js" */
/** @import { Labels, Recipe } from "./recipe.js" */
/** @typedef {typeof import("onnxruntime-common")} Runtime */
/** @typedef {"wasm" | "webgpu"} Provider what computes the network */

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
   * @param {import("onnxruntime-common").InferenceSession} session
   */
  constructor(runtime, recipe, session) {
    this.runtime = runtime;
    this.recipe = recipe;
    this.session = session;
  }

  /**
   * Load an export.
   * @param {Runtime | Promise<Runtime>} runtime onnxruntime-web, whose `env.wasm` is set
   * @param {URL | string} folder address of the export, with a slash at its end
   * @param {Progress} [progress]
   * @param {Provider} [provider]
   */
  static async load(runtime, folder, progress, provider) {
    const text = new TextDecoder().decode(await read(new URL("recipe.json", folder)));
    const recipe = checkedRecipe(JSON.parse(text));
    const model = await read(new URL(recipe.networks.base.file, folder), progress);
    return Faces.open(await runtime, recipe, model, provider);
  }

  /**
   * @param {Runtime} runtime
   * @param {Recipe} recipe
   * @param {Uint8Array} model content of the ONNX file
   * @param {Provider} [provider]
   */
  static async open(runtime, recipe, model, provider = "wasm") {
    const session = await runtime.InferenceSession.create(model, {
      executionProviders: provider === "wasm" ? ["wasm"] : [provider, "wasm"],
      graphOptimizationLevel: "all",
      extra: { session: { disable_quant_qdq: "1" } }, // restores weights of 8 bits once, not at each call
    });
    return new Faces(runtime, recipe, session);
  }

  /** The attributes that can be chosen, with their values. */
  get labels() {
    return this.recipe.labels;
  }

  /**
   * The pixels of a name's face. Calls wait for each other.
   * @param {string} name
   * @param {Labels} [labels]
   * @returns {Promise<Picture>}
   */
  draw(name, labels = {}) {
    const drawn = this.#last.then(() => this.#draw(name, labels));
    this.#last = drawn.catch(() => {});
    return drawn;
  }

  /**
   * The face as a PNG file.
   * @param {string} name
   * @param {Labels} [labels]
   */
  async png(name, labels) {
    return encodePng(await this.draw(name, labels));
  }

  /** Give the memory back; the object draws no more. */
  async close() {
    await this.#last;
    await this.session.release();
  }

  /**
   * @param {string} name
   * @param {Labels} labels
   * @returns {Promise<Picture>}
   */
  async #draw(name, labels) {
    const { Tensor } = this.runtime;
    const { image, noise, networks } = this.recipe;
    const { channels, height, width } = image;
    /** @type {Record<string, import("onnxruntime-common").Tensor>} */
    const inputs = {};
    const index = jointClass(labels, this.recipe.labels);
    if (Object.keys(this.recipe.labels).length) {
      inputs.class_label = new Tensor("int64", [BigInt(index)], [1]);
    }
    let state = noiseFor(name, channels * height * width, noise.stream);
    for (const step of networks.base.steps) {
      inputs.sample = new Tensor("float32", state, [1, channels, height, width]);
      inputs.timestep = new Tensor("float32", [step.timestep], [1]);
      const { output } = await this.session.run(inputs);
      state = stepped(state, /** @type {Float32Array} */ (output.data), step, networks.base.clip ?? Infinity);
      output.dispose();
    }
    removeBlockPattern(state, width, height, networks.base.block);
    return { width, height, data: pixels(state, channels, width * height) };
  }
}

/**
 * Take out the pattern that repeats in all blocks of an image, as the pipeline does.
 * @param {Float32Array} state the image's channels, one after the other
 * @param {number} width
 * @param {number} height
 * @param {number} block side of a block in pixels
 */
function removeBlockPattern(state, width, height, block) {
  const area = width * height, phases = block * block;
  const phaseOf = (/** @type {number} */ i) => (Math.floor(i / width) % block) * block + (i % block);
  for (let start = 0; start < state.length; start += area) {
    const channel = state.subarray(start, start + area), sums = new Float64Array(phases);
    channel.forEach((x, i) => (sums[phaseOf(i)] += x));
    const mean = sums.reduce((sum, x) => sum + x) / area;
    channel.forEach((x, i) => (channel[i] = x - sums[phaseOf(i)] / (area / phases) + mean));
  }
}

/**
 * The next state of the sampler.
 * @param {Float32Array} state
 * @param {Float32Array} output of the network
 * @param {import("./recipe.js").Step} step
 * @param {number} clip
 */
function stepped(state, output, { original, noise, next }, clip) {
  return state.map((x, i) => {
    const y = output[i];
    const image = Math.min(Math.max(original[0] * x + original[1] * y, -clip), clip);
    return next[0] * image + next[1] * (noise[0] * x + noise[1] * y);
  });
}

/**
 * RGBA bytes of an image in [-1, 1] with its channels first.
 * @param {Float32Array} state
 * @param {number} channels 1 or 3; others beyond 3 are left out
 * @param {number} area
 */
function pixels(state, channels, area) {
  const data = new Uint8ClampedArray(area * 4).fill(255);
  for (let pixel = 0; pixel < area; pixel++) {
    for (let colour = 0; colour < 3; colour++) {
      const value = state[Math.min(colour, channels - 1) * area + pixel];
      data[pixel * 4 + colour] = (value / 2 + 0.5) * 255;
    }
  }
  return data;
}
