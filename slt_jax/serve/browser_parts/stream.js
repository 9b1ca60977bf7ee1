// Translation while somebody signs, of one signer: slt_jax/decoding/stream.py, with sentences that end at pauses.
import { Body, STILL, lastSign, pauseIn, round, smoothed } from "./motion.js";
import { strip } from "./token_text.js";

const PAUSE = 0.5; // seconds that the hands rest at the end of a sentence
const LEAD = 0.2; // seconds of rest that are kept before a sentence
const TRAIL = 0.25; // seconds that a sentence may be longer than the model takes
const milliseconds = (seconds) => Math.round(1000 * seconds) / 1000;
const moves = (motion) => motion.some((speed) => speed > STILL);

export class Stream {
  // `model` has facts, features, tokens and text, as Model; `unit` are the pixels of a pose's units.
  constructor(model, policy, { unit = [1, 1], language = null } = {}) {
    const { fps, sequence_length: longest, points, chunk } = model.facts;
    Object.assign(this, { model, policy, language, fps, longest, chunk });
    this.pause = Math.max(round(PAUSE * fps), 1);
    this.lead = round(LEAD * fps);
    this.body = new Body(points, unit);
    this.frames = this.first = 0; // that have come; the number of the running sentence's first
    this.raw = []; // frames of it that no backbone has seen yet, after those of `features`
    this.features = [];
    this.steps = [];
    this.text = this.newText();
    this.alone = true; // no sentence has ended yet, nothing was left out
  }

  // {settled, pending, ended, time} after the next frames. One push at a time.
  push(frames) {
    const fresh = !this.steps.length;
    if (!this.text.hypotheses.length && !this.signs()) this.drop(this.steps.length - this.lead);
    this.steps.push(...this.body.steps(frames.map(({ pose }) => pose)));
    this.frames += frames.length;
    this.raw.push(...frames);
    const over = this.steps.length - this.longest;
    if (over > 0 && !fresh) { // signs are cut only when no rest is left
      const moved = this.motion().findIndex((speed) => speed > STILL);
      this.drop(moved < 0 ? 0 : Math.min(over, moved));
    }
    return this.work(this.plan({ fresh, large: frames.length >= this.chunk }));
  }

  // End the running sentence.
  finish() {
    return this.work(this.plan({ ends: true }));
  }

  // Where sentences end in the frames that there are, and which frames are to be looked at.
  plan({ ends = false, fresh = false, large = false }) {
    const cuts = [], total = this.steps.length, live = !ends && !fresh;
    let first = 0;
    while (this.roomTaken(first, live) > this.longest) {
      const calm = smoothed(this.motion(first), this.fps), end = pauseIn(calm, this.longest);
      first += live ? lastSign(calm.slice(0, end)) : end;
      cuts.push(first);
    }
    if (total > first && ends) cuts.push(total);
    else if (live && !cuts.length && this.rests()) cuts.push(this.lastSign());
    const whole = cuts.length > 0 || large;
    return { cuts, chunks: cuts.length || this.signs() ? this.nextChunks(whole) : [], clip: fresh };
  }

  // The frames from `first` on that a window has to hold; while somebody signs, without the rest at their end.
  roomTaken(first, live) {
    const motion = this.motion(first);
    return live && motion.length ? lastSign(smoothed(motion, this.fps)) - round(TRAIL * this.fps) : motion.length;
  }

  nextChunks(whole) {
    const waiting = this.raw.length;
    if (!waiting || (waiting < this.chunk && !whole)) return [];
    const used = this.raw.splice(0, whole ? waiting : waiting - (waiting % this.chunk));
    return Array.from({ length: Math.ceil(used.length / this.chunk) }, (_, n) => used.slice(n * this.chunk, (n + 1) * this.chunk));
  }

  // Forget the first frames of the running sentence.
  drop(count) {
    if (count <= 0) return;
    this.text.last = null;
    const known = Math.min(count, this.features.length);
    this.features = this.features.slice(known);
    this.steps = this.steps.slice(count);
    this.raw = this.raw.slice(count - known);
    this.first += count;
    this.alone = false;
  }

  motion(first = 0) {
    return this.steps.slice(first).map((step) => step * (this.fps / this.body.width));
  }

  signs() {
    return this.steps.length > 0 && moves(smoothed(this.motion(), this.fps));
  }

  lastSign() {
    return lastSign(smoothed(this.motion(), this.fps));
  }

