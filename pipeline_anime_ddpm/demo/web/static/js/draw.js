// The first tab: one large face, what can be done with it, and the wall of all the others.

import {download, identity, largeOf, pictureOf, places, tile} from "./faces.js";
import {Latest} from "./net.js";
import * as shelf from "./shelf.js";
import {$, arrows, config, flash, h, isCalm, newQuery, randomSeed, say, share, toAddress} from "./ui.js";

const frame = $("frame"), wall = $("wall"), wishes = {};
const drawing = new Latest("draw"), filling = new Latest("draw", {quiet: true});
const BATCH = 6;
let current = config.first, grid = null;

export const shown = () => current;

const describe = (face) => face.edited
  ? face.name : Object.entries(face.labels).map(([label, value]) => `${value} ${label}`).join(", ") || "any face";

/** What can be done with the large face waits until it is drawn. */
function busy(isBusy) {
  for (const name of ["more", "keep", "share", "repair", "save-512", "save-1024"]) $(name).disabled = isBusy;
  if (current.edited) $("more").disabled = true;
}

/** Make a face the large one. */
export function show(face, {scrolls = false, quiet = false} = {}) {
  drawing.stop();
  current = face;
  closeGrid();
  busy(false);
  large(largeOf(face), face.name, face.picture);
  mark();
  if (!quiet) say(describe(face));
  $("share").hidden = Boolean(face.edited);
  toAddress(face.edited ? "" : face.query);
  if (scrolls && frame.getBoundingClientRect().top < 0) {
    frame.scrollIntoView({block: "start", behavior: isCalm() ? "auto" : "smooth"});
  }
}

/** Put a picture into the frame; a small one stands in until it has come. */
function large(address, name, meanwhile = null) {
  const image = $("large");
  image.alt = name;
  if (!meanwhile || address.startsWith("data:")) {
    image.src = address;
    return;
  }
  const coming = new Image();
  image.src = meanwhile;
  coming.onload = () => { if (current.name === name && !drawing.isBusy) image.src = address; };
  coming.src = address;
}

function mark() {
  for (const one of wall.querySelectorAll(".tile")) {
    const query = one.getAttribute("href")?.slice(1);
    if (query && query === current.query && !current.edited) one.setAttribute("aria-current", "true");
    else one.removeAttribute("aria-current");
  }
}

function pick(face) {
  show(face, {scrolls: true});
}

/** Draw one face large, from noise, and put it first on the wall. */
export function drawLarge(query, {onDone} = {}) {
  closeGrid();
  busy(true);
  drawing.ask({faces: [query], large: true}, {
    onUpdate: ({pictures}) => { if (pictures) { $("large").src = pictures[0]; $("large").alt = "a face that is being drawn"; } },
    onDone: ({faces: [face]}) => {
      addFirst(face);
      show(face);
      onDone?.(face);
    },
    onError: () => { busy(false); large(largeOf(current), current.name, current.picture); return false; },
  });
}

function addFirst(face) {
  const same = [...wall.children].find((one) => one.getAttribute("href") === `?${face.query}`);
  same?.remove();
  wall.prepend(tile(face, pick));
}

/** More faces at the end of the wall, or at its start. */
function more(count = BATCH, atStart = false) {
  if (filling.isBusy) return;
  const queries = Array.from({length: count}, () => newQuery(wishes)), made = places(count, pick);
  wall[atStart ? "prepend" : "append"](...made.elements);
  filling.ask({faces: queries}, {
    onUpdate: made.show,
    onDone: ({faces}) => { made.fill(faces); fillScreen(); },
    onError: () => { made.remove(); return false; },
  });
}

let isEndSeen = false;

function fillScreen() {
  if (isEndSeen && !$("draw").hidden) more();
}

// More like this: eight variations around the face, in its place.

