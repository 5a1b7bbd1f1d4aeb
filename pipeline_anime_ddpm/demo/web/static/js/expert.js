// Expert: everything that decides a face. Sliders redraw while they are dragged.

import {places} from "./faces.js";
import {Latest} from "./net.js";
import {$, arrows, config, field, h, randomSeed, say, share, toAddress, wrong} from "./ui.js";

const drawing = new Latest("draw", {patient: true});
let controls, grid, page;

const slider = (name, label, [least, most, value], step) => {
  const shown = h("output", {}, String(value));
  const control = h("input", {type: "range", min: least, max: most, value, step, oninput: () => {
    shown.textContent = control.value;
    draw();
  }});
  controls[name] = control;
  control.show = () => { shown.textContent = control.value; };
  return field(name, label, control, shown);
};

const choice = (name, label, values) => {
  controls[name] = h("select", {onchange: draw}, ...values.map((value) => h("option", {value}, value)));
  return field(name, label, controls[name]);
};

export function build(section, shared) {
  controls = {};
  page = shared;
  controls.seed = h("input", {type: "number", inputmode: "numeric", value: 0, min: 0, max: config.mostSeed, step: 1, oninput: draw});
  const [least, most] = config.steps;
  const form = h("div", {},
    h("h2", {}, "Everything that decides a face"),
    field("seed", "Seed of the first face", controls.seed),
    h("div", {class: "row"}, h("button", {type: "button", onclick: () => { controls.seed.value = randomSeed(); draw(); }}, "Another seed")),
    slider("faces", "Faces", [1, config.mostFaces, 4], 1),
    ...Object.entries(config.labels).map(([label, values]) => choice(label, label[0].toUpperCase() + label.slice(1), ["any", ...values])),
    least < most ? slider("steps", "Steps", config.steps, 1) : null,
    config.guides ? slider("guidance", "Guidance (1 is none)", config.guidance, 0.1) : null,
    config.samplers.length > 1 ? choice("sampler", "Sampler", config.samplers) : null,
    config.distilled ? h("p", {}, `This model was distilled to ${most} steps of its own sampler.`) : null);
  grid = h("div", {class: "faces"});
  const link = h("button", {type: "button", id: "expert-share", onclick: () => share(link, address(), "Anime faces")}, "Copy the link");
  const stop = h("button", {type: "button", id: "expert-stop", disabled: true, onclick: () => { drawing.stop(); grid.querySelectorAll(".waiting").forEach((one) => one.remove()); finish("Stopped."); }}, "Stop");
  section.replaceChildren(h("div", {class: "two"}, form,
    h("div", {}, h("div", {class: "said"}), grid, h("div", {class: "row"}, stop, link))));
  arrows(grid, "a.tile");
}

const finish = (sentence) => { $("expert-stop").disabled = true; if (sentence) say(sentence); };

function address() {
  const query = new URLSearchParams({tab: "expert"});
  for (const [name, control] of Object.entries(controls)) query.set(name, control.value);
  return query.toString();
}

/** The queries of the faces, or nothing if a number is none. */
function queries() {
  const text = controls.seed.value.trim(), first = Number(text);
  const fits = text !== "" && Number.isInteger(first) && first >= 0 && first <= config.mostSeed;
  wrong("seed", fits ? "" : `The seed must be a whole number from 0 to ${config.mostSeed.toLocaleString("en")}.`);
  if (!fits) return null;
  const settings = Object.entries(controls).filter(([name, control]) => !["seed", "faces"].includes(name) && control.value !== "any");
  return Array.from({length: Number(controls.faces.value)}, (_, at) => new URLSearchParams({
    s: (first + at) % (config.mostSeed + 1), ...Object.fromEntries(settings.map(([name, control]) => [name, control.value])),
  }).toString());
}

function draw() {
  const faces = queries();
  if (!faces) { say("The number is not right; nothing was drawn.", true); return; }
  Object.keys(controls).forEach((name) => wrong(name, ""));
  const made = places(faces.length, (face) => { page.open("draw"); page.show(face); });
  let isShown = false;
  const put = () => { if (!isShown) grid.replaceChildren(...made.elements); isShown = true; };
  $("expert-stop").disabled = false;
  toAddress(address());
  drawing.ask({faces}, {
    onUpdate: (update) => { if (update.pictures) { put(); made.show(update); } },
    onDone: (done) => { put(); made.fill(done.faces); finish(`${faces.length} ${faces.length > 1 ? "faces" : "face"} in ${done.seconds.toFixed(1)} s. Choose one to see it large.`); },
    onError: (error, sentence) => { finish(""); return wrong(error.field, sentence) && (say("Nothing was drawn.", true), true); },
  });
}

export function enter(query) {
  const found = new URLSearchParams(query), start = new URLSearchParams(page.face().query);
  if (!found.has("seed")) { found.set("seed", start.get("s")); Object.keys(config.labels).forEach((label) => found.set(label, start.get(label) ?? "any")); }
  const strange = [];
  for (const [name, value] of found) {
    const control = controls[name];
    if (!control || name === "tab") continue;
    const before = control.value;
    control.value = value;
    if (control.value !== value && Number(control.value) !== Number(value)) { strange.push(`${name} “${value.slice(0, 30)}”`); control.value = before; }
    control.show?.();
  }
  if (strange.length) { say(`This link does not work here: ${strange.join(", ")}.`, true); return; }
  draw();
}
