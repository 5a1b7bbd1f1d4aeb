/** The model in a thread of its own, so that the page stays quick while it draws. */

import { Faces, threads } from "../src/faces.js";
import { read } from "../src/files.js";

/** @import { Runtime } from "../src/faces.js" */
/** @typedef {{ id: number, name: string, labels: import("../src/recipe.js").Labels }} Job */

const FOLDER = new URL("../", import.meta.url);

/**
 * @param {object} message
 * @param {Transferable[]} [moved]
 */
const tell = (message, moved = []) => globalThis.postMessage(message, { transfer: moved });

/** @param {unknown} error */
const sentence = (error) => (error instanceof Error ? error.message : String(error));

/** @param {number} bytes */
const progress = (bytes) => tell({ kind: "progress", bytes });

async function load() {
  const place = new URL("runtime/", FOLDER);
  const [runtime, binary] = await Promise.all([
    /** @type {Promise<Runtime>} */ (import(new URL("ort.wasm.min.mjs", place).href)),
    read(new URL("ort-wasm-simd-threaded.wasm.gz", place), progress),
  ]);
  runtime.env.wasm.numThreads = threads();
  runtime.env.wasm.wasmBinary = binary.buffer;
  return runtime;
}

const runtime = load();
runtime.catch(() => {}); // told below
const faces = Faces.load(runtime, FOLDER, progress);
faces.then(
  ({ recipe }) => tell({ kind: "ready", recipe, threads: threads() }),
  (error) => tell({ kind: "failed", reason: sentence(error) }),
);

globalThis.addEventListener("message", async (/** @type {MessageEvent<Job>} */ { data: { id, name, labels } }) => {
  try {
    const begin = performance.now();
    const picture = await (await faces).draw(name, labels);
    tell({ kind: "drawn", id, picture, seconds: (performance.now() - begin) / 1000 }, [picture.data.buffer]);
  } catch (error) {
    tell({ kind: "refused", id, reason: sentence(error) });
  }
});
