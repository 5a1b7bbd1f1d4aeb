/** Files of an export: fetched with their progress, and unpacked where they are compressed. */

/**
 * @callback Progress
 * @param {number} bytes that have arrived since the last call
 */

const TRIES = 3;
const WAIT = 1000; // milliseconds before the second try, doubled before the third

/**
 * @param {URL | string} address
 * @param {Progress} [progress]
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
export async function read(address, progress = () => {}) {
  const url = new URL(address, globalThis.location?.href);
  if (url.protocol === "file:") {
    const { readFile } = await import(/* @vite-ignore */ /* webpackIgnore: true */ "node:fs/promises");
    return unpacked([new Uint8Array(await readFile(url))]);
  }
  for (let attempt = 1; ; attempt++) {
    let arrived = 0;
    try {
      return await fetched(url, (bytes) => {
        arrived += bytes;
        progress(bytes);
      });
    } catch (error) {
      progress(-arrived);
      if (attempt === TRIES) {
        throw new Error(`${url.pathname} cannot be loaded (${/** @type {Error} */ (error).message}).`, { cause: error });
      }
      await new Promise((resolve) => setTimeout(resolve, WAIT * 2 ** (attempt - 1)));
    }
  }
}

/**
 * @param {URL} url
 * @param {Progress} progress
 */
async function fetched(url, progress) {
  const response = await fetch(url);
  if (!response.ok || !response.body) {
    throw new Error(`the server answers ${response.status}`);
  }
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const parts = [];
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    progress(part.value.length);
  }
  return unpacked(parts);
}

/**
 * What gzip has packed, unpacked. Some servers unpack `.gz` files themselves, so the first bytes decide.
 * @param {Uint8Array<ArrayBuffer>[]} parts
 */
async function unpacked(parts) {
  const blob = new Blob(parts);
  const [first, second] = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  const packed = first === 0x1f && second === 0x8b;
  const stream = packed ? blob.stream().pipeThrough(new DecompressionStream("gzip")) : blob.stream();
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
