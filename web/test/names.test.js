import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { nameKey, noiseFor, philox } from "../src/names.js";

const vectors = JSON.parse(await readFile(new URL("vectors.json", import.meta.url), "utf8"));
const words = (hex) => hex.map((word) => parseInt(word, 16));

test("Philox is that of Random123", () => {
  for (const { counter, key, output } of vectors.philox) {
    assert.deepEqual(philox(words(counter), words(key)), words(output));
  }
});

test("keys are FNV-1a, as in Python", () => {
  for (const { name, key } of vectors.keys) {
    const [low, high] = nameKey(name);
    assert.equal([high, low].map((word) => word.toString(16).padStart(8, "0")).join(""), key, JSON.stringify(name));
  }
});

test("noise is that of Python", () => {
  for (const { name, stream, first, last } of vectors.noise) {
    const noise = noiseFor(name, 12288, stream);
    const both = [...noise.slice(0, first.length), ...noise.slice(-last.length)];
    [...first, ...last].forEach((value, i) => assert.ok(Math.abs(value - both[i]) < 1e-6, `${name} ${i}`));
  }
});

test("noise may have any length", () => {
  assert.deepEqual([...noiseFor("Ada", 5)], [...noiseFor("Ada", 12288).slice(0, 5)]);
});
