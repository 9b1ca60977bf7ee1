// The signer in one picture after another: slt_jax/media/finder.py, and who it is: the follower of signer.py.
import { around, square } from "./crops.js";
import { HandFinder, shoulderWidth } from "./hands.js";

const FACE_SCALE = 1.5; // a crop's side relative to the widest extent of the face's points
const HEAD_SCALE = 2.2; // the same for the pose's points of the head, which reach only to the ears
const HEAD = 11; // of the pose's points
const FACE_HOLD_SECONDS = 1;
const JUMP = 1; // shoulder widths that a nose may move between frames
const LOST_SECONDS = 1; // after which anyone is taken for the signer

export class Finder {
  constructor(detector, confidence) {
    Object.assign(this, { detector, confidence });
    this.hands = new HandFinder(detector, confidence);
    this.face = this.nose = null; // where they were last, and when
  }

  // {pose, squares, sources} of a picture that is shown at `time`; the pose is 33 points [x, y, confidence], or null.
  look(picture, time) {
    let body = this.detector.body(picture, time);
    if (body && !this.accepts(body.pose, time)) {
      this.detector.reset(); // it would go on with the wrong person
      body = null;
    }
    const hands = this.hands.find(picture, body, time), face = this.faceSquare(body, time);
    const found = { face, ...hands }, squares = {}, sources = {};
    for (const name of ["face", "hand_l", "hand_r"]) [squares[name], sources[name]] = [found[name]?.square ?? null, found[name]?.source ?? ""];
    return { pose: body?.pose ?? null, squares, sources };
  }

  faceSquare(body, time) {
    let crop = null;
    if (body?.face) crop = { square: around(body.face, FACE_SCALE), source: "holistic" };
    else if (body && body.pose[0][2] >= this.confidence) {
      const { x, y, side } = around(body.pose.slice(0, HEAD), HEAD_SCALE);
      crop = { square: square(x, y, Math.max(side, 0.6 * shoulderWidth(body.pose))), source: "pose" };
    } else if (this.face && time - this.face.time <= FACE_HOLD_SECONDS) return { square: this.face.square, source: "hold" };
    if (crop) this.face = { square: crop.square, time };
    return crop;
  }

  // Whether a pose is still the signer's.
  accepts(pose, time) {
    const [x, y] = pose[0];
    if (this.nose && time - this.nose.time < LOST_SECONDS) {
      const allowed = JUMP * shoulderWidth(pose) * (1 + time - this.nose.time);
      if (Math.hypot(x - this.nose.x, y - this.nose.y) > allowed) return false;
    }
    this.nose = { x, y, time };
    return true;
  }
}
