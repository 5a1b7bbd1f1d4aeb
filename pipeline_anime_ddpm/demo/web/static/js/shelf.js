// The shelf of kept faces, at the foot of every tab. It lives in the browser's storage.

import {identity} from "./faces.js";
import {blob} from "./net.js";
import {$, config, flash, h, saveAs, say} from "./ui.js";

const PLACE = "anime-ddpm-shelf", box = $("shelf");
let faces = read(), onPick = () => {}, onChange = () => {};

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(PLACE) ?? "[]");
    return found.filter((face) => typeof face.query === "string" && face.picture?.startsWith("data:image/"));
  } catch {
    return [];
  }
}

function write() {
  try { localStorage.setItem(PLACE, JSON.stringify(faces)); }
  catch { say("This browser keeps nothing for this page. The shelf is lost when you close it.", true); }
}

export const kept = () => [...faces];

/** Returns whether the face is on the shelf now. */
export function add({query, name, file, labels, picture, edited}) {
  const face = {query, name, file, labels, picture, edited};
  if (faces.some((one) => identity(one) === identity(face))) { say("You keep this face already."); return false; }
  if (faces.length >= config.kept) { say(`The shelf holds ${config.kept} faces. Remove one first.`, true); return false; }
  faces.push(face);
  write();
  show();
  box.querySelector("ul").scrollLeft = 1e6;
  return true;
}

function remove(face) {
  faces = faces.filter((one) => one !== face);
  write();
  show();
  (box.querySelector(".remove") ?? $("keep")).focus();
  say(`Removed: ${face.name}.`);
}

function show() {
  box.hidden = !faces.length;
  const list = h("ul", {}, ...faces.map((face) => h("li", {},
    h("button", {type: "button", class: "tile", "aria-label": `Show ${face.name}`, onclick: () => onPick(face)},
      h("img", {src: face.picture, alt: "", width: 64, height: 64})),
    h("button", {type: "button", class: "remove", "aria-label": `Remove ${face.name}`, onclick: () => remove(face)}, "✕"))));
  box.replaceChildren(list, h("button", {type: "button", id: "sheet", onclick: sheet}, "Contact sheet"));
  onChange();
}

async function sheet() {
  try {
    saveAs(await blob("sheet", {pictures: faces.map((face) => face.picture)}), "anime-faces.png");
    flash($("sheet"), "Saved");
  } catch (error) {
    say(error.message, true);
  }
}

export const whenChanged = (call) => { onChange = call; };

export function start(pick) {
  onPick = pick;
  show();
}
