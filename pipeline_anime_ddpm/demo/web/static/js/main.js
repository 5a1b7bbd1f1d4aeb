// Tabs and the address. Other tabs than the first are loaded when they are opened.

import * as draw from "./draw.js";
import * as shelf from "./shelf.js";
import {$, config, say, toAddress} from "./ui.js";

const TABS = ["draw", "edit", "walk", "expert", "how"], opened = {};
const buttons = TABS.map((name) => $(`tab-${name}`));

/** Show a tab. `query` is its state, from the address or from another tab. */
async function open(name, query = new URLSearchParams(), given = null) {
  TABS.forEach((one, at) => {
    $(one).hidden = one !== name;
    buttons[at].setAttribute("aria-selected", String(one === name));
    buttons[at].tabIndex = one === name ? 0 : -1;
  });
  if (name !== "draw") {
    try {
      if (!opened[name]) {
        const module = await import(`./${name}.js`);
        opened[name] ??= module;
        module.build($(name), {open, show: draw.show, face: draw.shown});
      }
    } catch {
      say("This part of the page could not be loaded. Reload the page.", true);
      return;
    }
  }
  $(name).querySelector(".said")?.append($("status"));
  say("");
  scrollTo(0, 0);
  await opened[name]?.enter?.(query, given);
}

function choose(name, given = null) {
  if (name === "draw") toAddress(draw.shown().edited ? "" : draw.shown().query);
  else history.pushState(null, "", `?tab=${name}`);
  return open(name, new URLSearchParams(), given);
}

function byAddress() {
  const query = new URLSearchParams(location.search), name = query.get("tab");
  return open(TABS.includes(name) ? name : "draw", query);
}

buttons.forEach((button, at) => {
  button.addEventListener("click", () => choose(TABS[at]));
  button.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    event.preventDefault();
    const next = (at + step + TABS.length) % TABS.length;
    buttons[next].focus();
    choose(TABS[next]);
  });
});
$("repair").addEventListener("click", () => choose("edit", draw.shown()));
shelf.start((face) => {
  if ($("draw").hidden) choose("draw");
  draw.show(face, {scrolls: true});
});
addEventListener("popstate", byAddress);
const tab = new URLSearchParams(location.search).get("tab");
if (TABS.includes(tab) && tab !== "draw") byAddress();
else if (tab !== "draw" && tab !== null) config.trouble ||= `This link asks for the tab “${tab}”, which this page does not have.`;
draw.start();
document.documentElement.dataset.ready = "yes";
