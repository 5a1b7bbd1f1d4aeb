/** PNG files without a canvas, whose pixels some browsers change against fingerprinting. */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const RGB = 2;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) {
    byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  }
  return byte;
});

/** @param {Uint8Array} bytes */
function checksum(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}

/**
 * @param {string} kind
 * @param {Uint8Array} content
 */
function chunk(kind, content) {
  const bytes = new Uint8Array(content.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(new TextEncoder().encode(kind), 4);
  bytes.set(content, 8);
  view.setUint32(content.length + 8, checksum(bytes.subarray(4, content.length + 8)));
  return bytes;
}

/**
 * A picture's pixels.
 * @typedef {object} Picture
 * @property {number} width
 * @property {number} height
 * @property {Uint8ClampedArray<ArrayBuffer>} data RGBA, row by row; every pixel is opaque
 */

/**
 * @param {Picture} picture
 * @returns {Promise<Blob>}
 */
export async function encodePng({ width, height, data }) {
  const rows = new Uint8Array(height * (1 + 3 * width)); // each begins with 0: no filter
  for (let y = 0, to = 0, from = 0; y < height; y++) {
    to++;
    for (let x = 0; x < width; x++, from++) {
      rows[to++] = data[from++];
      rows[to++] = data[from++];
      rows[to++] = data[from++];
    }
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, RGB], 8);
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const content = new Uint8Array(await new Response(packed).arrayBuffer());
  const chunks = [chunk("IHDR", header), chunk("IDAT", content), chunk("IEND", new Uint8Array())];
  return new Blob([new Uint8Array(SIGNATURE), ...chunks], { type: "image/png" });
}

/**
 * An SVG file around a PNG, which grows without jagged edges.
 * @param {Blob} png
 * @param {string} title
 * @param {number} side in pixels, at which programs show it
 */
export async function wrapSvg(png, title, side = 512) {
  const bytes = new Uint8Array(await png.arrayBuffer());
  const data = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  const safe = title.replace(/[&<>"]/g, (mark) => `&#${mark.charCodeAt(0)};`);
  const svg =
    `<svg xmlns="http://www.w3.org/2000/svg" width="${side}" height="${side}" viewBox="0 0 1 1" role="img">` +
    `<title>${safe}</title><image width="1" height="1" href="data:image/png;base64,${data}"/></svg>\n`;
  return new Blob([svg], { type: "image/svg+xml" });
}
