import { draw, wipe } from "./draw.js";
import { Session, describe, isReady } from "./service.js";
import { LANGUAGE, nameOf, translate, words } from "./texts.js";

const $ = (id) => document.getElementById(id);
const RATE_SECONDS = 2;
const KEEP_SCROLL = 60; // pixels from the end within which the paper follows the text

translate(document.documentElement);

let token = new URLSearchParams(location.hash.slice(1)).get("token") ?? sessionStorage.getItem("token") ?? "";
let session = null;
let language = null;
let sentences = []; // {start, end, text}, in seconds
let offset = 0; // of a camera's times, so that a second take comes after the first
let moments = []; // of the pictures of the last seconds: when they were answered
let hasSample = false;

// --- the service -------------------------------------------------------------------------------------------------

async function meet() {
  let answer;
  try {
    answer = await describe(token);
  } catch {
    trouble(words.unreachable);
    return setTimeout(meet, 3000);
  }
  const { status, error, model, sample } = answer;
  if (status === 401) {
    $("key").hidden = false;
    if (token) trouble(words.badToken);
    return say("");
  }
  if (error) return trouble(error);
  if (token) sessionStorage.setItem("token", token);
  history.replaceState(null, "", location.pathname + location.search);
  $("key").hidden = true;
  trouble("");
  $("model").textContent = model.name;
  hasSample = sample;
  $("sample").hidden = !sample;
  offerLanguages(model);
  if (!await ready()) return;
  const play = new URLSearchParams(location.search).get("play");
  if (play === "sample" && sample) playSample();
  if (play === "camera") playCamera();
}

async function ready() {
  for (;;) {
    try {
      if (await isReady()) break;
    } catch (error) {
      say("");
      trouble(error.message);
      return false;
    }
    say(words.waking, "wait");
    await new Promise((done) => setTimeout(done, 1000));
  }
  say(words.ready);
  return true;
}

function offerLanguages(model) {
  language = model.language;
  $("languages").hidden = model.languages.length < 2;
  $("languages").setAttribute("aria-label", words.languages);
  $("languages").replaceChildren(...model.languages.map((code) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = nameOf(code);
    button.setAttribute("aria-pressed", code === language);
    button.onclick = () => {
      language = code;
      for (const other of $("languages").children) other.setAttribute("aria-pressed", other === button);
      if (session && !session.ending) {
        const again = session.again;
        session.end();
        session.then = again;
      }
    };
    return button;
  }));
}

// --- sources -----------------------------------------------------------------------------------------------------

async function playCamera() {
  if (!navigator.mediaDevices?.getUserMedia) return trouble(words.insecure);
  let stream;
  try {
    const video = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 }, facingMode: "user" };
    stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
  } catch {
    return trouble(words.noCamera);
  }
  offset = sentences.length ? Math.ceil(sentences.at(-1).end) + 1 : 0;
  begin({ srcObject: stream }, playCamera);
}

function playFile(file) {
  clear();
  begin({ src: URL.createObjectURL(file) }, () => playFile(file));
}

function playSample() {
  clear();
  begin({ src: "sample" }, playSample);
}

function begin(source, again) {
  trouble("");
  const video = $("video");
  video.srcObject = source.srcObject ?? null;
  if (source.src) video.src = source.src;
  else video.removeAttribute("src");
  $("stage").classList.toggle("mirrored", Boolean(source.srcObject));
  document.body.classList.add("playing");
  $("camera").hidden = $("file").hidden = $("sample").hidden = true;
  $("stop").hidden = $("numbers").hidden = false;
  $("stop").focus();
  say(words.starting, "wait");
  moments = [];
  numbers();
  const mine = session = new Session(video, {
    ready() {
      say(words.live, "yes");
      video.play().catch(() => { trouble(words.badVideo); mine.end(); });
    },
    frame,
    text,
    closed: (code, reason) => closed(mine, code, reason),
  });
  mine.again = again;
  video.onended = () => mine.end();
  video.onerror = () => {
    if (session !== mine || !video.getAttribute("src")) return;
    trouble(words.badVideo);
    mine.end();
  };
  if (source.srcObject) video.play().catch(() => {}); // the picture shows at once; it is sent from `ready` on
  mine.open({ token, language });
}

function finish() {
  if (!session) return;
  say(words.ending, "wait");
  $("video").pause();
  session.end();
}

