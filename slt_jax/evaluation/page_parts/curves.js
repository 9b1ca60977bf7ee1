// Curves by epoch as SVG, with the values under the pointer (or under the arrow keys).
const PANELS = [
  ["Loss", [["train_loss", "train", true], ["val_loss", "validation", false]], 1],
  ["CER (%)", [["val_translation_cer", "translations", false],
               ["val_teacher_forced_cer", "teacher forced", true]], 100],
  ["Glosses of validation clips (WER, %)", [["val_gloss_wer", "WER", false]], 100],
  ["Videos and sentences that find each other (%)", [["val_contrastive_accuracy", "validation", false]], 100],
  ["Translations of validation clips", [["val_bleu", "BLEU", false], ["val_chrf", "chrF", true]], 1],
  ["Learning rate", [["lr", "lr", false]], 1],
];
const WIDE = 420, HIGH = 210, LEFT = 52, RIGHT = 14, TOP = 10, BOTTOM = 28; // of a drawing

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(document.querySelector("svg").namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A short text: four digits are enough. */
function brief(value) {
  const size = Math.abs(value);
  if (size && (size < 0.01 || size >= 1e5)) return value.toExponential(2).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(4)));
}

/** Round numbers that cover low to high, about four steps. */
function ticks(low, high, whole) {
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].find((each) => each * power >= rough * 0.999) * power;
  if (whole) step = Math.max(1, Math.round(step));
  const places = Array.from({ length: 12 }, (_, i) => (Math.ceil(low / step - 1e-9) + i) * step);
  return places.filter((place) => place <= high + step * 1e-9);
}

function drawCurves(runs, evaluated) {
  const panels = PANELS.map(([title, lines, factor]) => drawPanel(title, lines, factor, runs, evaluated));
  const shown = panels.filter(Boolean);
  document.getElementById("curves").hidden = !shown.length;
  document.querySelector("#curves .panels").replaceChildren(...shown);
}

/** One diagram, or null where no run has a number for it. */
function drawPanel(title, lines, factor, runs, evaluated) {
  const curves = [];
  runs.forEach(({ labels, records }, index) => lines.forEach(([key, name, dashed]) => {
    const points = records.filter((record) => Number.isFinite(record.epoch) && Number.isFinite(record[key]))
      .map((record) => [record.epoch, factor * record[key]]);
    const label = runs.length > 1 ? `${labels.join(", ")} ${lines.length > 1 ? name : ""}` : name;
    if (points.length) curves.push({ points, label, look: `run${index % 6}`, dashed });
  }));
  if (!curves.length) return null;
  const all = curves.flatMap((curve) => curve.points);
  const epochs = [...new Set(all.map(([epoch]) => epoch))].sort((a, b) => a - b);
  const first = epochs[0], last = epochs[epochs.length - 1];
  let low = all.reduce((least, [, value]) => Math.min(least, value), Infinity);
  let high = all.reduce((most, [, value]) => Math.max(most, value), -Infinity);
  if (title !== "Loss") low = Math.min(low, 0);
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  [low, high] = [low === 0 ? 0 : low - margin, high + margin];
  const x = (epoch) => (first === last ? 0.5 : (epoch - first) / (last - first)) * (WIDE - LEFT - RIGHT) + LEFT;
  const y = (value) => HIGH - BOTTOM - ((value - low) / (high - low)) * (HIGH - TOP - BOTTOM);

  const svg = draw("svg", {
    viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", tabindex: 0, "aria-label": `${title} by epoch`,
  });
  for (const value of ticks(low, high, false))
    svg.append(draw("line", { class: "grid", x1: LEFT, x2: WIDE - RIGHT, y1: y(value), y2: y(value) }),
      draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, brief(value)));
  for (const epoch of ticks(first, last, true))
    svg.append(draw("text", { x: x(epoch), y: HIGH - 9, "text-anchor": "middle" }, brief(epoch)));
  const mine = runs.find((run) => run.labels.includes(evaluated.label));
  if (mine && epochs.includes(evaluated.epoch)) {
    const place = x(evaluated.epoch);
    svg.append(draw("line", { class: "mark", x1: place, x2: place, y1: TOP, y2: HIGH - BOTTOM },
      draw("title", {}, "the epoch of the checkpoint that was evaluated")));
  }
  for (const { points, look, dashed } of curves) {
    const path = points.map(([epoch, value], i) => `${i ? "L" : "M"}${x(epoch).toFixed(1)} ${y(value).toFixed(1)}`);
    svg.append(draw("path", { class: `curve ${look} ${dashed ? "dashed" : ""}`, d: path.join("") }));
    if (points.length < 15)
      svg.append(...points.map(([epoch, value]) =>
        draw("circle", { class: `dot ${look}`, cx: x(epoch), cy: y(value), r: 2.5 })));
  }
  const samples = curves.map(({ label, look, dashed }) => make("span", {},
    draw("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" },
      draw("path", { class: `curve ${look} ${dashed ? "dashed" : ""}`, d: "M1 4H21" })), label));
  const legend = make("div", { class: "legend" }, ...samples);
  const panel = make("div", { class: "panel" }, make("h3", {}, title), svg, legend);
  hover(panel, svg, curves, epochs, x, y);
  return panel;
}

function hover(panel, svg, curves, epochs, x, y) {
  const cursor = draw("line", { class: "cursor", y1: TOP, y2: HIGH - BOTTOM, visibility: "hidden" });
  const dots = draw("g", {});
  const tip = make("div", { class: "tip", hidden: "" });
  svg.append(cursor, dots);
  panel.append(tip);
  let place = epochs.length;
  const show = (index) => {
    place = Math.max(0, Math.min(epochs.length - 1, index));
    const epoch = epochs[place];
    const there = curves.map((curve) => [curve, curve.points.find((point) => point[0] === epoch)])
      .filter(([, point]) => point);
    for (const side of ["x1", "x2"]) cursor.setAttribute(side, x(epoch));
    cursor.setAttribute("visibility", "visible");
    dots.replaceChildren(...there.map(([{ look }, point]) =>
      draw("circle", { class: `dot ${look}`, cx: x(epoch), cy: y(point[1]), r: 4 })));
    tip.replaceChildren(make("b", {}, `epoch ${brief(epoch)}`),
      ...there.map(([{ label, look }, point]) => make("div", { class: look }, `${label}: ${brief(point[1])}`)));
    tip.hidden = false;
    const box = svg.getBoundingClientRect();
    const middle = box.left - panel.getBoundingClientRect().left + (x(epoch) / WIDE) * box.width;
    tip.style.top = "2.2rem";
    tip.style.left = `${middle + (x(epoch) > WIDE / 2 ? -tip.offsetWidth - 10 : 8)}px`;
  };
  const hide = () => {
    cursor.setAttribute("visibility", "hidden");
    dots.replaceChildren();
    tip.hidden = true;
  };
  const follow = (event) => {
    const box = svg.getBoundingClientRect();
    const wanted = ((event.clientX - box.left) / box.width) * WIDE;
    const away = epochs.map((epoch) => Math.abs(x(epoch) - wanted));
    show(away.indexOf(Math.min(...away)));
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    show(place + (event.key === "ArrowLeft" ? -1 : 1));
  });
}
