// Where the hands are; each belongs to the nearest wrist of the pose: slt_jax/media/hands.py.
import { around, corners, cut, square } from "./crops.js";
import { round } from "./motion.js";

export const SIDES = ["hand_l", "hand_r"];
const WRIST = { hand_l: 15, hand_r: 16 };
const FINGER_BASES = { hand_l: [17, 19], hand_r: [18, 20] };
const SHOULDERS = [11, 12];
const HAND_SCALE = 1.6; // a crop's side relative to the widest extent of the hand's points
const REACH = 0.5; // shoulder widths that a hand's wrist may be away from the pose's
const UPPER_BODY = 4; // side of the picture that the hand detector gets, in shoulder widths
const RETRY = 1.4; // side of the crop around a wrist, in shoulder widths
const DETECTOR_SIDE = 256; // pixels; the hand detector looks at fewer
const HOLD_SECONDS = 0.2;
// After PATIENCE searches in a row without a hand at a resting wrist, only every REST_INTERVAL-th frame is searched.
const PATIENCE = 3, REST_INTERVAL = 4;
const RESTING = 0.08; // shoulder widths per frame

const apart = (one, other) => Math.hypot(one[0] - other[0], one[1] - other[1]);
const middle = (one, other) => [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2];

// The shoulder width in pixels; for a signer who turns aside, judged by head and trunk.
export function shoulderWidth(pose) {
  const [left, right] = SHOULDERS.map((number) => pose[number]);
  return Math.max(apart(left, right), apart(pose[0], middle(left, right)), 1);
}

// Each hand to the nearest wrist within reach, and each wrist takes its nearest hand.
export function assign(hands, pose, scale) {
  const nearest = {}, found = {};
  for (const hand of hands) {
    const [left, right] = SIDES.map((side) => apart(hand[0], pose[WRIST[side]]));
    const side = SIDES[Number(right < left)], distance = Math.min(left, right);
    if (distance > REACH * scale || !(distance < (nearest[side] ?? Infinity))) continue;
    nearest[side] = distance;
    found[side] = hand;
  }
  return found;
}

// Nearer to its own wrist, so that with folded hands each crop shows its own hand best.
export function onOwnSide(box, pose, side) {
  const own = pose[WRIST[side]], other = pose[WRIST[SIDES.find((name) => name !== side)]];
  const far = Math.max(apart(own, other), 1e-6), towards = [(own[0] - other[0]) / far, (own[1] - other[1]) / far];
  const [x, y] = middle(own, other), across = (box.x - x) * towards[0] + (box.y - y) * towards[1], clear = 0.05 * box.side;
  return across >= clear ? box : square(box.x + (clear - across) * towards[0], box.y + (clear - across) * towards[1], box.side);
}

// The middle of the hand according to the pose: a little beyond half way to the finger bases.
function palm(pose, side) {
  const wrist = pose[WRIST[side]], bases = middle(...FINGER_BASES[side].map((number) => pose[number]));
  return [wrist[0] + 0.8 * (bases[0] - wrist[0]), wrist[1] + 0.8 * (bases[1] - wrist[1])];
}

const within = ([x, y], { width, height }) => x >= 0 && x < width && y >= 0 && y < height;

// Both hands of one signer, picture after picture. `detector.hands(pixels, size)` finds hands in a square.
export class HandFinder {
  constructor(detector, confidence) {
    Object.assign(this, { detector, confidence });
    this.sides = Object.fromEntries(SIDES.map((side) => [side, { last: null, time: -1e9, side: null, failures: 0, wrist: null }]));
  }

  // {hand_l: {square, source}, ...} in `picture` with `body`, which may be null, at `time`.
  find(picture, body, time) {
    const hands = body ? this.detect(picture, body) : {};
    for (const side of SIDES) {
      const memory = this.sides[side];
      const box = !hands[side] && body && this.poseBox(picture, body, side);
      if (box) hands[side] = { square: box, source: "pose" };
      const gone = body && !within(body.pose[WRIST[side]], picture);
      if (hands[side]) Object.assign(memory, { last: hands[side].square, time });
      else if (memory.last && time - memory.time <= HOLD_SECONDS && !gone) hands[side] = { square: memory.last, source: "hold" };
    }
    return hands;
  }

  detect(picture, { pose, hand_l: left, hand_r: right }) {
    const scale = shoulderWidth(pose), found = assign([left, right].filter(Boolean), pose, scale), sources = {};
    for (const side of Object.keys(found)) sources[side] = "holistic";
    const search = (view, sides, source) => {
      const size = Math.min(Math.max(round(view.side), 32), DETECTOR_SIDE), [x, y] = corners(view), unit = view.side / size;
      const seen = this.detector.hands(cut(picture, view, size), size).map((hand) => hand.map((point) => [point[0] * unit + x, point[1] * unit + y]));
      for (const [side, hand] of Object.entries(assign(seen, pose, scale))) {
        if (sides.includes(side) && !found[side]) [found[side], sources[side]] = [hand, source];
      }
    };
    const wanted = SIDES.filter((side) => !found[side] && within(pose[WRIST[side]], picture) && this.worthASearch(pose, side));
    if (wanted.length) {
      const [x, y] = middle(...SHOULDERS.map((number) => pose[number]));
      search(square(x, y + 0.6 * scale, UPPER_BODY * scale), wanted, "hands");
    }
    for (const side of wanted) {
      if (!found[side]) search(square(...palm(pose, side), RETRY * scale), [side], "retry");
      this.sides[side].failures = found[side] ? 0 : this.sides[side].failures + 1;
    }
    return this.remember(found, sources, pose, scale);
  }

  remember(found, sources, pose, scale) {
    const hands = {};
    for (const [side, hand] of Object.entries(found)) {
      const memory = this.sides[side], box = onOwnSide(around(hand, HAND_SCALE), pose, side);
      memory.side = memory.side === null ? box.side : 0.9 * memory.side + 0.1 * box.side;
      memory.failures = 0;
      hands[side] = { square: box, source: sources[side] };
    }
    for (const side of SIDES) this.sides[side].wrist = pose[WRIST[side]].slice(0, 2).map((value) => value / scale);
    return hands;
  }

  worthASearch(pose, side) {
    const memory = this.sides[side];
    if (memory.failures < PATIENCE || !memory.wrist) return true;
    const scale = shoulderWidth(pose), wrist = pose[WRIST[side]].slice(0, 2).map((value) => value / scale);
    if (apart(wrist, memory.wrist) > RESTING || memory.failures % REST_INTERVAL === 0) return true;
    memory.failures += 1;
    return false;
  }

  poseBox(picture, { pose }, side) {
    const [x, y] = palm(pose, side), sure = pose[WRIST[side]][2] >= this.confidence;
    if (!sure || !within(pose[WRIST[side]], picture) || !within([x, y], picture)) return null;
    return square(x, y, this.sides[side].side ?? 0.75 * shoulderWidth(pose));
  }
}