function closeGrid() {
  grid?.remove();
  grid = null;
  variations.stop();
  $("large").hidden = false;
  frame.classList.remove("nine");
  const button = $("more");
  if (button.dataset.usual) button.innerHTML = button.dataset.usual;
}

const variations = new Latest("draw");

async function moreLikeThis() {
  if (grid) { closeGrid(); say(describe(current)); return; }
  drawing.stop();
  const face = current, button = $("more");
  const queries = Array.from({length: 8}, () => {
    const query = new URLSearchParams(face.query);
    query.set("v", [query.get("v"), randomSeed()].filter(Boolean).join("."));
    return query.toString();
  });
  const choose = (chosen) => { if (identity(chosen) !== identity(face)) addFirst(chosen); show(chosen); };
  const made = places(8, choose);
  const middle = tile({...face, picture: await pictureOf(face)}, choose);
  grid = h("div", {style: "display: contents", role: "group", "aria-label": "Variations"});
  grid.append(...made.elements.slice(0, 4), middle, ...made.elements.slice(4));
  $("large").hidden = true;
  frame.classList.add("nine");
  frame.append(grid);
  button.dataset.usual ??= button.innerHTML;
  button.textContent = "Back";
  variations.ask({faces: queries}, {
    what: "Varying",
    onUpdate: made.show,
    onDone: ({faces}) => { made.fill(faces); say("Choose one of them, or go back."); },
    onError: () => { closeGrid(); return false; },
  });
}

// Labels: the same seed with another one, and a wish for the faces that follow.

function wish(label, value) {
  document.querySelector(`[data-label="${CSS.escape(label)}"] legend b`).textContent = value;
  if (value === "any") { delete wishes[label]; return; }
  wishes[label] = value;
  const query = new URLSearchParams(current.query);
  for (const [name, wished] of Object.entries(wishes)) query.set(name, wished);
  drawLarge(query.toString());
}

export function surprise() {
  for (const any of document.querySelectorAll(".swatches input[value=any]")) {
    any.checked = true;
    wish(any.name, "any");
  }
  drawLarge(newQuery(), {onDone: () => more(BATCH - 1, true)});
}

export async function keep(button, face) {
  await pictureOf(face);
  if (shelf.add(face)) flash(button, "Kept");
}

/** Space draws another face, wherever nothing else waits for it. */
function onSpace(event) {
  const isElsewhere = event.target.closest("input, textarea, select, button, a, summary") || $("draw").hidden;
  if (event.key !== " " || isElsewhere || event.repeat) return;
  event.preventDefault();
  drawLarge(newQuery(wishes));
}

export function start() {
  arrows(wall, "a.tile, button.tile");
  arrows(frame, "a.tile, button.tile");
  [...wall.querySelectorAll(".drawn")].forEach((one, at) => {
    one.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      fromSprite(config.wall[at]);
    });
  });
  $("more").addEventListener("click", moreLikeThis);
  $("keep").addEventListener("click", () => keep($("keep"), current));
  $("share").addEventListener("click", () => share($("share"), current.query, current.name));
  for (const size of [512, 1024]) {
    const button = $(`save-${size}`);
    button.addEventListener("click", () => download(current, size, button));
  }
  for (const input of document.querySelectorAll(".swatches input")) {
    input.addEventListener("change", () => wish(input.name, input.value));
  }
  $("surprise").addEventListener("click", surprise);
  $("again").addEventListener("click", () => more());
  document.addEventListener("keydown", onSpace);
  new IntersectionObserver(([entry]) => { isEndSeen = entry.isIntersecting; fillScreen(); }, {rootMargin: "200px"})
    .observe($("again"));
  mark();
  if (config.trouble) say(config.trouble, true);
  else if (config.asked) say(describe(current));
  else if ($("draw").hidden === false) drawLarge(newQuery());
}

/** A pre-drawn face: its part of the sprite at once, the large one from the server. */
async function fromSprite(face) {
  await pictureOf(face);
  pick(face);
}
