// A camera's pictures to what the model reads, one after another: slt_jax/media/live.py, where models look at each
// picture, and one person is there.
import { LOOKAHEAD, corners, cut, resized, smoothed } from "./crops.js";
import { Finder } from "./finder.js";
import { median, round } from "./motion.js";

const SPACE_SECONDS = 10; // of the poses that tell where the signing space is
const GAP_SECONDS = 1; // without a picture; then nothing is carried over
const SHOULDERS_PER_UNIT = 4;
const [LEFT, RIGHT] = [11, 12]; // shoulders

// The items, pushed in the order of their times, that are nearest to start + number / fps, as [number, item, fresh].
export class AtRate {
  constructor(fps, start) {
    Object.assign(this, { fps, start, number: 0, before: null, fresh: true });
  }

  push(time, item) {
    const due = [];
    while (this.before && this.start + this.number / this.fps < (this.before.time + time) / 2) due.push(this.next());
    this.before = { time, item };
    this.fresh = true;
    return due;
  }

  // What is due of the last item, which is shown for a frame.
  finish() {
    if (!this.before) return [];
    const count = Math.max(round((this.before.time + 1 / this.fps - this.start) * this.fps), 1) - this.number;
    return Array.from({ length: Math.max(count, 0) }, () => this.next());
  }

  next() {
    const due = [this.number, this.before.item, this.fresh];
    this.number += 1;
    this.fresh = false;
    return due;
  }
}

// From pixels to a pose's units, by the poses of the last seconds: {origin, unit}, or null without shoulders.
export function signingSpace(poses, confidence) {
  const shown = poses.filter((pose) => pose && pose[LEFT][2] >= confidence && pose[RIGHT][2] >= confidence);
  const width = shown.length ? median(shown.map((pose) => Math.hypot(pose[LEFT][0] - pose[RIGHT][0], pose[LEFT][1] - pose[RIGHT][1]))) : 0;
  if (!(width > 0)) return null;
  const unit = SHOULDERS_PER_UNIT * width;
  const origin = [0, 1].map((axis) => median(shown.map((pose) => (pose[LEFT][axis] + pose[RIGHT][axis]) / 2)) - unit / 2);
  return { origin, unit: [unit, unit] };
}

// The landmarks of a pose as the model reads them: x, y and confidence of each; zeros without a pose or a space.
export function chosen(pose, landmarks, space) {
  const row = new Float32Array(3 * landmarks.length);
  if (!pose || !space) return row;
  const [left, right] = [pose[LEFT], pose[RIGHT]];
  const all = [...pose, [(left[0] + right[0]) / 2, (left[1] + right[1]) / 2, Math.min(left[2], right[2])]]; // the neck
  landmarks.forEach((number, place) => {
    const [x, y, confidence] = all[number];
    row.set([(x - space.origin[0]) / space.unit[0], (y - space.origin[1]) / space.unit[1], confidence], 3 * place);
  });
  return row;
}

export class LiveExtractor {
  // `facts` are page.json.
  constructor(facts, detector) {
    Object.assign(this, { facts, detector, fps: facts.fps });
    this.forget();
    this.rate = null;
    this.start = this.last = 0;
    this.past = []; // frames that were handed out, at most LOOKAHEAD
    this.waiting = [];
    this.shown = {}; // the last crop of each stream
  }

  // The frames that are complete once `picture` ({data, width, height}) comes, taken at `time`: of a little earlier.
  frame(picture, time) {
    const frames = [], other = picture.width !== this.width || picture.height !== this.height;
    if (!this.rate || time - this.last > GAP_SECONDS || other) {
      frames.push(...this.flush());
      this.start = this.last = time;
    }
    this.rate ??= new AtRate(this.fps, time);
    if (other) {
      this.detector.reset();
      this.forget(picture);
    }
    this.last = Math.max(time, this.last);
    for (const due of this.rate.push(this.last, picture)) frames.push(...this.follow(due));
    return frames;
  }

  // The frames that wait for others. What comes later is no neighbour of theirs.
  flush() {
    const frames = (this.rate?.finish() ?? []).flatMap((due) => this.follow(due));
    while (this.waiting.length) frames.push(this.handOut());
    this.rate = null;
    this.past = [];
    return frames;
  }

  // In pictures of another size, nothing is known of where the signer is.
  forget({ width = 0, height = 0 } = {}) {
    Object.assign(this, { width, height, poses: [] });
    this.finder = new Finder(this.detector, this.facts.min_confidence);
  }

  follow([number, picture, fresh]) {
    const time = this.start + number / this.fps, before = this.waiting.at(-1) ?? this.past.at(-1);
    const found = !fresh && before ? before.found : this.finder.look(picture, time);
    if (fresh || !before) this.poses = [...this.poses, found.pose].slice(-Math.max(round(SPACE_SECONDS * this.fps), 1));
    this.waiting.push({ time, picture, found, fresh });
    return this.waiting.length > LOOKAHEAD ? [this.handOut()] : [];
  }

  handOut() {
    const seen = this.waiting.shift(), near = [...this.past, seen, ...this.waiting], place = this.past.length;
    this.past = [...this.past, { found: seen.found }].slice(-LOOKAHEAD);
    if (!seen.fresh && place) { // where pictures are dropped, this must be cheap
      this.handed = { ...this.handed, time: seen.time, begins: false };
      return this.handed;
    }
    const images = {}, missing = {}, boxes = {}, { image_size: size } = this.facts;
    for (const [name, { smoothing, mask }] of Object.entries(this.facts.images)) {
      const box = smoothed(near.map(({ found }) => found.squares[name]), place, smoothing.map((seconds) => seconds * this.fps));
      if (box) {
        this.shown[name] = resized(cut(seen.picture, box, this.facts.crop_size), this.facts.crop_size, size);
        boxes[name] = corners(box);
      }
      // Where a stream has no mask, its last crop stands for one that is not there.
      images[name] = (box || !mask) && this.shown[name] ? this.shown[name] : new Uint8Array(3 * size * size);
      missing[name] = !seen.found.sources[name];
    }
    const raw = { origin: [0, 0], unit: [this.width, this.height] };
    const space = this.facts.pose === "raw" ? raw : signingSpace(this.poses, this.facts.min_confidence);
    const pose = chosen(seen.found.pose, this.facts.landmarks, space);
    this.handed = { time: seen.time, begins: !place, images, missing, pose, unit: space?.unit ?? [1, 1], boxes, points: seen.found.pose ?? [] };
    return this.handed;
  }
}