  rests() {
    const calm = smoothed(this.motion(), this.fps);
    return calm.length > this.pause && moves(calm) && calm.slice(-this.pause).every((speed) => speed < STILL);
  }

  async work(plan) {
    for (const chunk of plan.chunks) this.features.push(...await this.model.features(chunk));
    const jobs = this.jobs(plan), said = [];
    for (const job of jobs) {
      const known = job.isNew ? null : this.text.known(job.features.length);
      said.push(known ?? await this.model.tokens(job.features, job.isNew ? [] : this.text.tokens, this.language));
    }
    return this.update(plan, jobs, said);
  }

  // What is to be translated: sentences that ended, with their times, and the running one.
  jobs(plan) {
    const jobs = [], motion = this.motion();
    let first = 0;
    for (const end of plan.cuts) {
      const alone = this.alone && !first && end === plan.cuts.at(-1);
      if (alone || moves(motion.slice(first, end))) { // else nobody signs anything there
        const times = [first, end].map((place) => milliseconds((this.first + place) / this.fps));
        jobs.push({ features: this.features.slice(first, end), times, isNew: first > 0 });
      }
      first = end;
    }
    if (plan.cuts.length) {
      this.alone = false;
      this.features = this.features.slice(first);
      this.steps = this.steps.slice(first);
      this.first += first;
    }
    const shown = this.features.slice(0, plan.clip ? this.longest : Math.min(this.lastSign(), this.longest));
    if (shown.length && this.signs() && (plan.cuts.length || !this.text.known(shown.length))) {
      jobs.push({ features: shown, times: null, isNew: plan.cuts.length > 0 });
    }
    return jobs;
  }

  update(plan, jobs, said) {
    const ended = [];
    jobs.forEach(({ features, times, isNew }, number) => {
      if (isNew) this.text = this.newText();
      if (times) ended.push({ start: times[0], end: times[1], text: this.text.whole(said[number].ids) });
      else this.text.hear(said[number], features.length, this.policy);
    });
    if (plan.cuts.length && (!jobs.length || jobs.at(-1).times)) this.text = this.newText();
    return { settled: this.text.settled, pending: this.text.pending, ended, time: milliseconds(this.frames / this.fps) };
  }

  newText() {
    return new Text(this.model);
  }
}

// The text of one sentence while it grows.
class Text {
  constructor(model) {
    this.model = model;
    const { unspaced } = model.facts; // letters of scripts without spaces, each a word
    this.word = new RegExp(`[${unspaced}]|[^\\s${unspaced}]+`, "gu");
    this.hypotheses = [];
    this.tokens = []; // of the settled words
    this.settled = this.pending = "";
    this.last = null; // frames and tokens of the last hypothesis
  }

  hear(tokens, frames, policy) {
    const text = this.whole(tokens.ids);
    const found = [...text.matchAll(this.word)].map((match) => ({ text: match[0], end: match.index + match[0].length }));
    const ends = this.ends(tokens.ids, found.map((word) => word.text));
    this.hypotheses.push(found.map((word, place) => ({
      text: word.text,
      probability: Math.min(1, ...tokens.probabilities.slice(place ? ends[place - 1] : 0, ends[place])),
    })));
    this.last = { frames, tokens };
    const count = policy.settled(this.hypotheses);
    if (count && found[count - 1].end > this.settled.length) {
      this.settled = text.slice(0, found[count - 1].end);
      this.tokens = tokens.ids.slice(0, ends[count - 1]);
    }
    this.pending = strip(text.slice(this.settled.length));
  }

  // The text of tokens, which begins with what is settled, whatever the tokenizer makes of them together.
  whole(ids) {
    const text = this.model.text(ids);
    if (text.startsWith(this.settled)) return text;
    const rest = this.words(text).slice(this.words(this.settled).length);
    return [this.settled, ...rest].join(" ");
  }

  // The tokens of the last hypothesis, if it was about just so many frames.
  known(frames) {
    return this.last?.frames === frames ? this.last.tokens : null;
  }

  words(text) {
    return text.match(this.word) ?? [];
  }

  // The fewest tokens that say the first word, the first two, and so on.
  ends(ids, words) {
    const ends = [];
    for (let count = 1; count <= ids.length; count += 1) {
      const said = this.words(this.model.text(ids.slice(0, count)));
      while (ends.length < words.length && words.slice(0, ends.length + 1).every((word, place) => said[place] === word)) ends.push(count);
    }
    return words.map((_, place) => ends[place] ?? ids.length);
  }
}
