// A face is {query, name, file, labels, picture}: its query is its identity and its link; repaired ones have none.

import {blob} from "./net.js";
import {config, flash, h, saveAs, say} from "./ui.js";

export const identity = (face) => face.edited ? `${face.edited} ${face.picture}` : face.query;

/** The address of a face's picture, enlarged on the server. */
export const largeOf = (face, size = 512) => face.large ?? (face.edited ? face.picture : `picture?${face.query}&size=${size}`);

/** The part of the sprite that shows a pre-drawn face, as a small picture. */
export async function fromWall(face) {
  const at = config.wall.findIndex((one) => one.query === face.query);
  if (at < 0) return null;
  const sprite = await createImageBitmap(await (await fetch(config.sprite)).blob());
  const side = sprite.width / config.columns, canvas = h("canvas", {width: side, height: side});
  canvas.getContext("2d").drawImage(
    sprite, -(at % config.columns) * side, -Math.floor(at / config.columns) * side);
  return canvas.toDataURL("image/webp", 0.95);
}

/** A small picture of a face as a data address, for the shelf and for editing. */
export async function pictureOf(face) {
  face.picture ??= await fromWall(face);
  if (!face.picture) {
    const image = await createImageBitmap(await (await fetch(largeOf(face))).blob());
    const canvas = h("canvas", {width: 128, height: 128});
    canvas.getContext("2d").drawImage(image, 0, 0, 128, 128);
    face.picture = canvas.toDataURL("image/webp", 0.95);
  }
  return face.picture;
}

/** Save a face as a PNG that holds its recipe. */
export async function download(face, size, button) {
  if (!face.edited) {
    saveAs(`picture?${face.query}&size=${size}&download=1`, face.file);
    return;
  }
  try {
    saveAs(await blob("enlarge", {picture: face.picture, size, recipe: `${face.edited}: ${face.query}`}), face.file);
    flash(button, "Saved");
  } catch (error) {
    say(error.message, true);
  }
}

/** A face in a grid; `onPick` makes it a button, and without a name it is one that is being drawn. */
export function tile(face, onPick) {
  const image = h("img", {src: face.picture, alt: face.edited ? face.name : "", width: 64, height: 64});
  const attributes = {class: "tile", "aria-label": face.name};
  const made = face.edited
    ? h("button", {...attributes, type: "button"}, image)
    : h("a", {...attributes, href: `?${face.query}`}, image);
  made.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    onPick(face);
  });
  made.face = face;
  return made;
}

/** Places for faces that are being drawn: `show` puts previews in, `fill` the faces. */
export function places(count, onPick) {
  const empty = Array.from({length: count}, () => h("div", {class: "tile waiting"}));
  return {
    elements: empty,
    show: ({pictures}) => pictures?.forEach((picture, at) => {
      if (!empty[at].firstChild) empty[at].append(h("img", {alt: "", src: picture}));
      else empty[at].firstChild.src = picture;
    }),
    fill: (faces) => faces.forEach((face, at) => empty[at].replaceWith(tile(face, onPick))),
    remove: () => empty.forEach((one) => one.remove()),
  };
}
