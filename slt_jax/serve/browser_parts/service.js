// Where the page's text comes from: this browser. The service's file of the same name has the same exports.
import { LocalSession } from "./local_session.js";
import { Translator } from "./translator.js";
import { LANGUAGE, words } from "./texts.js";

const local = { facts: null, translator: null, detector: null, opening: null };

export class Session extends LocalSession {
  constructor(video, told) {
    super(video, told, local);
  }
}

export async function describe() {
  const answer = await fetch("page.json");
  local.facts = await answer.json();
  return { status: answer.status, error: "", model: local.facts, sample: false };
}

// Whether everything is loaded; begins to. Raises with a message for people where something is missing.
export async function isReady() {
  local.opening ??= open().then(() => true);
  return Promise.race([local.opening, new Promise((done) => setTimeout(done, 100, false))]);
}

async function open() {
  const { Detector, MODELS } = await import("./detect.js");
  const there = await Promise.all(MODELS.map(async (model) => (await fetch(model, { method: "HEAD" })).ok));
  const missing = MODELS.filter((_, number) => !there[number]);
  if (missing.length) throw new Error(`${words.noDetector} ${new Intl.ListFormat(LANGUAGE).format(missing)}`);
  local.translator ??= new Translator();
  try {
    await local.translator.open();
    local.detector = await Detector.open(local.facts);
  } catch (error) {
    throw new Error(`${words.noModel} (${error.message})`);
  }
}
