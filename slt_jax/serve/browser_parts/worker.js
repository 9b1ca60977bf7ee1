// The model at work beside the page, so that the picture does not stand still while it computes.
import * as ort from "./vendor/ort.wasm.min.js";
import { Model } from "./model.js";
import { LocalAgreement } from "./policies.js";
import { Stream } from "./stream.js";

// One thread: more need headers (cross-origin isolation) that not every web server sends.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = {
  mjs: new URL("vendor/ort-wasm-simd-threaded.js", import.meta.url).href,
  wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", import.meta.url).href,
};
ort.env.logLevel = "error";

let model = null, stream = null, language = null;

async function fetched(path) {
  const answer = await fetch(new URL(path, import.meta.url));
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer;
}

const TASKS = {
  async open() {
    const facts = await (await fetched("page.json")).json();
    const table = await (await fetched("tokens.json")).json();
    model = await Model.open(ort, facts, table, async (file) => {
      const bytes = new Uint8Array(await (await fetched(file)).arrayBuffer());
      return ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    });
  },
  begin(wished) {
    language = wished;
    stream = null;
  },
  // Frames as in model.js; `begins` where the one before is no neighbour, `unit` are the pixels of its pose's units.
  async push(frames) {
    const updates = [], parts = [];
    for (const frame of frames) {
      if (frame.begins || !parts.length) parts.push([]);
      parts.at(-1).push(frame);
    }
    for (const part of parts) {
      if (part[0].begins && stream) updates.push(await stream.finish());
      stream ??= new Stream(model, new LocalAgreement({ sure: model.facts.sure_words }), { unit: part[0].unit, language });
      updates.push(await stream.push(part));
    }
    return { ...updates.at(-1), ended: updates.flatMap(({ ended }) => ended) };
  },
  finish: async () => (stream ? stream.finish() : { settled: "", pending: "", ended: [], time: 0 }),
};

// One after another, in the order in which they come.
let last = Promise.resolve();
onmessage = ({ data: { number, task, given } }) => {
  last = last.then(async () => {
    try {
      postMessage({ number, done: await TASKS[task](given) });
    } catch (error) {
      postMessage({ number, failed: String(error?.message ?? error) });
    }
  });
};
