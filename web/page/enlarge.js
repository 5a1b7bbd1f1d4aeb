/** Small pictures made large without blocks: Lanczos with three lobes, which keeps lines sharper than a browser does. */

/** @import { Picture } from "../src/png.js" */

const LOBES = 3;

/** @param {number} x */
const lanczos = (x) =>
  x === 0 ? 1 : (LOBES * Math.sin(Math.PI * x) * Math.sin((Math.PI * x) / LOBES)) / (Math.PI * x) ** 2;

/**
 * For each place among `count * factor`, the weights of the pixels around it.
 * @param {number} count
 * @param {number} factor
 */
function weights(count, factor) {
  return Array.from({ length: count * factor }, (_, to) => {
    const centre = (to + 0.5) / factor - 0.5;
    const first = Math.floor(centre) - LOBES + 1;
    const taps = Array.from({ length: 2 * LOBES }, (_, tap) => lanczos(centre - first - tap));
    const total = taps.reduce((sum, weight) => sum + weight, 0);
    return taps.map((weight, tap) => ({
      from: Math.min(Math.max(first + tap, 0), count - 1),
      weight: weight / total,
    }));
  });
}

/**
 * @param {Picture} picture
 * @param {number} factor a whole number
 * @returns {Picture}
 */
export function enlarge({ width, height, data }, factor) {
  const [wide, high] = [width * factor, height * factor];
  const across = weights(width, factor);
  const down = weights(height, factor);
  const rows = new Float32Array(wide * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < wide; x++) {
      for (const { from, weight } of across[x]) {
        for (let colour = 0; colour < 3; colour++) {
          rows[(y * wide + x) * 3 + colour] += weight * data[(y * width + from) * 4 + colour];
        }
      }
    }
  }
  const enlarged = new Uint8ClampedArray(wide * high * 4).fill(255);
  for (let y = 0; y < high; y++) {
    for (let x = 0; x < wide; x++) {
      for (let colour = 0; colour < 3; colour++) {
        let value = 0;
        for (const { from, weight } of down[y]) {
          value += weight * rows[(from * wide + x) * 3 + colour];
        }
        enlarged[(y * wide + x) * 4 + colour] = value;
      }
    }
  }
  return { width: wide, height: high, data: enlarged };
}

/**
 * Put a picture on a canvas, which takes its size.
 * @param {HTMLCanvasElement} canvas
 * @param {Picture} picture
 */
export function show(canvas, { width, height, data }) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d")?.putImageData(new ImageData(data, width, height), 0, 0);
}
