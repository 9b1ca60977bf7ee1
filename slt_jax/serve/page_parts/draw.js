// The pose and the crops on the picture in which they were found.
const BONES = [[11, 12], [11, 13], [13, 15], [12, 14], [14, 16], [11, 23], [12, 24], [23, 24], [15, 17], [15, 19], [15, 21],
  [16, 18], [16, 20], [16, 22]];
const COLOURS = { face: "#ffd166", hand_l: "#4cd4b0", hand_r: "#ff8fa3" };
const SURE = 0.5;

export function wipe(canvas) {
  canvas.width = canvas.height = 1;
}

export function draw(canvas, picture, seen) {
  const { width, height } = picture;
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0);
  const unit = Math.max(width, height) / 640;
  pen.lineCap = pen.lineJoin = "round";
  const points = seen.points ?? [];
  const sure = (number) => points[number]?.[2] >= SURE;
  pen.strokeStyle = "#ffffffd0";
  pen.lineWidth = 2.5 * unit;
  for (const [from, to] of BONES) {
    if (!sure(from) || !sure(to)) continue;
    pen.beginPath();
    pen.moveTo(points[from][0], points[from][1]);
    pen.lineTo(points[to][0], points[to][1]);
    pen.stroke();
  }
  pen.fillStyle = "#8ea2ff";
  points.forEach(([x, y], number) => {
    if (!sure(number) || (number > 0 && number < 11) || number > 24) return;
    pen.beginPath();
    pen.arc(x, y, 3.5 * unit, 0, 7);
    pen.fill();
  });
  pen.lineWidth = 2.5 * unit;
  for (const [name, [left, top, right, bottom]] of Object.entries(seen.boxes ?? {})) {
    pen.strokeStyle = COLOURS[name] ?? "#c3b1ff";
    pen.beginPath();
    pen.roundRect(left, top, right - left, bottom - top, 10 * unit);
    pen.stroke();
  }
}
