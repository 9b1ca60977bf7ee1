"""What is in a data set, on one HTML page that loads nothing from elsewhere."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

from slt_jax.corpora.histogram import histogram
from slt_jax.corpora.prepared import Prepared
from slt_jax.corpora.subtitled import CorpusClip
from slt_jax.streams import HANDS

LISTED = 200  # bad clips on the page
EXAMPLES = 3
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # scripts without spaces
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf8; --panel: #ffffff; --ink: #1f2328; --soft: #646c76; --line: #e3e0da;
  --train: #3a6ea5; --val: #c9772b; --test: #3b8f6c; --bad: #b3382c; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181b; --panel: #1e2125; --ink: #e6e4e0; --soft: #9aa2ac;
  --line: #33373d; --train: #7fb0e3; --val: #eda566; --test: #74c7a3; --bad: #f08a7e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.1rem; }
p { max-width: 46rem; margin: .4rem 0; color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin-top: 1.5rem; }
.tile, .panel { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; }
.tile { padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.45rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: .75rem; }
.panel { padding: .8rem .9rem .5rem; }
.panel h3 { margin: 0 0 .4rem; font-size: .95rem; font-weight: 600; }
.table { overflow-x: auto; background: var(--panel); border: 1px solid var(--line); border-radius: 8px; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .4rem .75rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; line-height: 1.25; vertical-align: bottom; }
tr:first-child th { border-top: 0; }
td { overflow-wrap: anywhere; }
.n { text-align: right; }
td.n, td.name { overflow-wrap: normal; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.error { color: var(--bad); }
i { display: inline-block; width: .65rem; height: .65rem; margin-right: .45rem; border-radius: 2px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 10px; fill: var(--soft); }
svg .axis { stroke: var(--line); }
.train { fill: var(--train); background: var(--train); } .val { fill: var(--val); background: var(--val); }
.test { fill: var(--test); background: var(--test); }
"""


def report_page(name: str, prepared: Prepared) -> str:
    """The page as HTML text. The same data set gives the same page."""
    corpus = prepared.corpus
    splits = {split: clips for split, clips in prepared.splits.items() if clips}
    minutes = sum(clip.duration or 0.0 for clip in corpus.clips) / 60
    words = Counter(word for clip in corpus.clips for word in words_of(clip.text))
    tiles = (
        (f"{len(corpus.clips):,}", f"clips of {corpus.rows:,} rows"),
        (f"{len(corpus.drops):,}", "rows dropped"),
        (f"{len({repair.line for repair in corpus.repairs}):,}", "rows repaired"),
        (f"{len({clip.recording for clip in corpus.clips}):,}", "videos"),
        (f"{minutes / 60:.1f} h" if minutes >= 60 else f"{minutes:.1f} min" if minutes else "unknown", "of signing"),
        (f"{len(words):,}", f"different words of {words.total():,}"),
    )
    parts = [
        f"<h1>Data report: {escape(name)}</h1>",
        '<div class="tiles">',
        *(f'<div class="tile"><b>{number}</b><span>{text}</span></div>' for number, text in tiles),
        "</div>",
        "<h2>Splits</h2>",
        _table(*_splits(splits, prepared)),
        *_remarks(prepared),
        *_audit(prepared),
        "<h2>Lengths</h2>",
        '<div class="panels">',
        _panel("Clips by duration, seconds", {
            split: [clip.duration for clip in clips if clip.duration is not None] for split, clips in splits.items()
        }, least_step=0.1),
        _panel("Texts by number of words", {
            split: [float(len(words_of(clip.text))) for clip in clips] for split, clips in splits.items()
        }, least_step=1.0),
        "</div>",
        "<h2>Dropped rows</h2>", _drops(prepared),
        "<h2>Repaired cells</h2>", _repairs(prepared),
        "<h2>Clips to look at</h2>", _findings(prepared),
    ]  # fmt: skip
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>Data report: {escape(name)}</title>\n<style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en">\n{head}\n' + "\n".join(parts) + "\n</html>\n"


def _remarks(prepared: Prepared) -> Iterator[str]:
    if prepared.cut:
        shown = escape(", ".join(prepared.cut[:EXAMPLES]))
        count = f"{len(prepared.cut)} video{'s are' if len(prepared.cut) > 1 else ' is'}"
        yield f"<p>{count} in more than one split ({shown}): scores will be too good.</p>"
    else:
        yield "<p>No video is in two splits.</p>"
    for videos in prepared.shared_footage:
        yield f"<p>These show parts of each other and are kept together: {escape(', '.join(videos))}.</p>"
    yield (
        "<p>Unknown words are those that no training text has, as a share of the running words; repeated texts are "
        "those that training has word for word.</p>"
    )


def _audit(prepared: Prepared) -> Iterator[str]:
    if prepared.audit:
        yield "<h2>Audit</h2>"
        yield "<p>What there was before the extraction.</p>"
        yield _table(["what", "found"], [[escape(name), escape(value)] for name, value in prepared.audit.facts])


