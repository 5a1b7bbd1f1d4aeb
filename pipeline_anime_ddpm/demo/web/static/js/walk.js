// Walk: from one kept face to the next, with a scrubber.

import {Latest} from "./net.js";
import * as shelf from "./shelf.js";
import {$, config, flash, h, isCalm, newQuery, saveAs, say, share, toAddress} from "./ui.js";

const walking = new Latest("walk"), drawing = new Latest("draw");
let stops = [], frames = [], film = null, timer = null, image, scrubber, play, list, section;

export function build(place) {
  section = place;
  image = h("img", {alt: "a face on the way", hidden: true});
  scrubber = h("input", {type: "range", min: 0, max: 1, value: 0, disabled: true, "aria-label": "Where on the way", oninput: () => { pause(); frame(); }});
  play = h("button", {type: "button", id: "play", disabled: true, onclick: () => timer ? pause() : start()}, "Play");
  const save = h("button", {type: "button", id: "film", disabled: true, onclick: () => { saveAs(film, "anime-walk.webp"); flash(save, "Saved"); }}, "Save as WebP");
  const link = h("button", {type: "button", onclick: () => share(link, address(), "A walk between anime faces")}, "Copy the link");
  list = h("div", {class: "faces"});
  place.replaceChildren(h("div", {class: "two"},
    h("div", {}, h("div", {class: "frame"}, image, h("p", {class: "empty", id: "walk-empty"}, "Keep two faces or more, and walk from one to the next.")),
      h("div", {class: "said"}), scrubber, h("div", {class: "row"}, play, save, link)),
    h("div", {}, h("h2", {}, "Faces on the way"), h("p", {}, `Choose from 2 to ${config.mostStops} faces of your shelf, in the order of the walk.`), list,
      h("div", {class: "row"},
        h("button", {type: "button", class: "primary", id: "go", onclick: go}, "Walk"),
        h("button", {type: "button", id: "walk-surprise", onclick: surprise}, "Walk between surprises")))));
  shelf.whenChanged(offer);
}

const address = () => new URLSearchParams([["tab", "walk"], ...stops.map((face) => ["face", face.query])]).toString();

/** The faces that can be chosen: those of the link or of a surprise first, then those of the shelf. */
function offer() {
  const kept = shelf.kept().filter((face) => !face.edited);
  const others = kept.filter((face) => !stops.some((stop) => stop.query === face.query));
  list.replaceChildren(...[...stops, ...others].map((face) => {
    const at = stops.findIndex((stop) => stop.query === face.query);
    const made = h("button", {type: "button", class: "tile", "aria-pressed": String(at >= 0), "aria-label": at < 0 ? face.name : `${face.name}, number ${at + 1} on the way`, onclick: () => toggle(face)},
      h("img", {src: face.picture, alt: ""}));
    return made;
  }));
}

function toggle(face) {
  const without = stops.filter((stop) => stop.query !== face.query);
  if (without.length === stops.length && stops.length >= config.mostStops) { say(`A walk has ${config.mostStops} faces at most.`, true); return; }
  stops = without.length < stops.length ? without : [...stops, face];
  toAddress(address());
  const at = [...list.children].indexOf(document.activeElement);
  offer();
  list.children[at]?.focus();
}

function go() {
  if (stops.length < 2) { say("Choose two faces or more first.", true); return; }
  pause();
  toAddress(address());
  walking.ask({faces: stops.map((face) => face.query)}, {
    what: "Walking",
    onDone: (done) => {
      ({frames, film} = done);
      $("walk-empty").hidden = true;
      image.hidden = false;
      scrubber.max = frames.length - 1;
      scrubber.value = 0;
      for (const one of [scrubber, play, $("film")]) one.disabled = false;
      frame();
      say(`${frames.length} pictures in ${done.seconds.toFixed(1)} s.`);
      if (!isCalm()) start();
    },
  });
}

/** Draw the faces of some queries, then walk. */
function from(queries) {
  drawing.ask({faces: queries}, {onDone: ({faces}) => { stops = faces; offer(); go(); }});
}

const surprise = () => from([newQuery(), newQuery(), newQuery()]);

function frame() {
  image.src = frames[scrubber.value];
  scrubber.setAttribute("aria-valuetext", `picture ${Number(scrubber.value) + 1} of ${frames.length}`);
}

function start() {
  let step = 1;
  play.textContent = "Pause";
  timer = setInterval(() => {
    if (section.hidden) { pause(); return; }
    const at = Number(scrubber.value);
    if (at + step > frames.length - 1 || at + step < 0) step = -step;
    scrubber.value = at + step;
    frame();
  }, 90);
}

function pause() {
  clearInterval(timer);
  timer = null;
  play.textContent = "Play";
}

export function enter(query) {
  const asked = query.getAll("face");
  if (asked.length === 1 || asked.length > config.mostStops) say(`This link does not work here: a walk has 2 to ${config.mostStops} faces.`, true);
  else if (asked.length) { from(asked); return; }
  const kept = shelf.kept().filter((face) => !face.edited);
  if (!stops.length) stops = kept.slice(-3);
  offer();
}
