// Square boxes, smoothed over time, cut out and scaled: slt_jax/media/crops.py, to the pixel.
import { round } from "./motion.js";

export const LOOKAHEAD = 3; // frames on either side over which a box is smoothed
const PRECISION = 22; // bits of a weight
const A = -0.5; // of the cubic

export const square = (x, y, side) => ({ x, y, side });

// The square around points [x, y], `scale` times as wide as their extent.
export function around(points, scale) {
  const across = points.map(([x]) => x), down = points.map(([, y]) => y);
  const [left, right, top, bottom] = [Math.min(...across), Math.max(...across), Math.min(...down), Math.max(...down)];
  return square((left + right) / 2, (top + bottom) / 2, scale * Math.max(right - left, bottom - top));
}

export function corners({ x, y, side }) {
  return [x - side / 2, y - side / 2, x + side / 2, y + side / 2];
}

// The square at `place`, averaged with its neighbours up to the next gap, by Gaussians of two widths (in frames).
export function smoothed(squares, place, [centre, side]) {
  if (!squares[place]) return null;
  let first = place, last = place;
  while (first > Math.max(place - LOOKAHEAD, 0) && squares[first - 1]) first -= 1;
  while (last < Math.min(place + LOOKAHEAD, squares.length - 1) && squares[last + 1]) last += 1;
  const mean = (key, sigma) => {
    let sum = 0, weights = 0;
    for (let near = first; near <= last; near += 1) {
      const weight = Math.exp(-0.5 * ((near - place) / sigma) ** 2);
      sum += weight * squares[near][key];
      weights += weight;
    }
    return sum / weights;
  };
  return square(mean("x", centre), mean("y", centre), mean("side", side));
}

// A picture is {data, width, height}, with 4 bytes a pixel as a canvas has them. The square cut from it, black beyond
// its border, as 3 bytes for each of size * size pixels.
export function cut(picture, box, size) {
  const side = Math.max(round(box.side), 2), left = round(box.x - box.side / 2), top = round(box.y - box.side / 2);
  const inside = new Uint8Array(3 * side * side);
  for (let y = Math.max(top, 0); y < Math.min(top + side, picture.height); y += 1) {
    for (let x = Math.max(left, 0); x < Math.min(left + side, picture.width); x += 1) {
      const from = 4 * (y * picture.width + x), to = 3 * ((y - top) * side + x - left);
      inside[to] = picture.data[from];
      inside[to + 1] = picture.data[from + 1];
      inside[to + 2] = picture.data[from + 2];
    }
  }
  return resized(inside, side, size);
}

// A square of side * side pixels of 3 bytes, scaled as Pillow's BICUBIC does, in its whole numbers.
export function resized(pixels, side, size) {
  if (side === size) return pixels;
  const taps = weights(side, size), half = new Uint8ClampedArray(3 * side * size), whole = new Uint8ClampedArray(3 * size * size);
  for (let y = 0; y < side; y += 1) for (let x = 0; x < size; x += 1) mix(pixels, half, taps[x], 3 * y * side, 3, 3 * (y * size + x));
  for (let y = 0; y < size; y += 1) for (let x = 0; x < size; x += 1) mix(half, whole, taps[y], 3 * x, 3 * size, 3 * (y * size + x));
  return new Uint8Array(whole.buffer);
}

function mix(from, to, { first, taps }, start, step, target) {
  for (let colour = 0; colour < 3; colour += 1) {
    let sum = 1 << (PRECISION - 1), place = start + first * step + colour;
    for (let tap = 0; tap < taps.length; tap += 1, place += step) sum += from[place] * taps[tap];
    to[target + colour] = sum >> PRECISION;
  }
}

// For each new pixel the first old one that it is made of, and their weights.
function weights(side, size) {
  const scale = side / size, wide = Math.max(scale, 1), support = 2 * wide;
  return Array.from({ length: size }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0), end = Math.min(Math.trunc(centre + support + 0.5), side);
    const shares = Array.from({ length: end - first }, (__, tap) => cubic((tap + first - centre + 0.5) / wide));
    const sum = shares.reduce((total, share) => total + share, 0);
    return { first, taps: Int32Array.from(shares, (share) => Math.trunc((share / sum) * (1 << PRECISION) + (share < 0 ? -0.5 : 0.5))) };
  });
}

function cubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * A : 0;
}