def words_of(text: str) -> list[str]:
    """The words of a text, lowercased; its letters, where the script puts no spaces between words."""
    return _WORD.findall(text.lower())


def _panel(title: str, values: Mapping[str, Sequence[float]], least_step: float) -> str:
    drawn = histogram({split: numbers for split, numbers in values.items() if numbers}, least_step)
    return f'<div class="panel"><h3>{title}</h3>{drawn or "<p>unknown before extraction</p>"}</div>'


def _splits(splits: Mapping[str, Sequence[CorpusClip]], prepared: Prepared) -> tuple[Sequence[Any], list[list[Any]]]:
    header = ["split", "#clips", "#share", "#videos", "#minutes", "#median seconds", "#median words", "#vocabulary",
              "#unknown words", "#repeated texts"]  # fmt: skip
    if prepared.examined:
        header += [f"#{hand.title} missing" for hand in HANDS]
    known = {word for clip in splits.get("train", ()) for word in words_of(clip.text)}
    texts = {clip.text for clip in splits.get("train", ())}
    rows = []
    for split, clips in splits.items():
        durations = [clip.duration for clip in clips if clip.duration is not None]
        words = [word for clip in clips for word in words_of(clip.text)]
        unknown = sum(word not in known for word in words) / max(len(words), 1)
        repeated = sum(clip.text in texts for clip in clips) / len(clips)
        row = [
            (f'<i class="{split}"></i>{split}', "name"),
            f"{len(clips):,}", f"{len(clips) / len(prepared.corpus.clips):.1%}",
            len({clip.recording for clip in clips}),
            f"{sum(durations) / 60:,.1f}" if durations else "", f"{median(durations):.1f}" if durations else "",
            f"{median(len(words_of(c.text)) for c in clips):g}",
            f"{len(set(words)):,}", "" if split == "train" else f"{unknown:.1%}",
            "" if split == "train" else f"{repeated:.1%}",
        ]  # fmt: skip
        if prepared.examined:
            examined = [prepared.examined[clip.video_id] for clip in clips]
            frames = max(sum(one.frames for one in examined), 1)
            row += [f"{1 - sum(one.seen[hand.name] for one in examined) / frames:.1%}" for hand in HANDS]
        rows.append(row)
    return header, rows


def _drops(prepared: Prepared) -> str:
    if not prepared.corpus.drops:
        return "<p>None.</p>"
    reasons = defaultdict(list)
    for drop in prepared.corpus.drops:
        reasons[drop.reason].append(drop)
    rows = []
    for reason, drops in sorted(reasons.items(), key=lambda item: -len(item[1])):
        ids = ", ".join(f"{d.video_id or 'no id'} (line {d.line})" for d in drops[:EXAMPLES])
        detail = drops[0].detail and f": {drops[0].detail}"
        rows.append([escape(reason), f"{len(drops):,}", escape(f"{ids}{detail}")])
    return _table(["reason", "#rows", "for example"], rows) + "<p>All of them are in dropped.csv.</p>"


def _repairs(prepared: Prepared) -> str:
    if not prepared.corpus.repairs:
        return "<p>None.</p>"
    kinds = defaultdict(list)
    for repair in prepared.corpus.repairs:
        kinds[repair.column, repair.source].append(repair)
    rows = [
        [escape(column), escape(source), f"{len(repairs):,}",
         escape(f"{repairs[0].found or 'empty'} → {repairs[0].value}")]
        for (column, source), repairs in sorted(kinds.items(), key=lambda item: -len(item[1]))
    ]  # fmt: skip
    return _table(["column", "taken from", "#cells", "for example"], rows) + "<p>All of them are in repaired.csv.</p>"


def _findings(prepared: Prepared) -> str:
    if not prepared.examined:
        return "<p>Nothing has been extracted yet: this was a dry run.</p>"
    findings = [finding for examined in prepared.examined.values() for finding in examined.findings]
    if not findings:
        return "<p>None: the files of every clip are as they should be.</p>"
    findings.sort(key=lambda finding: (finding.severity, finding.clip, finding.kind))
    rows = [[(f.severity, f.severity), escape(f.clip), escape(f.kind), escape(f.detail)] for f in findings[:LISTED]]
    more = f"<p>And {len(findings) - LISTED:,} more.</p>" if len(findings) > LISTED else ""
    return _table(["severity", "clip", "what", "detail"], rows) + more


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """`#` before a heading makes a column of numbers; a cell may be (HTML, class)."""
    numbers = ["n" if title.startswith("#") else "" for title in header]
    titles = ((title.lstrip("#"), kind) for title, kind in zip(header, numbers, strict=True))
    lines = ["".join(f"<th{kind and f' class={kind}'}>{title}</th>" for title, kind in titles)]
    for row in rows:
        cells = (cell if isinstance(cell, tuple) else (cell, kind) for cell, kind in zip(row, numbers, strict=True))
        lines.append("".join(f"<td{kind and f' class={kind}'}>{cell}</td>" for cell, kind in cells))
    return '<div class="table"><table>' + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table></div>"
