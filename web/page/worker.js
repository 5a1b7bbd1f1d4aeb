/** The model in a thread of its own, so that the page stays quick while it draws. */

import { Faces, threads } from "../src/faces.js";
import { read } from "../src/files.js";

/** @import { Provider, Runtime } from "../src/faces.js" */
/** @typedef {{ id: number } & import("./painter.js").Wish} Job */

const FOLDER = new URL("../", import.meta.url);

/**
 * @param {object} message
 * @param {Transferable[]} [moved]
 */
const tell = (message, moved = []) => globalThis.postMessage(message, { transfer: moved });

/** @param {unknown} error */
const sentence = (error) => (error instanceof Error ? error.message : String(error));

/** Those that an export may hold. */
const RUNTIMES = {
  wasm: { script: "ort.wasm.min.mjs", binary: "ort-wasm-simd-threaded.wasm.gz" },
  webgpu: { script: "ort.webgpu.min.mjs", binary: "ort-wasm-simd-threaded.jsep.wasm.gz" },
};

/** @returns {Promise<Provider>} WebGPU where the export has it and there is a real one, which is no program itself */
async function chooseProvider() {
  if (!location.search.includes("webgpu")) return "wasm";
  const adapter = await /** @type {any} */ (navigator).gpu?.requestAdapter();
  return adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter) ? "webgpu" : "wasm";
}

/** @param {Provider} provider */
function load(provider) {
  /** @param {number} bytes */
  const progress = (bytes) => tell({ kind: "progress", bytes, provider });
  const { script, binary } = RUNTIMES[provider];
  const place = new URL("runtime/", FOLDER);
  const runtime = Promise.all([
    /** @type {Promise<Runtime>} */ (import(new URL(script, place).href)),
    read(new URL(binary, place), progress),
  ]).then(([module, content]) => {
    module.env.wasm.numThreads = threads();
    module.env.wasm.wasmBinary = content.buffer;
    return module;
  });
  runtime.catch(() => {}); // told below
  return Faces.load(runtime, FOLDER, progress, provider);
}

async function loadBest() {
  const provider = await chooseProvider();
  try {
    return { model: await load(provider), provider };
  } catch (error) {
    if (provider === "wasm") throw error;
    return { model: await load("wasm"), provider: "wasm" }; // a driver that fails
  }
}

const loaded = loadBest();
loaded.then(
  ({ model: { recipe }, provider }) => tell({ kind: "ready", recipe, provider, threads: threads() }),
  (error) => tell({ kind: "failed", reason: sentence(error) }),
);

globalThis.addEventListener("message", async (/** @type {MessageEvent<Job>} */ { data }) => {
  const { id, name, labels, upscale } = data;
  try {
    const begin = performance.now();
    const picture = await (await loaded).model.draw(name, labels, { upscale });
    tell({ kind: "drawn", id, picture, seconds: (performance.now() - begin) / 1000 }, [picture.data.buffer]);
  } catch (error) {
    tell({ kind: "refused", id, reason: sentence(error) });
  }
});
