/** What an export says of itself, and the class of chosen labels. */

export const FORMAT = 1;
export const ANY = "any";

/**
 * @typedef {object} Step
 * @property {number} timestep
 * @property {[number, number]} original coefficients of the state and of the network's output in the predicted image
 * @property {[number, number]} noise the same in the predicted noise
 * @property {[number, number]} next coefficients of that image and that noise in the next state
 *
 * @typedef {object} Description of a network
 * @property {string} file
 * @property {number | null} clip
 * @property {number} block side in pixels of the blocks that the network sees as channels
 * @property {Step[]} steps
 * @property {number} bytes of the model before compression
 * @property {number} [ratio] of an upscaler: side of its pictures over that of the small ones
 * @property {number} [detail_scale] of an upscaler: its state over what it adds to the enlarged picture
 * @property {number} [stream] of an upscaler: that of its noise
 *
 * @typedef {object} Recipe
 * @property {number} format
 * @property {string} title
 * @property {string} licence
 * @property {{channels: number, height: number, width: number}} image
 * @property {{stream: number}} noise
 * @property {Record<string, string[]>} labels attributes, sorted, with their values
 * @property {{base: Description, upscaler?: Description}} networks
 *
 * @typedef {Record<string, string | null | undefined>} Labels
 */

/**
 * @param {any} recipe
 * @returns {Recipe}
 */
export function checkedRecipe(recipe) {
  if (recipe?.format !== FORMAT) {
    throw new Error(`recipe.json has format ${recipe?.format}, not ${FORMAT}; export the model again.`);
  }
  return recipe;
}

/** @param {string} name */
const plain = (name) => name.trim().toLowerCase();

/**
 * The class of a combination: mixed radix with "any" as 0, the last attribute fastest.
 * @param {Labels} labels
 * @param {Record<string, string[]>} known
 */
export function jointClass(labels, known) {
  const asked = new Map(Object.entries(labels).map(([attribute, value]) => [plain(attribute), value]));
  let index = 0;
  for (const [attribute, names] of Object.entries(known)) {
    const value = asked.get(plain(attribute));
    asked.delete(plain(attribute));
    const place = value == null ? 0 : [ANY, ...names.map(plain)].indexOf(plain(value));
    if (place < 0) {
      throw new RangeError(`There is no ${attribute} "${value}"; choose one of ${names.join(", ")}, or ${ANY}.`);
    }
    index = index * (names.length + 1) + place;
  }
  for (const [attribute, value] of asked) {
    if (value != null) {
      const has = Object.keys(known).join(", ") || "none";
      throw new RangeError(`This model has no label "${attribute}"; it has ${has}.`);
    }
  }
  return index;
}
