// The text of tokens, by the table that slt_jax/export/token_table.py describes.
const bytesOf = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]"; // Python's
const ENDS = new RegExp(`^${SPACE}+|${SPACE}+$`, "g");

export const strip = (text) => text.replace(ENDS, "");

function joined(shown) {
  let text = "", run = [];
  for (const piece of [...shown, ""]) {
    if (typeof piece === "number") {
      run.push(piece);
      continue;
    }
    if (run.length) {
      try {
        text += new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(run));
      } catch {
        text += "\ufffd".repeat(run.length);
      }
      run = [];
    }
    text += piece;
  }
  return text;
}

export function textOf(table, ids) {
  const shown = ids.map((id) => table.pieces[id]).filter((piece) => piece !== null && piece !== undefined);
  let text = table.bytes ? new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytesOf(shown.join(""))) : joined(shown);
  for (const [old, fresh] of table.tidy) text = text.replaceAll(old, fresh);
  return strip(text);
}
