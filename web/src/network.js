/** A network of an export, and the steps of the recipe in which it draws. */

/** @import { InferenceSession, Tensor } from "onnxruntime-common" */
/** @import { Runtime, Provider } from "./faces.js" */
/** @import { Step, Description } from "./recipe.js" */

/**
 * An image's numbers, channel by channel, row by row.
 * @typedef {object} State
 * @property {Float32Array} values
 * @property {[number, number, number]} shape channels, height, width
 */

export class Network {
  /**
   * @param {Runtime} runtime
   * @param {Description} description
   * @param {InferenceSession} session
   */
  constructor(runtime, description, session) {
    this.runtime = runtime;
    this.description = description;
    this.session = session;
  }

  /**
   * @param {Runtime} runtime
   * @param {Description} description
   * @param {Uint8Array} content of the ONNX file
   * @param {Provider} provider
   */
  static async open(runtime, description, content, provider) {
    const session = await runtime.InferenceSession.create(content, {
      executionProviders: provider === "wasm" ? ["wasm"] : [provider, "wasm"],
      graphOptimizationLevel: "all",
      extra: { session: { disable_quant_qdq: "1" } }, // restores weights of 8 bits once, not at each call
    });
    return new Network(runtime, description, session);
  }

  /**
   * The steps from noise to an image in [-1, 1].
   * @param {State} noise
   * @param {Record<string, Tensor>} inputs that all steps have
   * @returns {Promise<State>}
   */
  async draw({ values: noise, shape }, inputs) {
    const { steps, clip, block, detail_scale: scale = 1 } = this.description;
    const { Tensor } = this.runtime;
    let values = noise;
    /** @type {Float32Array | null} */
    let enlarged = null;
    for (const step of steps) {
      const sample = new Tensor("float32", values, [1, ...shape]);
      const timestep = new Tensor("float32", [step.timestep], [1]);
      const outputs = await this.session.run({ ...inputs, sample, timestep });
      values = stepped(values, /** @type {Float32Array} */ (outputs.output.data), step, clip ?? Infinity);
      enlarged = /** @type {Float32Array | undefined} */ (outputs.enlarged?.data)?.slice() ?? null;
      for (const output of Object.values(outputs)) output.dispose();
    }
    if (enlarged) {
      const small = enlarged; // an upscaler draws what is missing in it
      values = values.map((x, i) => small[i] + x / scale);
    }
    removeBlockPattern(values, shape[2], shape[1], block);
    return { values, shape };
  }
}

/**
 * Take out the pattern that repeats in all blocks of an image, as the pipeline does.
 * @param {Float32Array} values the image's channels, one after the other
 * @param {number} width
 * @param {number} height
 * @param {number} block side of a block in pixels
 */
function removeBlockPattern(values, width, height, block) {
  const area = width * height, phases = block * block;
  const phaseOf = (/** @type {number} */ i) => (Math.floor(i / width) % block) * block + (i % block);
  for (let start = 0; start < values.length; start += area) {
    const channel = values.subarray(start, start + area), sums = new Float64Array(phases);
    channel.forEach((x, i) => (sums[phaseOf(i)] += x));
    const mean = sums.reduce((sum, x) => sum + x) / area;
    channel.forEach((x, i) => (channel[i] = x - sums[phaseOf(i)] / (area / phases) + mean));
  }
}

/**
 * The next state of the sampler.
 * @param {Float32Array} state
 * @param {Float32Array} output of the network
 * @param {Step} step
 * @param {number} clip
 */
function stepped(state, output, { original, noise, next }, clip) {
  return state.map((x, i) => {
    const y = output[i];
    const image = Math.min(Math.max(original[0] * x + original[1] * y, -clip), clip);
    return next[0] * image + next[1] * (noise[0] * x + noise[1] * y);
  });
}
