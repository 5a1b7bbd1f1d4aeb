// Edit: repair the part that is painted over, or vary a whole picture. The picture is a face or an upload.

import {download, pictureOf} from "./faces.js";
import {Latest} from "./net.js";
import * as shelf from "./shelf.js";
import {$, field, flash, h, randomSeed, say, toAddress} from "./ui.js";

const SIDE = 448, INK = "#e5487f", SMALL = 256;
const editing = new Latest("edit", {patient: true});
let canvas, paper, picture = null, base = "", strokes = [], result = null, seed = 0, strength, brush, page, isVarying = false, isUpload = false;

export function build(section, shared) {
  page = shared;
  canvas = h("canvas", {class: "paint", width: SIDE, height: SIDE, "aria-label": "The picture; paint over what is to be drawn anew", role: "img", tabindex: 0});
  paper = canvas.getContext("2d");
  const shown = h("output", {}, "0.6");
  strength = h("input", {type: "range", min: 0, max: 1, step: 0.05, value: 0.6, oninput: () => { shown.textContent = strength.value; vary(); }});
  brush = h("input", {type: "range", min: 12, max: 120, value: 48});
  const file = h("input", {type: "file", accept: "image/*", id: "upload", "aria-label": "Choose a picture", onchange: () => upload(file.files[0])});
  section.replaceChildren(h("div", {class: "two"},
    h("div", {}, h("div", {class: "frame"}, canvas),
      h("div", {class: "row"}, h("span", {class: "file"}, "Choose a picture", file),
        h("button", {type: "button", onclick: () => { strokes = []; paint(); }}, "Clear the paint")),
      field("brush", "Brush", brush),
      h("div", {class: "row"},
        h("button", {type: "button", class: "primary", id: "do-repair", onclick: repair}, "Repair what is painted"),
        h("button", {type: "button", id: "do-vary", onclick: () => { seed = randomSeed(); vary(); }}, "Vary it all")),
      field("strength", "How much changes in a variation", strength, shown)),
    h("div", {}, h("div", {class: "frame compare", id: "compare"}, h("p", {class: "empty"}, "Paint over what you want drawn anew, then repair it. Or vary the whole picture.")),
      h("div", {class: "said"}),
      h("input", {type: "range", min: 0, max: 100, value: 50, id: "cut", disabled: true, "aria-label": "Before and after", oninput: () => $("compare").style.setProperty("--cut", `${$("cut").value}%`)}),
      h("div", {class: "row"}, ...[
        ["edit-again", "Another try", () => { seed = randomSeed(); (isVarying ? vary : repair)(); }],
        ["edit-use", "Go on from it", () => put(result.picture, result)],
        ["edit-keep", "Keep", () => { if (shelf.add(result)) flash($("edit-keep"), "Kept"); }],
        ["edit-512", "↓ 512 px", () => download(result, 512, $("edit-512"))],
        ["edit-1024", "↓ 1024 px", () => download(result, 1024, $("edit-1024"))],
      ].map(([id, name, onclick]) => h("button", {type: "button", id, disabled: true, onclick}, name))))));
  canvas.addEventListener("pointerdown", begin);
  canvas.addEventListener("pointermove", go);
  canvas.addEventListener("keydown", byKey);
  canvas.addEventListener("dragover", (event) => event.preventDefault());
  canvas.addEventListener("drop", (event) => { event.preventDefault(); upload(event.dataTransfer.files[0]); });
  addEventListener("paste", (event) => { if (!section.hidden && event.clipboardData.files[0]) upload(event.clipboardData.files[0]); });
}

/** Take a picture, as an address, and the face that it is of. */
async function put(address, face = null) {
  const image = new Image();
  image.src = address;
  try { await image.decode(); } catch {
    say("The picture cannot be read. Take a PNG, JPEG, WebP or GIF file that is whole.", true);
    return false;
  }
  picture = image;
  base = face?.query ?? "";
  strokes = [];
  seed = randomSeed();
  paint();
  return true;
}

async function upload(file) {
  if (!file) return;
  const address = URL.createObjectURL(file);
  if (await put(address)) { isUpload = true; toAddress("tab=edit"); say(""); }
}

