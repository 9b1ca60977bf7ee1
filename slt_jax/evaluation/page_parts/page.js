"use strict";
// Every text of the data goes into the page as text, never as markup.
const DATA = JSON.parse(document.getElementById("data").textContent);
const METRICS = [
  ["bleu", "BLEU", 1], ["chrf", "chrF", 1], ["chrf_pp", "chrF++", 1], ["cer", "CER", -1], ["wer", "WER", -1],
  ["rouge_l", "ROUGE-L", 1], ["avg_latency_ms", "ms a clip", -1],
];
const FIRST = 30, MORE = 100; // rows
const COLLATOR = new Intl.Collator("es", { numeric: true, sensitivity: "base", ignorePunctuation: true });
const state = { checkpoint: 0, column: "chrf", direction: 1, filter: "", shown: FIRST };
const at = (id) => document.getElementById(id);

/** An element; children that are strings become text. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const number = (value, digits = 2) => (typeof value === "number" ? value.toFixed(digits) : "–");
const counted = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
const checkpoint = () => DATA.checkpoints[state.checkpoint];

// --- the summary ---

function showSummary() {
  const { label, path, epoch, metrics, settings, skipped, signatures } = checkpoint();
  const beams = settings.num_beams;
  at("facts").textContent = [
    counted(checkpoint().rows.length, "clip"), path || label, epoch === null ? "" : `epoch ${epoch}`,
    beams ? (beams > 1 ? `${beams} beams` : "greedy search") : "", settings.precision || "", DATA.devices || "",
  ].filter(Boolean).join(" · ");
  const words = signatures.words === "characters" ? "character" : "word"; // of texts without spaces
  const tokens = (/\|tok:([^|]+)/.exec(signatures.bleu || "") || [])[1] || "13a";
  const hints = {
    cer: "character errors, %", wer: `${words} errors, %`, rouge_l: `longest common ${words}s`,
    bleu: tokens === "13a" ? "words, 4-grams" : `tokens of ${tokens}, 4-grams`, chrf: "characters, F2",
    chrf_pp: "characters and words, F2",
    avg_latency_ms: `p50 ${number(metrics.p50_latency_ms, 1)}, p95 ${number(metrics.p95_latency_ms, 1)}`,
  };
  at("scores").replaceChildren(...METRICS.filter(([key]) => key in metrics).map(([key, name, better]) => make(
    "div", { class: "card" }, make("span", {}, `${name} ${better > 0 ? "↑" : "↓"}`),
    make("b", {}, number(metrics[key], key === "avg_latency_ms" ? 1 : 2)), make("span", {}, hints[key]),
  )));
  showGroups();
  const lost = Object.entries(skipped);
  at("skipped").hidden = !lost.length;
  at("skipped").querySelector("summary").textContent = `${counted(lost.length, "clip")} could not be read`;
  at("skipped").querySelector("ul").replaceChildren(...lost.map(([id, why]) => make("li", {}, `${id}: ${why}`)));
}

/** A table of scores: rows of [name, clips, {metric: value}, class]. The best of each column stands out. */
function scoreTable(title, rows, keys) {
  const there = METRICS.filter(([key]) => keys.includes(key));
  const rivals = rows.filter((row) => !row[3]);
  const cells = (values, competes) => there.map(([key, , better]) => {
    const scores = rivals.map((row) => better * row[2][key]);
    const wins = competes && new Set(scores).size > 1 && better * values[key] === Math.max(...scores);
    return make("td", { class: wins ? "number winner" : "number" }, number(values[key]));
  });
  const names = [title, "clips", ...there.map(([, name, better]) => `${name} ${better > 0 ? "↑" : "↓"}`)];
  return make("table", {},
    make("thead", {}, make("tr", {}, ...names.map((name, index) =>
      make("th", { scope: "col", class: index ? "number" : null }, name)))),
    make("tbody", {}, ...rows.map(([name, clips, values, kind]) => make("tr", { class: kind || null },
      make("th", { scope: "row" }, name), make("td", { class: "number" }, String(clips)), ...cells(values, !kind)))));
}

function showGroups() {
  const groups = Object.entries(checkpoint().groups);
  at("groups").hidden = !groups.length;
  at("groups").querySelector("h2").textContent = `By ${DATA.split_by || "group"}`;
  const rows = groups.map(([name, values]) => [name, values.clips, values]);
  const keys = METRICS.map(([key]) => key).filter((key) => rows.some((row) => key in row[2]));
  if (rows.length) at("groups").querySelector("div").replaceChildren(scoreTable(DATA.split_by || "group", rows, keys));
}

function showComparison() {
  const several = DATA.checkpoints.length > 1;
  at("comparison").hidden = at("checkpoints").hidden = !several;
  if (!several) return;
  const rows = DATA.checkpoints.map((each) => [each.label, each.rows.length, each.metrics]);
  for (const kind of ["mean", "std"]) {
    const values = Object.fromEntries(Object.entries(DATA.aggregate).map(([key, value]) => [key, value[kind]]));
    if (Object.keys(values).length) rows.push([kind, "", values, "whole"]);
  }
  at("comparison").querySelector("div").replaceChildren(
    scoreTable("checkpoint", rows, METRICS.map(([key]) => key).filter((key) => key in DATA.checkpoints[0].metrics)));
  at("checkpoints").replaceChildren(...DATA.checkpoints.map(({ label }, index) => make(
    "button", { type: "button", onclick: () => choose(index) }, label)));
}

function choose(index) {
  state.checkpoint = index;
  [...at("checkpoints").children].forEach((button, i) => button.setAttribute("aria-pressed", i === index));
  showSummary();
  drawCurves(DATA.curves, checkpoint());
  showTable();
}

// --- the table ---

