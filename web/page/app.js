/** The page: what is asked for, and what is shown of it. */

import { encodePng, wrapSvg } from "../src/png.js";
import { plainName } from "../src/names.js";
import { enlarge, show } from "./enlarge.js";
import { FIRST, readChoice, writeChoice } from "./link.js";
import { anotherName, WALL } from "./names.js";
import { keepOffline } from "./offline.js";
import { Painter } from "./painter.js";
import { Swatches } from "./swatches.js";
import { Wall } from "./wall.js";

/** @import { Picture } from "../src/png.js" */
/** @import { Model } from "./painter.js" */

const LARGE = 512; // pixels of the face on the page and of its large file; more if the model draws larger ones
const PAUSE = 250; // milliseconds without a key before a name is drawn

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @returns {T}
 */
const element = (id) => /** @type {any} */ (document.getElementById(id));

/** @type {HTMLInputElement} */ const field = element("name");
/** @type {HTMLCanvasElement} */ const canvas = element("face");
/** @type {HTMLProgressElement} */ const progress = element("progress");
const status = element("status");
const downloads = ["png", "png-large", "svg"].map((id) => /** @type {HTMLButtonElement} */ (element(id)));
const swatches = new Swatches(element("swatches"), () => changed());

/** @type {Painter} */
let painter;
/** @type {Picture | null} */
let current = null;

/** @param {{ width: number }} picture */
const factor = ({ width }) => Math.max(1, Math.round(LARGE / width));

/** @param {string} text */
const say = (text) => (status.textContent = text);

/** Show the face of what is chosen, and put it into the address. */
async function draw() {
  const choice = { name: field.value, labels: swatches.chosen };
  history.replaceState(null, "", writeChoice(choice));
  element("caption").textContent = plainName(choice.name) || "(no name)";
  document.title = plainName(choice.name) ? `${plainName(choice.name)} · A name becomes a face` : "A name becomes a face";
  try {
    const { picture, seconds } = await painter.draw(choice.name, choice.labels, true);
    if (choice.name === field.value) {
      shown(picture, choice.name);
      say(`Drawn on your machine in ${seconds.toFixed(2)} s.`);
    }
  } catch (error) {
    say(/** @type {Error} */ (error).message);
  }
}

/**
 * @param {Picture} picture
 * @param {string} name
 */
function shown(picture, name) {
  current = picture;
  show(canvas, enlarge(picture, factor(picture)));
  canvas.setAttribute("aria-label", `The face of ${plainName(name) || "no name"}`);
  canvas.dataset.name = name;
  document.body.classList.add("has-face");
  for (const button of downloads) button.disabled = false;
}

let waiting = 0;

/** Draw once the keys have been still for a moment. */
function changed(pause = 0) {
  clearTimeout(waiting);
  waiting = window.setTimeout(draw, pause);
}

/** @param {string} name */
function choose(name) {
  field.value = name;
  changed();
}

/** The face of the first name, which the export has drawn, while the model is on its way. */
async function showFirst() {
  if (location.hash === "" || location.hash === writeChoice({ name: FIRST, labels: {} })) {
    const image = new Image();
    image.src = "first.png";
    await image.decode();
    if (!current) {
      const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
      context?.drawImage(image, 0, 0);
      const pixels = context?.getImageData(0, 0, image.width, image.height);
      if (pixels) show(canvas, enlarge(/** @type {Picture} */ (pixels), factor(pixels)));
      document.body.classList.add("has-preview");
    }
  }
}

/** Load the model, then draw; after a failure the button calls this again. */
function start() {
  const sizes = /** @type {any} */ (globalThis).FILES?.sizes ?? {};
  const packed = Object.keys(sizes).filter((path) => path.endsWith(".gz"));
  let arrived = 0;
  element("loading").hidden = false;
  element("retry").hidden = true;
  painter = new Painter((bytes, provider) => {
    const other = provider === "wasm" ? ".jsep." : "threaded.wasm";
    const total = packed.reduce((sum, path) => (path.includes(other) ? sum : sum + sizes[path]), 0);
    arrived += bytes;
    progress.value = total ? arrived / total : 0;
    say(`Loading the model: ${(arrived / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB …`);
  }, "runtime/ort.webgpu.min.mjs" in sizes);
  say("Loading the model …");
  painter.model.then(ready, (error) => {
    element("loading").hidden = true;
    element("retry").hidden = false;
    say(`${error.message} Check the connection, then try again.`);
  });
}

/** @param {Model} model */
async function ready({ recipe, threads, provider }) {
  element("loading").hidden = true;
  say("Starting the model …");
  swatches.offer(recipe.labels);
  swatches.choose(readChoice(location.hash).labels);
  describe(recipe, provider === "webgpu" ? "WebGPU" : `${threads} thread${threads === 1 ? "" : "s"}`);
  await draw();
  const wall = new Wall(element("wall"), WALL, (name, labels) => painter.draw(name, labels), (name) => {
    choose(name);
    scrollTo({ top: 0, behavior: "smooth" });
  });
  element("wall-section").hidden = false;
  const more = element("more");
  more.onclick = () => {
    wall.more();
    more.hidden = wall.isFull;
  };
  more.click();
  keepOffline();
}

/**
 * What the model is, and what its pictures may be used for.
 * @param {Model["recipe"]} recipe
 * @param {string} by what computes it
 */
function describe({ title, licence, image, networks }, by) {
  const terms = element("terms");
  const isResearch = licence.split(" and ").includes("research-only");
  terms.textContent = isResearch
    ? "Research only, until there is a model on free data: this one learned from drawings whose artists were not " +
      "asked. Do not use these pictures commercially, nor as anybody's likeness."
    : `Licence of the model, which these pictures inherit: ${licence}.`;
  terms.hidden = false;
  const { base, upscaler } = networks;
  const [width, height] = [image.width, image.height].map((side) => side * (upscaler?.ratio ?? 1));
  const steps = base.steps.length + (upscaler?.steps.length ?? 0);
  element("png-large").textContent = `PNG, ${width * factor({ width })} px`;
  element("about").textContent =
    `Model “${title}”, ${width} × ${height} pixels, ${steps} network calls a face, ${by}. ` +
    `Licence of the model: ${licence}.`;
}

/**
 * @param {Blob} file
 * @param {string} ending
 */
function save(file, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = `${plainName(field.value).replace(/[\\/:*?"<>|\u0000-\u001f]/g, "_") || "face"}${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

element("controls").addEventListener("submit", (event) => event.preventDefault());
field.addEventListener("input", () => changed(PAUSE));
element("another").addEventListener("click", () => choose(anotherName(field.value)));
element("retry").addEventListener("click", start);
element("png").addEventListener("click", async () => current && save(await encodePng(current), ".png"));
element("png-large").addEventListener("click", async () => {
  if (!current) return;
  const large = enlarge(current, factor(current));
  save(await encodePng(large), `-${large.width}.png`);
});
element("svg").addEventListener("click", async () => {
  if (current) save(await wrapSvg(await encodePng(current), plainName(field.value)), ".svg");
});
element("link").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    say("Link copied.");
  } catch {
    say("The link is in the address bar.");
  }
});
window.addEventListener("hashchange", () => {
  const choice = readChoice(location.hash);
  swatches.choose(choice.labels);
  choose(choice.name);
});

field.value = readChoice(location.hash).name;
element("caption").textContent = plainName(field.value);
showFirst().catch(() => {}); // a decoration
start();
