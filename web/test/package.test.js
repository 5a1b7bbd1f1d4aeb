import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { face, load, wrapSvg } from "anime-ddpm-faces";
import { enlarge } from "../page/enlarge.js";
import { readChoice, writeChoice } from "../page/link.js";
import { jointClass } from "../src/recipe.js";

// A folder of an export, and what Python has drawn with it: set by the test in Python, which calls this one.
const folder = process.env.FACES_MODEL && new URL(`file://${process.env.FACES_MODEL}/`);
const expected = folder && JSON.parse(await readFile(new URL("expected.json", folder), "utf8"));

test("faces are those of Python", { skip: !folder }, async () => {
  const model = await load(folder);
  for (const { name, labels, upscale, side, pixels } of expected) {
    const { width, data } = await model.draw(name, labels, { upscale });
    assert.equal(width, side);
    pixels.forEach((value, i) => {
      const there = data[Math.floor(i / 3) * 4 + (i % 3)];
      assert.ok(Math.abs(value - there) <= 2, `${name}: ${value} and ${there}`);
    });
  }
  await assert.rejects(model.draw("Ada", { hair: "red" }), /There is no hair "red"; choose one of/);
  assert.equal((await model.draw("Ada")).width, 64); // the refusal has stopped nothing
});

test("a face is a PNG file, alone and in SVG", { skip: !folder }, async () => {
  const png = await face("Ada", {}, { from: folder });
  const bytes = new Uint8Array(await png.arrayBuffer());
  assert.equal(png.type, "image/png");
  assert.deepEqual([...bytes.slice(0, 4)], [0x89, 0x50, 0x4e, 0x47]);
  const small = await face("Ada", {}, { from: folder, upscale: false });
  const widths = [png, small].map(async (file) => new DataView(await file.arrayBuffer()).getUint32(16));
  assert.deepEqual(await Promise.all(widths), [64, 32]);
  const svg = await (await wrapSvg(png, '<b>"&')).text();
  assert.match(svg, /<title>&#60;b&#62;&#34;&#38;<\/title>/);
});

test("a model that is not there is asked for again", async () => {
  const nowhere = new URL("nowhere/", import.meta.url);
  await assert.rejects(face("Ada", {}, { from: nowhere }), /ENOENT/);
  await assert.rejects(face("Ada", {}, { from: nowhere }), /ENOENT/);
});

test("classes mix the attributes, the last one fastest", () => {
  const known = { eyes: ["blue", "green"], hair: ["blonde", "blue", "mint"] };
  assert.equal(jointClass({}, known), 0);
  assert.equal(jointClass({ Hair: " BLUE ", eyes: "any" }, known), 2);
  assert.equal(jointClass({ eyes: "green", hair: "mint" }, known), 11);
  assert.throws(() => jointClass({ hat: "red" }, known), /no label "hat"; it has eyes, hair/);
});

test("links keep names and labels", () => {
  for (const choice of [{ name: "Zoë & Bob#1", labels: { hair: "blue" } }, { name: "", labels: {} }]) {
    assert.deepEqual(readChoice(writeChoice(choice)), choice);
  }
  assert.equal(readChoice("").name, "Ada");
});

test("enlarging keeps even areas even", () => {
  const data = new Uint8ClampedArray(4 * 4 * 4).fill(77);
  const large = enlarge({ width: 4, height: 4, data }, 3);
  assert.equal(large.width, 12);
  assert.ok(large.data.every((value, i) => value === (i % 4 === 3 ? 255 : 77)));
});
