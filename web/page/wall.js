/** Small faces of many names. */

import { enlarge, show } from "./enlarge.js";

/** @import { Labels } from "../src/recipe.js" */
/** @import { Drawn } from "./painter.js" */

const AT_ONCE = 24;

export class Wall {
  #shown = 0;

  /**
   * @param {HTMLElement} list
   * @param {string[]} names
   * @param {(name: string, labels: Labels) => Promise<Drawn>} draw
   * @param {(name: string) => void} picked
   */
  constructor(list, names, draw, picked) {
    this.list = list;
    this.names = names;
    this.draw = draw;
    this.picked = picked;
  }

  get isFull() {
    return this.#shown >= this.names.length;
  }

  /** Show more of the names. */
  more() {
    for (const name of this.names.slice(this.#shown, this.#shown + AT_ONCE)) {
      this.list.append(this.#tile(name));
    }
    this.#shown += AT_ONCE;
  }

  /** @param {string} name */
  #tile(name) {
    const tile = document.createElement("li");
    const button = document.createElement("button");
    const canvas = document.createElement("canvas");
    const caption = document.createElement("span");
    button.type = "button";
    caption.textContent = name;
    canvas.setAttribute("aria-hidden", "true");
    button.append(canvas, caption);
    button.addEventListener("click", () => this.picked(name));
    tile.append(button);
    this.draw(name, {}).then(
      ({ picture }) => {
        show(canvas, enlarge(picture, 2));
        tile.classList.add("drawn");
      },
      () => tile.remove(), // the status line says why
    );
    return tile;
  }
}
