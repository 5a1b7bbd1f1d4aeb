// How it works: a face that can be scrubbed from noise, five sentences, then the numbers.

import {json} from "./net.js";
import {h, say, toAddress} from "./ui.js";

let place, scrubber;

export function build(section) {
  place = section;
  place.replaceChildren(h("div", {class: "reading"}, h("div", {class: "said"})));
}

function chart(levels) {
  const [width, height, left, low] = [640, 240, 44, 30], svg = (tag, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  };
  const last = levels.at(-1)[0] || 1, values = levels.map(([, value]) => value);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const x = (t) => left + (width - left - 8) * t / last, y = (v) => 8 + (height - low - 8) * (most - v) / ((most - least) || 1);
  const made = svg("svg", {class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Log signal-to-noise ratio: ${most.toFixed(1)} at timestep 0, ${least.toFixed(1)} at timestep ${last}`});
  made.append(svg("polyline", {points: levels.map(([t, v]) => `${x(t)},${y(v)}`).join(" "), fill: "none", stroke: "currentColor", "stroke-width": 2}));
  for (const value of [most, 0, least]) made.append(svg("text", {x: left - 6, y: y(value) + 4, "text-anchor": "end"}, value.toFixed(0)));
  for (const t of [0, last]) made.append(svg("text", {x: x(t), y: height - 10, "text-anchor": t ? "end" : "start"}, `timestep ${t}`));
  return made;
}

function show(how) {
  const {frames, name, metrics, curve, card, size, side, steps, levels} = how;
  const image = h("img", {alt: name, src: frames[0], width: 256, height: 256}), shown = h("output", {}, "0");
  const move = () => {
    image.src = frames[scrubber.value];
    shown.textContent = `${scrubber.value} of ${frames.length - 1}`;
    toAddress(`tab=how&step=${scrubber.value}`);
  };
  scrubber = h("input", {type: "range", min: 0, max: frames.length - 1, value: 0, id: "steps-done", oninput: move});
  scrubber.move = move;
  place.firstChild.append(
    h("div", {class: "frame"}, image),
    h("div", {class: "field"}, h("label", {for: "steps-done"}, "Steps done", shown), scrubber),
    h("p", {}, "A face begins as pure noise: random colours, decided by one number, the seed. ",
      `A network of ${(size / 1e6).toFixed(1)} million numbers looks at it and says what the face beneath might be. `,
      "The sampler moves a little towards that guess, and the network looks again. ",
      `After ${steps} such steps no noise is left, and the face of ${side} × ${side} pixels is enlarged for you to see. `,
      "It learnt this from faces to which noise was added, at every level of it, until it could tell the two apart."),
    ...[
      metrics.length && h("figure", {}, h("h2", {}, "Measured"), h("div", {class: "scroll", tabindex: 0, role: "group", "aria-label": "Measured"}, h("table", {},
        h("thead", {}, h("tr", {}, ...["metric", "value", "±", "samples"].map((text) => h("th", {scope: "col"}, text)))),
        h("tbody", {}, ...metrics.map((row) => h("tr", {}, ...row.map((text) => h("td", {}, text)))))))),
      curve && h("figure", {}, h("h2", {}, "The training"), h("img", {src: curve, alt: "The loss over the images that were seen, and the error by noise level"})),
      card && h("details", {}, h("summary", {}, "Model card"), h("pre", {}, card)),
      h("figure", {}, h("h2", {}, "Signal and noise"), h("p", {}, "The logarithm of signal over noise, by timestep: at the left the picture is nearly clean, at the right nothing of it is left."), chart(levels)),
    ].filter(Boolean));
}

export async function enter(query) {
  if (!scrubber) {
    say("Drawing a face step by step…");
    try { show(await json("how")); } catch (error) { say(error.message, true); return; }
    say("");
  }
  const step = query.get("step") ?? "0";
  if (!/^\d+$/.test(step) || Number(step) > Number(scrubber.max)) { say(`This link asks for step “${step.slice(0, 20)}”, which this face does not have.`, true); return; }
  scrubber.value = step;
  scrubber.move();
}