const GROUPED = DATA.clips.some((clip) => clip.group !== null);
const COLUMNS = [
  ["id", "Clip", (row) => DATA.clips[row[0]].id],
  ...(GROUPED ? [["group", DATA.split_by || "Group", (row) => DATA.clips[row[0]].group || ""]] : []),
  ["reference", "Reference", (row) => DATA.clips[row[0]].reference],
  ["prediction", "Prediction", (row) => row[1]],
  ["chrf", "chrF", (row) => row[2]],
  ["latency", "ms", (row) => row[3]],
];

const fold = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

function found() {
  const value = COLUMNS.find(([key]) => key === state.column)[2];
  const words = fold(state.filter).split(/\s+/).filter(Boolean);
  const rows = checkpoint().rows.filter((row) => {
    const { id, reference, group } = DATA.clips[row[0]];
    const text = words.length ? fold(`${id} ${group || ""} ${reference} ${row[1]}`) : "";
    return words.every((word) => text.includes(word));
  });
  const compare = (a, b) => (typeof a === "number" ? a - b : COLLATOR.compare(a, b));
  return rows.sort((a, b) => state.direction * compare(value(a), value(b)) || a[0] - b[0]);
}

/** Which words of both lists are in their longest common subsequence. */
function common(a, b) {
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  const inA = a.map(() => false), inB = b.map(() => false);
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) inA[i++] = inB[j++] = true;
    else if (length[i + 1][j] >= length[i][j + 1]) i++;
    else j++;
  }
  return [inA, inB];
}

/** The words as text; runs of those that are not `kept` in an element of their own. */
function marked(words, kept, tag) {
  if (!words.length) return [make("i", {}, "(empty)")];
  const parts = [];
  for (let i = 0; i < words.length; ) {
    let end = i + 1;
    while (end < words.length && kept[end] === kept[i]) end++;
    const text = words.slice(i, end).join(" ");
    parts.push(kept[i] ? text : make(tag, {}, text), " ");
    i = end;
  }
  return parts;
}

function clipRows(row) {
  const { id, group, reference, sheet } = DATA.clips[row[0]];
  const words = [reference, row[1]].map((text) => text.split(/\s+/).filter(Boolean));
  const [kept, given] = common(...words);
  const names = Object.fromEntries(COLUMNS);
  const cell = (key, look, ...children) => make("td", { class: look, "data-name": names[key] }, ...children);
  const score = cell("chrf", "number chrf", number(row[2], 1));
  score.style.setProperty("--share", Math.max(0, Math.min(100, row[2])));
  const body = make("tbody", {}, make("tr", {},
    cell("id", "id", id), ...(GROUPED ? [cell("group", "group", group || "")] : []),
    cell("reference", "text", ...marked(words[0], kept, "del")),
    cell("prediction", "text", ...marked(words[1], given, "ins")),
    score, cell("latency", "number", number(row[3], 1))));
  if (typeof sheet === "string") body.append(make("tr", { class: "sheet" },
    make("td", { colspan: COLUMNS.length }, make("i", {}, `no frames: ${sheet}`))));
  else if (sheet) {
    const [width, height, data] = sheet;
    const picture = make("img", {
      src: `data:image/jpeg;base64,${data}`, width, height, loading: "lazy", decoding: "async",
      alt: `Frames of ${id}: ${DATA.streams}`,
    });
    body.append(make("tr", { class: "sheet" }, make("td", { colspan: COLUMNS.length }, picture)));
  }
  return body;
}

function showTable() {
  at("table").tHead.replaceChildren(make("tr", {}, ...COLUMNS.map(([key, name]) => {
    const sort = state.column !== key ? "none" : state.direction > 0 ? "ascending" : "descending";
    const kind = ["chrf", "latency"].includes(key) ? "number" : ["id", "group"].includes(key) ? key : "text";
    return make("th", { scope: "col", class: kind, "aria-sort": sort },
      make("button", { type: "button", "data-column": key, onclick: () => sortBy(key) }, name));
  })));
  const rows = found();
  at("table").replaceChildren(at("table").tHead, ...rows.slice(0, state.shown).map(clipRows));
  const whole = checkpoint().rows.length, sheets = DATA.clips.filter((clip) => clip.sheet).length;
  const left = DATA.clips.length - sheets;
  at("found").textContent = [
    rows.length < whole ? `${rows.length.toLocaleString("en")} of ${counted(whole, "clip")}.` : "",
    left ? `Frames of ${counted(sheets, "clip")} are in this page, the worst and the best; ` +
      `${counted(left, "contact sheet")} left out (slt-view draws any clip).` : "",
  ].join(" ");
  const rest = Math.max(0, rows.length - state.shown);
  at("more").hidden = !rest;
  at("more").textContent = `Show ${Math.min(MORE, rest)} more of ${rest.toLocaleString("en")}`;
  at("worst").setAttribute("aria-pressed", state.column === "chrf" && state.direction > 0);
  at("best").setAttribute("aria-pressed", state.column === "chrf" && state.direction < 0);
}

function sortBy(column, direction) {
  state.direction = direction || (state.column === column ? -state.direction : 1);
  state.column = column;
  state.shown = FIRST;
  showTable();
  if (!direction) at("table").querySelector(`[data-column=${column}]`).focus({ preventScroll: true });
}

at("worst").addEventListener("click", () => sortBy("chrf", 1));
at("best").addEventListener("click", () => sortBy("chrf", -1));
at("more").addEventListener("click", () => { state.shown += MORE; showTable(); });
at("frames").addEventListener("change", (event) =>
  at("table").classList.toggle("without-frames", !event.target.checked));
at("filter").addEventListener("input", (event) => {
  state.filter = event.target.value;
  state.shown = FIRST;
  showTable();
});

showComparison();
choose(0);
