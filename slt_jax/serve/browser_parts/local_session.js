// From a playing <video> to text within this browser, with what the page asks of a session: see page_parts/camera.js.
import { LiveExtractor } from "./extract.js";

const LONGEST = 640; // pixels of a picture's longer side
const KEPT = 24; // pictures that were looked at, to show with what is found in them
const FAILED = 4000; // closed with
const ROOM = 25; // frames that the model may be behind

export class LocalSession {
  // `told` has a function for each kind of message, and `closed(code, reason)`; `local` has facts, translator, detector.
  constructor(video, told, local) {
    Object.assign(this, { video, told, ...local });
    this.canvas = document.createElement("canvas");
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.extractor = new LiveExtractor(local.facts, local.detector);
    this.skipped = this.dropped = this.waiting = 0;
    this.times = []; // of the frames that the model was given, by the pictures' clock
    this.kept = []; // {time, bitmap}
    this.last = -1;
    this.over = this.ending = false;
  }

  async open({ language }) {
    await this.translator.begin(language);
    this.fps = this.facts.fps;
    this.began = performance.now();
    this.told.ready({ fps: this.fps });
    this.watch();
  }

  watch() {
    if (this.over || this.ending) return;
    const next = (_, seen) => {
      this.take(seen?.mediaTime);
      this.watch();
    };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(next);
    else setTimeout(next, 500 / this.fps);
  }

  // Look at the picture that is shown, if one is due. A camera's time is the clock's, a file's its own.
  take(mediaTime) {
    if (this.over || this.ending || this.video.readyState < 2) return;
    const time = this.video.srcObject ? (performance.now() - this.began) / 1000 : (mediaTime ?? this.video.currentTime);
    if (this.last >= 0 && time - this.last < 0.75 / this.fps) return;
    if (this.waiting >= ROOM) return;
    if (this.last >= 0) this.skipped += Math.max(Math.round((time - this.last) * this.fps) - 1, 0); // that were due meanwhile
    this.last = time;
    const taken = performance.now();
    try {
      this.give(this.extractor.frame(this.picture(time), time), taken);
    } catch (error) {
      this.close(FAILED, error.message);
    }
  }

  picture(time) {
    const { videoWidth: wide, videoHeight: high } = this.video, scale = Math.min(1, LONGEST / Math.max(wide, high));
    const width = Math.round(wide * scale), height = Math.round(high * scale);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    if (this.facts.mirrored) this.pen.setTransform(-1, 0, 0, 1, width, 0);
    this.pen.drawImage(this.video, 0, 0, width, height);
    createImageBitmap(this.canvas).then((bitmap) => {
      this.kept.push({ time, bitmap });
      if (this.kept.length > KEPT) this.kept.shift().bitmap.close();
    });
    return this.pen.getImageData(0, 0, width, height);
  }

  // Frames to the model; what it says comes back later.
  async give(frames, taken) {
    if (!frames.length) return this.told.frame({});
    const { time, boxes, points } = frames.at(-1);
    this.told.frame({ time, boxes, points, lag: this.lag });
    this.times.push(...frames.map((frame) => frame.time));
    this.waiting += frames.length;
    try {
      const update = await this.translator.push(frames.map(({ begins, images, missing, pose, unit }) => ({ begins, images, missing, pose, unit })));
      this.lag = performance.now() - taken;
      this.say(update);
    } catch (error) {
      this.close(FAILED, error.message);
    } finally {
      this.waiting -= frames.length;
    }
  }

  say({ settled, pending, ended }) {
    if (this.over) return;
    this.told.text({ settled, pending, ended: ended.map(({ start, end, text }) => ({ start: this.clock(start), end: this.clock(end), text })) });
  }

  // The pictures' time at a stream's, which counts frames and knows nothing of gaps between pictures.
  clock(seconds) {
    const place = Math.round(seconds * this.fps), known = Math.min(place, this.times.length - 1);
    return known < 0 ? seconds : Math.round(1000 * (this.times[known] + (place - known) / this.fps)) / 1000;
  }

  // The picture that was looked at for a time; earlier ones are of no use any longer.
  pictureOf(time) {
    while (this.kept.length > 1 && Math.abs(this.kept[1].time - time) <= Math.abs(this.kept[0].time - time)) this.kept.shift().bitmap.close();
    return this.kept[0]?.bitmap;
  }

  // Nothing more comes; say the last words.
  async end() {
    if (this.ending) return;
    this.ending = true;
    try {
      await this.give(this.extractor.flush(), performance.now());
      this.say(await this.translator.finish());
      this.close(1000, "");
    } catch (error) {
      this.close(FAILED, error.message);
    }
  }

  close(code, reason) {
    if (this.over) return;
    this.over = true;
    for (const { bitmap } of this.kept.splice(0)) bitmap.close();
    this.told.closed(code, reason);
  }
}
