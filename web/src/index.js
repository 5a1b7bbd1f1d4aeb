/**
 * The package: `import { face } from "anime-ddpm-faces"; const png = await face("Ada")`.
 */

import * as runtime from "onnxruntime-web/wasm";
import { Faces, threads } from "./faces.js";

export { Faces } from "./faces.js";
export { noiseFor } from "./names.js";
export { encodePng, wrapSvg } from "./png.js";

/** @import { Options } from "./faces.js" */
/** @import { Labels } from "./recipe.js" */

runtime.env.wasm.numThreads = threads();

/** @type {Map<string, Promise<Faces>>} */
const loaded = new Map();

/**
 * The model at an address, loaded once.
 * @param {URL | string} [from] folder of an export, with a slash at its end; by default the package's own model
 * @returns {Promise<Faces>}
 */
export function load(from = new URL("../model/", import.meta.url)) {
  const key = String(from);
  let model = loaded.get(key);
  if (!model) {
    model = Faces.load(runtime, from);
    loaded.set(key, model);
    model.catch(() => loaded.delete(key)); // the next call tries again
  }
  return model;
}

/**
 * The face of a name as a PNG file; the same name always gives the same face.
 * @param {string} name
 * @param {Labels} [labels] such as `{ hair: "blue" }`, if the model has labels
 * @param {Options & { from?: URL | string }} [options] `from` is where the model is, as for `load`
 * @returns {Promise<Blob>}
 */
export async function face(name, labels = {}, { from, ...options } = {}) {
  return (await load(from)).png(name, labels, options);
}
