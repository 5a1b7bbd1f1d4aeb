// Small parts that every tab uses.

export const config = JSON.parse(document.getElementById("config").textContent);
export const $ = (id) => document.getElementById(id);

/** An element: `h("button", {class: "primary", onclick: draw}, "Draw")`. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The one live region: what is going on, or what went wrong. It stands where the visitor looks. */
export function say(sentence, isTrouble = false) {
  const status = $("status");
  status.textContent = sentence;
  status.classList.toggle("trouble", isTrouble);
}

export const randomSeed = () => Math.floor(Math.random() * (config.mostSeed + 1));
const oneOf = (list) => list[Math.floor(Math.random() * list.length)];
export const isCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** The query of a new face, with the labels that are asked for and any others by chance. */
export function newQuery(wishes = {}, seed = randomSeed()) {
  const query = new URLSearchParams({s: seed});
  for (const [label, values] of Object.entries(config.labels)) query.set(label, wishes[label] ?? oneOf(values));
  return query.toString();
}

/** Write the state of a tab into the address. */
export function toAddress(query) {
  const address = query ? `?${query}` : location.pathname;
  history.replaceState(null, "", address);
}

/** Let a button say something for two seconds. */
export function flash(button, text) {
  button.dataset.usual ??= button.innerHTML;
  clearTimeout(button.timer);
  button.textContent = text;
  button.timer = setTimeout(() => { button.innerHTML = button.dataset.usual; }, 2000);
}

/** Share an address: by the phone's own dialog where there is one, else by the clipboard. */
export async function share(button, query, title) {
  const url = new URL(query ? `?${query}` : "", location.origin + location.pathname).href;
  if (navigator.share && matchMedia("(pointer: coarse)").matches) {
    try { await navigator.share({title, url}); return; } catch (error) { if (error.name === "AbortError") return; }
  }
  try {
    await navigator.clipboard.writeText(url);
    flash(button, "Copied");
  } catch {
    say(`Copy this link: ${url}`);
  }
}

/** Save what an address, or a blob, holds. */
export function saveAs(source, name) {
  const address = source instanceof Blob ? URL.createObjectURL(source) : source;
  const link = h("a", {href: address, download: name});
  document.body.append(link);
  link.click();
  link.remove();
  if (source instanceof Blob) setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** Arrow keys move among the children of `box` that match; only one of them is a tab stop. */
export function arrows(box, selector) {
  const all = () => [...box.querySelectorAll(selector)];
  const stop = (item) => all().forEach((one) => { one.tabIndex = one === item ? 0 : -1; });
  new MutationObserver(() => {
    const items = all();
    if (items.length && items.filter((one) => one.tabIndex === 0).length !== 1) stop(items[0]);
  }).observe(box, {childList: true, subtree: true});
  if (all().length) stop(all()[0]);
  box.addEventListener("focusin", (event) => {
    const item = event.target.closest(selector);
    if (item) stop(item);
  });
  box.addEventListener("keydown", (event) => {
    const items = all(), at = items.indexOf(event.target.closest(selector));
    if (at < 0) return;
    const top = items[0].offsetTop, columns = items.findIndex((one) => one.offsetTop > top);
    const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns}[event.key];
    const next = event.key === "Home" ? items[0] : event.key === "End" ? items.at(-1) : step && items[at + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
}

/** A slider or number with its name, value and place for what is wrong with it. */
export function field(name, label, control, shown = null) {
  control.id = `field-${name}`;
  const wrong = h("p", {class: "wrong", id: `wrong-${name}`, hidden: true});
  control.setAttribute("aria-describedby", wrong.id);
  return h("div", {class: "field"}, h("label", {for: control.id}, label, shown), control, wrong);
}

/** Say what is wrong at the control that it is about; an empty sentence takes it back. */
export function wrong(name, sentence) {
  const control = $(`field-${name}`), place = $(`wrong-${name}`);
  if (!control) return false;
  control.setAttribute("aria-invalid", sentence ? "true" : "false");
  place.textContent = sentence;
  place.hidden = !sentence;
  return true;
}
