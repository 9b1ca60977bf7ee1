// How the hands move, and where they rest: slt_jax/data/windows.py, and the body of slt_jax/decoding/stream.py.
const SMOOTH_SECONDS = 0.3;
export const STILL = 0.5; // shoulder widths a second; hands that are never faster say nothing
const SHORTEST = 1 / 3; // of the longest window; no pause is searched for before this
const SURE = 0.25; // the confidence from which on a wrist counts as seen
const REMEMBERED = 1500; // frames of which the width of the shoulders is known

// As Python: halves go to the even neighbour.
export function round(value) {
  const low = Math.floor(value), rest = value - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

const smoothing = (fps) => Math.max(round(SMOOTH_SECONDS * fps), 1);

// The mean of a motion over SMOOTH_SECONDS around each frame.
export function smoothed(motion, fps) {
  const wide = smoothing(fps), before = Math.floor(wide / 2), last = motion.length - 1;
  return motion.map((_, place) => {
    let sum = 0;
    for (let near = place - before; near < place - before + wide; near += 1) sum += motion[Math.min(Math.max(near, 0), last)] / wide;
    return sum;
  });
}

// The frame, at most `longest`, at which to cut a smoothed motion of more frames: where it is slowest, the last of equals.
export function pauseIn(calm, longest) {
  let best = Math.max(round(SHORTEST * longest), 1);
  for (let place = best; place <= longest && place < calm.length; place += 1) if (calm[place] <= calm[best]) best = place;
  return best;
}

// The frames of a smoothed motion without the rest at their end; all of them where there is nothing else.
export function lastSign(calm) {
  const place = calm.findLastIndex((speed) => speed >= STILL);
  return place < 0 ? calm.length : place + 1;
}

export function median(values) {
  const sorted = Float64Array.from(values).sort(), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

// How far the faster wrist moves, from one frame to the next. `points` are the names of a pose's landmarks.
export class Body {
  constructor(points, [across, down]) {
    this.unit = [across, down];
    this.wrists = ["left_wrist", "right_wrist"].map((name) => 3 * points.indexOf(name));
    this.shoulders = ["left_shoulder", "right_shoulder"].map((name) => 3 * points.indexOf(name));
    this.widths = [];
    this.width = 1;
    this.last = null;
  }

  // The wrists' steps to each of `poses` (3L), in pixels; 0 where a wrist is not seen.
  steps(poses) {
    const steps = poses.map((pose) => {
      const before = this.last;
      this.last = pose;
      return before ? Math.max(...this.wrists.map((at) => (pose[at + 2] >= SURE && before[at + 2] >= SURE ? this.apart(pose, at, before, at) : 0))) : 0;
    });
    for (const pose of poses) {
      const seen = pose.some((value, place) => place % 3 === 2 && value);
      if (seen) this.widths.push(this.apart(pose, this.shoulders[0], pose, this.shoulders[1]));
    }
    this.width = Math.max(this.widths.length ? median(this.widths) : 1, 1e-6);
    this.widths = this.widths.slice(-REMEMBERED);
    return steps;
  }

  apart(one, at, other, there) {
    return Math.hypot((one[at] - other[there]) * this.unit[0], (one[at + 1] - other[there + 1]) * this.unit[1]);
  }
}