/** The middle square of the picture on a canvas of `side` pixels. */
function square(side) {
  const small = h("canvas", {width: side, height: side}), least = Math.min(picture.naturalWidth, picture.naturalHeight);
  const place = small.getContext("2d");
  place.fillStyle = "#fff";
  place.fillRect(0, 0, side, side);
  place.imageSmoothingQuality = "high";
  place.drawImage(picture, (picture.naturalWidth - least) / 2, (picture.naturalHeight - least) / 2, least, least, 0, 0, side, side);
  return small;
}

function paint() {
  paper.clearRect(0, 0, SIDE, SIDE);
  if (picture) paper.drawImage(square(SIDE), 0, 0);
  paper.globalAlpha = 0.7;
  paper.drawImage(mask(SIDE), 0, 0);
  paper.globalAlpha = 1;
}

/** The strokes alone. */
function mask(side) {
  const layer = h("canvas", {width: side, height: side}), place = layer.getContext("2d");
  place.scale(side / SIDE, side / SIDE);
  place.lineCap = place.lineJoin = "round";
  place.strokeStyle = INK;
  for (const {width, points} of strokes) {
    place.lineWidth = width;
    place.beginPath();
    for (const [x, y] of points) place.lineTo(x, y);
    place.lineTo(points.at(-1)[0] + 0.01, points.at(-1)[1]);
    place.stroke();
  }
  return layer;
}

const at = (event) => [event.offsetX * SIDE / canvas.clientWidth, event.offsetY * SIDE / canvas.clientHeight];

function begin(event) {
  if (!picture) { say("Choose a picture first.", true); return; }
  canvas.setPointerCapture(event.pointerId);
  strokes.push({width: Number(brush.value), points: [at(event)]});
  paint();
}

function go(event) {
  if (!event.buttons || !strokes.length || !canvas.hasPointerCapture(event.pointerId)) return;
  strokes.at(-1).points.push(at(event));
  paint();
}

/** With the keyboard: Enter paints over the eyes, Escape clears. */
function byKey(event) {
  if (event.key === "Enter" && picture) strokes.push({width: 90, points: [[120, 240], [328, 240]]});
  else if (event.key === "Escape") strokes = [];
  else return;
  event.preventDefault();
  paint();
}

function send(more, what) {
  if (!picture) { say("Choose a picture first.", true); return; }
  const recipe = new URLSearchParams(base);
  recipe.set("s", seed);
  recipe.delete("v");
  editing.ask({picture: square(SMALL).toDataURL("image/png"), recipe: recipe.toString(), ...more}, {
    what,
    onUpdate: ({pictures}) => { if (pictures && result) $("compare").lastElementChild.src = pictures[0]; },
    onDone: ({faces: [face], before, seconds}) => {
      result = face;
      $("compare").replaceChildren(h("img", {src: before, alt: "before"}), h("img", {src: face.large, alt: face.name}));
      for (const button of document.querySelectorAll("#cut, [id^=edit-]")) button.disabled = false;
      say(`Done in ${seconds.toFixed(1)} s. Drag the line to compare.`);
      if ($("compare").getBoundingClientRect().bottom > innerHeight) $("compare").scrollIntoView({block: "center"});
    },
  });
}

function repair() {
  isVarying = false;
  if (picture && !strokes.length) { say("Paint over the part that is to be drawn anew first.", true); return; }
  send({mask: mask(SMALL).toDataURL("image/png")}, "Repairing");
}

function vary() {
  isVarying = true;
  send({strength: Number(strength.value)}, "Varying");
}

export async function enter(query, face) {
  const asked = new URLSearchParams(query);
  asked.delete("tab");
  const source = face ?? (asked.has("s") ? {query: asked.toString(), name: "face of the link"} : isUpload ? null : page.face());
  if (!source || (picture && !face && source.query === base)) return;
  isUpload = false;
  toAddress(source.edited ? "tab=edit" : `tab=edit&${source.query}`);
  await put(source.edited ? source.picture : await pictureOf(source).then(() => source.picture), source);
}
