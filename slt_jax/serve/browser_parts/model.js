// The exported model in onnxruntime: frames to features, windows of features to tokens, as slt_jax/decoding/engine.py.
import { textOf } from "./token_text.js";

// A frame is {images: {face: Uint8Array of size * size * 3, ...}, missing: {hand_l: true, ...}, pose: Float32Array}.
export class Model {
  // `facts` are page.json; `open(name)` gives a session for the file of a graph.
  static async open(ort, facts, table, open) {
    const model = new Model();
    Object.assign(model, { ort, facts, table, sessions: {} });
    for (const [part, file] of Object.entries(facts.files)) model.sessions[part] = await open(file);
    return model;
  }

  // The features of frames, one Float32Array (d_model) for each.
  async features(frames) {
    const { ort, facts } = this, count = frames.length, size = facts.image_size, plane = size * size;
    const inputs = { pose: this.#poses(frames) };
    for (const [name, { mean, std, mask, hidden }] of Object.entries(facts.images)) {
      const pixels = new Float32Array(count * 3 * plane);
      frames.forEach(({ images }, number) => {
        const image = images[name];
        for (let colour = 0; colour < 3; colour += 1) {
          const first = (3 * number + colour) * plane;
          for (let place = 0; place < plane; place += 1) pixels[first + place] = (image[3 * place + colour] / 255 - mean[colour]) / std[colour];
        }
      });
      inputs[name] = new ort.Tensor("float32", pixels, [1, count, 3, size, size]);
      const masked = frames.map(({ missing }) => Number(hidden || Boolean(missing[name])));
      if (mask) inputs[mask] = new ort.Tensor("bool", Uint8Array.from(masked), [1, count]);
    }
    const { features } = await this.sessions.frames.run(inputs);
    const [, , width] = features.dims;
    return frames.map((_, number) => features.data.slice(number * width, (number + 1) * width));
  }

  // Landmarks that are unsure are zeros.
  #poses(frames) {
    const width = frames[0].pose.length, poses = new Float32Array(frames.length * width);
    frames.forEach(({ pose }, number) => {
      for (let place = 0; place < width; place += 3) {
        const point = pose.subarray(place, place + 3);
        if (point.every(Number.isFinite) && point[2] >= this.facts.sure) poses.set(point, number * width + place);
      }
    });
    return new this.ort.Tensor("float32", poses, [1, frames.length, width]);
  }

  // {ids, probabilities} of the text of a window's features, which begins with the tokens `settled`.
  async tokens(features, settled, language) {
    const { ort, facts, sessions } = this, rules = facts.generation, { first, prompt } = facts.starts[language ?? ""];
    const count = features.length, width = features[0].length, rows = new Float32Array(count * width);
    features.forEach((row, number) => rows.set(row, number * width));
    const known = { features: new ort.Tensor("float32", rows, [1, count, width]) };
    known.pad_mask = new ort.Tensor("bool", new Uint8Array(count).fill(1), [1, count]);
    Object.assign(known, await run(sessions.context, known));
    const forced = [...prompt, ...settled].slice(0, rules.max_length - 1);
    const ids = [first], probabilities = [];
    let session = sessions.decoder_first;
    while (ids.length < rules.max_length) {
      known.input_ids = new ort.Tensor("int64", BigInt64Array.of(BigInt(ids.at(-1))), [1, 1]);
      const outputs = await run(session, known), logits = outputs.logits.data;
      const best = highest(restricted(logits, ids, rules, forced));
      ids.push(best);
      probabilities.push(probability(logits, best));
      if (rules.eos_token_id.includes(best)) break;
      for (const [name, tensor] of Object.entries(outputs)) known[name.replace("present.", "past.")] = tensor;
      session = sessions.decoder_step;
    }
    const begins = 1 + prompt.length;
    const end = ids.findIndex((id, place) => place >= begins && rules.eos_token_id.includes(id));
    const ends = end < 0 ? ids.length : end;
    return { ids: ids.slice(begins, ends), probabilities: probabilities.slice(begins - 1, ends - 1) };
  }

  text(ids) {
    return textOf(this.table, ids);
  }
}

const run = (session, known) => session.run(Object.fromEntries(session.inputNames.map((name) => [name, known[name]])));

// A copy of `logits` of the token after `ids`, -Infinity where it is forbidden, in HuggingFace's order.
export function restricted(logits, ids, rules, forced) {
  const scores = Float32Array.from(logits), length = ids.length, size = rules.no_repeat_ngram_size;
  for (let first = 0; size && first + size <= length; first += 1) {
    const same = (_, place) => ids[first + place] === ids[length - size + 1 + place];
    if (Array.from({ length: size - 1 }).every(same)) scores[ids[first + size - 1]] = -Infinity;
  }
  if (length < rules.min_length) for (const id of rules.eos_token_id) scores[id] = -Infinity;
  if (length <= forced.length) scores.fill(-Infinity)[forced[length - 1]] = 0;
  if (length === rules.max_length - 1 && rules.forced_eos_token_id.length) {
    scores.fill(-Infinity);
    for (const id of rules.forced_eos_token_id) scores[id] = 0;
  }
  return scores;
}

function highest(scores) {
  let best = 0;
  for (let id = 1; id < scores.length; id += 1) if (scores[id] > scores[best]) best = id;
  return best;
}

function probability(logits, id) {
  const top = logits[highest(logits)];
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - top);
  return Math.exp(logits[id] - top) / sum;
}