function closed(which, code, reason) {
  if (session !== which) return;
  session = null;
  const video = $("video");
  video.pause();
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  if (video.src.startsWith("blob:")) URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.removeAttribute("src");
  video.load();
  wipe($("drawn"));
  document.body.classList.remove("playing");
  $("camera").hidden = $("file").hidden = false;
  $("sample").hidden = !hasSample;
  $("stop").hidden = $("numbers").hidden = true;
  if (document.activeElement === document.body) $("camera").focus();
  settle($("settled").textContent); // of a connection that broke; a finished one has nothing left
  running("", "");
  say(words.ready);
  if (code === 3000) {
    $("key").hidden = false;
    $("token").focus();
  }
  if (which.then) which.then();
  else if (code !== 1000) trouble([words.closed[code] ?? words.gone, [1007, 1009, 4000].includes(code) ? reason : ""].join(" "));
}

// --- what comes down ---------------------------------------------------------------------------------------------

function frame(message) {
  const now = performance.now();
  moments.push(now);
  moments = moments.filter((moment) => now - moment < 1000 * RATE_SECONDS);
  numbers(message.lag);
  const picture = message.time === undefined ? null : session.pictureOf(message.time);
  if (picture && $("draw").checked) draw($("drawn"), picture, message);
}

let shownLag = null;
function numbers(lag) {
  if (lag === undefined) shownLag = null;
  else shownLag = shownLag === null ? lag : 0.85 * shownLag + 0.15 * lag;
  const of = (value) => value.toLocaleString(LANGUAGE, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
  $("lag").textContent = shownLag === null ? "–" : `${of(shownLag / 1000)} s`;
  const span = (moments.at(-1) - moments[0]) / 1000;
  $("rate").textContent = moments.length > 2 && span > 0 ? of((moments.length - 1) / span) : "–";
  $("dropped").textContent = session ? session.dropped + session.skipped : 0;
}

function text(message) {
  for (const { start, end, text: words } of message.ended) settle(words, start, end);
  running(message.settled, message.pending);
}

function settle(said, start, end) {
  if (!said) return;
  const last = sentences.at(-1)?.end ?? 0;
  const sentence = { start: offset + (start ?? last - offset), end: offset + (end ?? last - offset + 1), text: said };
  sentences.push(sentence);
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = clock(sentence.start).slice(3, 8);
  time.setAttribute("aria-hidden", "true");
  item.append(time, said);
  follow(() => $("sentences").append(item));
  buttons();
}

function running(settled, pending) {
  follow(() => {
    $("settled").textContent = settled;
    $("pending").textContent = pending;
    $("nothing").hidden = Boolean(sentences.length || settled || pending);
  });
}

// The paper follows the text, unless somebody reads further up.
function follow(change) {
  const paper = $("paper");
  const atEnd = paper.scrollHeight - paper.scrollTop - paper.clientHeight < KEEP_SCROLL;
  change();
  if (atEnd) paper.scrollTop = paper.scrollHeight;
}

// --- the text as a whole -----------------------------------------------------------------------------------------

const clock = (seconds) => {
  const [whole, parts] = seconds.toFixed(3).split(".");
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  return `${two(whole / 3600)}:${two((whole / 60) % 60)}:${two(whole % 60)},${parts}`;
};

const srt = () => sentences
  .map(({ start, end, text: said }, number) => `${number + 1}\n${clock(start)} --> ${clock(end)}\n${said}\n`)
  .join("\n");

function buttons() {
  for (const name of ["copy", "save", "clear"]) $(name).disabled = !sentences.length;
}

async function copy() {
  const all = sentences.map(({ text: said }) => said).join("\n");
  try {
    await navigator.clipboard.writeText(all);
  } catch { // a page without https:// has no clipboard
    getSelection().selectAllChildren($("sentences"));
    document.execCommand("copy");
    getSelection().removeAllRanges();
  }
  $("copy").textContent = words.copied;
  setTimeout(() => { $("copy").textContent = words.copy; }, 1500);
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([srt()], { type: "application/x-subrip" }));
  link.download = `${new Date().toISOString().slice(0, 16).replace(/[T:]/g, "-")}.srt`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function clear() {
  sentences = [];
  offset = 0;
  $("sentences").replaceChildren();
  running($("settled").textContent, $("pending").textContent);
  buttons();
}

function say(state, live = "") {
  $("state").textContent = state;
  $("state").dataset.live = live;
}

function trouble(message) {
  $("trouble").textContent = message;
}

$("camera").onclick = playCamera;
$("sample").onclick = playSample;
$("file").onclick = () => $("chosen").click();
$("chosen").onchange = () => {
  const [file] = $("chosen").files;
  $("chosen").value = "";
  if (file) playFile(file);
};
$("stop").onclick = finish;
$("draw").onchange = () => { if (!$("draw").checked) wipe($("drawn")); };
$("copy").onclick = copy;
$("save").onclick = save;
$("clear").onclick = clear;
$("key").onsubmit = (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  meet();
};
meet();
