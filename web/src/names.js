/**
 * Noise that a name determines: the same numbers as `pipeline_anime_ddpm/exporting/names.py`, which describes them.
 */

const MULTIPLIERS = [0xd2511f53, 0xcd9e8d57];
const KEY_STEPS = [0x9e3779b9, 0xbb67ae85];
const ROUNDS = 10;
const FNV_OFFSET = 0xcbf29ce484222325n;
const FNV_PRIME = 0x100000001b3n;
const WORD = 2 ** 32;

/**
 * The upper half of the product of two 32-bit words.
 * @param {number} a
 * @param {number} b
 */
function upper(a, b) {
  const [aLow, aHigh, bLow, bHigh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  return (aHigh * bHigh + (middle >>> 16) + ((aLow * bHigh + (middle & 0xffff)) >>> 16)) >>> 0;
}

/**
 * The text that is hashed: NFC, without white space at the ends, and well-formed.
 * @param {string} name
 */
export function plainName(name) {
  return name.normalize("NFC").replace(/^[ \t\n\r\u00a0\u3000]+|[ \t\n\r\u00a0\u3000]+$/g, "");
}

/**
 * The 64-bit key of a name, as two words, the lower one first: FNV-1a of its UTF-8 bytes.
 * @param {string} name
 * @returns {[number, number]}
 */
export function nameKey(name) {
  let key = FNV_OFFSET;
  for (const byte of new TextEncoder().encode(plainName(name))) {
    key = BigInt.asUintN(64, (key ^ BigInt(byte)) * FNV_PRIME);
  }
  return [Number(key & 0xffffffffn), Number(key >> 32n)];
}

/**
 * Philox 4x32-10 (Salmon et al., SC 2011).
 * @param {ArrayLike<number>} counter four 32-bit words
 * @param {ArrayLike<number>} key two
 * @returns {[number, number, number, number]}
 */
export function philox(counter, key) {
  let [first, second, third, fourth] = Array.from(counter);
  let [low, high] = Array.from(key);
  for (let round = 0; round < ROUNDS; round++) {
    const left = upper(first, MULTIPLIERS[0]);
    const right = upper(third, MULTIPLIERS[1]);
    const [fromFirst, fromThird] = [Math.imul(first, MULTIPLIERS[0]), Math.imul(third, MULTIPLIERS[1])];
    [first, second] = [(right ^ second ^ low) >>> 0, fromThird >>> 0];
    [third, fourth] = [(left ^ fourth ^ high) >>> 0, fromFirst >>> 0];
    low = (low + KEY_STEPS[0]) >>> 0;
    high = (high + KEY_STEPS[1]) >>> 0;
  }
  return [first, second, third, fourth];
}

/**
 * Unit normal noise of a name, by Box and Muller.
 * @param {string} name
 * @param {number} count of numbers
 * @param {number} [stream] another one gives independent noise for the same name
 */
export function noiseFor(name, count, stream = 0) {
  const key = nameKey(name);
  const noise = new Float32Array(Math.ceil(count / 4) * 4);
  for (let block = 0; block * 4 < count; block++) {
    const uniform = philox([block, stream, 0, 0], key).map((word) => (word + 0.5) / WORD);
    for (let pair = 0; pair < 4; pair += 2) {
      const radius = Math.sqrt(-2 * Math.log(uniform[pair]));
      const angle = 2 * Math.PI * uniform[pair + 1];
      noise[block * 4 + pair] = radius * Math.cos(angle);
      noise[block * 4 + pair + 1] = radius * Math.sin(angle);
    }
  }
  return noise.subarray(0, count);
}
