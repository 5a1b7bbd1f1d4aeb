/** The choices of a model's labels: a row of colours for each attribute, with "any" first. */

/** @import { Labels } from "../src/recipe.js" */

/** @type {Record<string, string>} */
const COLOURS = {
  aqua: "#5fd4d6", black: "#2b2a33", blonde: "#f2d27a", blue: "#4f7fe8", brown: "#8a5a3c", gray: "#a3a6b1",
  green: "#5fb56a", orange: "#f08b3c", pink: "#f58fb4", purple: "#9a6be0", red: "#d8434e", white: "#f7f5f2",
  yellow: "#f3cf3f",
}; // prettier-ignore

export class Swatches {
  /**
   * @param {HTMLElement} place
   * @param {(labels: Labels) => void} changed
   */
  constructor(place, changed) {
    this.place = place;
    place.addEventListener("change", () => changed(this.chosen));
  }

  /**
   * Show the choices of a model; nothing for a model without labels.
   * @param {Record<string, string[]>} known
   */
  offer(known) {
    this.place.replaceChildren(...Object.entries(known).map(([attribute, names]) => row(attribute, names)));
  }

  /** @returns {Labels} */
  get chosen() {
    const inputs = this.place.querySelectorAll("input:checked");
    const pairs = Array.from(inputs, (input) => [
      /** @type {HTMLInputElement} */ (input).name,
      /** @type {HTMLInputElement} */ (input).value,
    ]);
    return Object.fromEntries(pairs.filter(([, value]) => value));
  }

  /** @param {Labels} labels what is not among the choices is "any" */
  choose(labels) {
    for (const input of /** @type {NodeListOf<HTMLInputElement>} */ (this.place.querySelectorAll("input"))) {
      const wanted = labels[input.name] ?? "";
      const names = Array.from(this.place.querySelectorAll(`[name="${CSS.escape(input.name)}"]`));
      const isKnown = names.some((other) => /** @type {HTMLInputElement} */ (other).value === wanted);
      input.checked = input.value === (isKnown ? wanted : "");
    }
  }
}

/**
 * @param {string} attribute
 * @param {string[]} names
 */
function row(attribute, names) {
  const group = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = attribute[0].toUpperCase() + attribute.slice(1);
  group.append(legend, ...["", ...names].map((name) => swatch(attribute, name)));
  return group;
}

/**
 * @param {string} attribute
 * @param {string} name "" is any
 */
function swatch(attribute, name) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: attribute, value: name, checked: !name });
  const dot = document.createElement("span");
  const colour = COLOURS[name.toLowerCase()];
  label.title = name || "any";
  label.className = colour || !name ? "swatch" : "swatch word";
  dot.textContent = name || "any";
  if (colour) {
    dot.style.setProperty("--colour", colour);
  } else if (!name) {
    label.classList.add("any");
  }
  label.append(input, dot);
  return label;
}
