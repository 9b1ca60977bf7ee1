"""Turn a corpus of long videos into a data set that training reads: clips, tables, splits, a report."""

import csv
import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slt_jax.base.files import replacing, write_json
from slt_jax.base.places import check_folder
from slt_jax.corpora.data_report import report_page
from slt_jax.corpora.partition import partition, same_footage
from slt_jax.corpora.prepared import Prepared
from slt_jax.corpora.subtitled import Corpus, CorpusClip, Drop, read_corpus
from slt_jax.data.clip_files import scan
from slt_jax.data.contract import examine_all
from slt_jax.data.corpus_folder import SPLITS, folders_under
from slt_jax.data.metadata import ClipRow
from slt_jax.errors import UserError

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
               "test": "test", "testing": "test"}  # fmt: skip
MARKER = "prepare.json"  # its presence says that the tables beside it may be replaced
LONGEST_NAME = 200  # bytes of an id in a file name, which `_f000000.jpg` follows
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')


@dataclass(frozen=True)
class PreparationRequest:
    """What to prepare. Without `output` nothing is written. A dry run needs no videos."""

    metadata: Path
    videos: Path | None = None
    output: Path | None = None
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 1234
    workers: int = 1
    fps: float = 25.0
    keep_split: bool = False
    dry_run: bool = False


def prepare(request: PreparationRequest, extract: Callable[..., Sequence[Mapping[str, Any]]] | None = None) -> Prepared:
    """Carry out a request. The same request continues where an earlier one was stopped.

    `extract` replaces `slt_jax.media.extract_many.extract_videos`. A row or video that cannot be used becomes a `Drop`
    with its reason. Raises UserError for what the user can fix.
    """
    _check(request)
    if request.output is not None:
        check_folder("--output", request.output)
    corpus = read_corpus(request.metadata)
    videos = _find_videos(request.videos, corpus) if request.videos else {}
    if request.videos:
        _drop(corpus, "video not found", lambda clip: None if clip.video in videos else clip.video)
    if not corpus.clips:
        raise UserError(f"--metadata {request.metadata}: no row can be used, {_most_common(corpus.drops)}")
    prepared = _own_splits(corpus, request.metadata) if request.keep_split else _new_splits(corpus, request)
    if request.output is not None:
        _claim(request.output, request)
        if not request.dry_run:
            _extract(request.output, request, prepared, videos, extract)
        _write(request.output, request.metadata.name, prepared)
    return prepared


def file_id(video_id: str) -> str:
    """The id under which a clip's files are stored: the id itself, if that can be part of a file name."""
    name = _UNSAFE.sub("_", video_id).strip(" .")
    if name == video_id and len(name.encode()) <= LONGEST_NAME:
        return name
    short = name.encode()[: LONGEST_NAME - 9].decode(errors="ignore")
    return f"{short}_{hashlib.sha256(video_id.encode()).hexdigest()[:8]}"


def _check(request: PreparationRequest) -> None:
    given = ",".join(f"{share:g}" for share in request.shares)
    if min(request.shares) < 0 or abs(sum(request.shares) - 1) > 1e-6 or not request.shares[0]:
        raise UserError(f"--splits {given}: give the shares of train, val and test, which add up to 1, train above 0")
    if request.seed < 0:
        raise UserError(f"--seed {request.seed}: must be 0 or more")
    if not request.dry_run:
        for flag, path in (("--videos", request.videos), ("--output", request.output)):
            if path is None:
                raise UserError(f"{flag} is not given; only --dry-run goes without")


def _find_videos(folder: Path, corpus: Corpus) -> dict[str, Path]:
    """Map the names by which clips may call a video, with or without ending and folder, to its file."""
    from slt_jax.media.jobs import find_videos

    paths = [Path(job.video) for job in find_videos(folder)]
    by_name = {path.stem: path for path in paths} | {path.name: path for path in paths}
    files = {clip.video: by_name.get(clip.video) or by_name.get(Path(clip.video).name) for clip in corpus.clips}
    return {video: path for video, path in files.items() if path}


def _drop(corpus: Corpus, reason: str, detail: Callable[[CorpusClip], str | None]) -> None:
    """Drop the clips for which `detail` gives a text."""
    kept = []
    for clip in corpus.clips:
        grounds = detail(clip)
        if grounds is None:
            kept.append(clip)
        else:
            corpus.drops.append(Drop(clip.line, clip.video_id, reason, grounds))
    corpus.clips[:] = kept
    corpus.drops.sort(key=lambda drop: drop.line)


def _new_splits(corpus: Corpus, request: PreparationRequest) -> Prepared:
    texts, lengths = defaultdict(list), defaultdict(list)
    for clip in corpus.clips:
        texts[clip.video].append(clip.text)
    groups = same_footage(texts)
    name = {video: members[0] for members in groups for video in members}
    for clip in corpus.clips:
        lengths[name[clip.video]].append(clip.duration)
    split_of = partition(lengths, dict(zip(SPLITS, request.shares, strict=True)), request.seed)
    splits = {split: [clip for clip in corpus.clips if split_of[name[clip.video]] == split] for split in SPLITS}
    return Prepared(corpus, splits, shared_footage=[members for members in groups if len(members) > 1])


def _own_splits(corpus: Corpus, metadata: Path) -> Prepared:
    """The splits from the file's own column."""
    if not any(clip.split.lower() in SPLIT_NAMES for clip in corpus.clips):
        names = ", ".join(SPLITS)
        raise UserError(f"--keep-split: the column split of {metadata} names no split ({names}); leave the flag out")
    _drop(
        corpus,
        "no split of its own",
        lambda clip: None if clip.split.lower() in SPLIT_NAMES else f"split {clip.split or 'empty'}",
    )
    splits = {split: [clip for clip in corpus.clips if SPLIT_NAMES[clip.split.lower()] == split] for split in SPLITS}
    places = Counter(video for clips in splits.values() for video in {clip.video for clip in clips})
    return Prepared(corpus, splits, cut=sorted(video for video, count in places.items() if count > 1))


def _most_common(drops: Sequence[Drop]) -> str:
    reasons = [drop.reason for drop in drops]
    most = max(set(reasons), key=reasons.count)
    return f"{reasons.count(most)} of {len(reasons)} for: {most}"


def _claim(output: Path, request: PreparationRequest) -> None:
    """Refuse to overwrite tables that something else wrote, above all the source."""
    meta = output / "meta.csv"
    if meta.exists() and not (output / MARKER).is_file():
        raise UserError(f"--output {output}: holds a meta.csv that this command did not write; name another")
    settings = {"metadata": str(request.metadata), "splits": list(request.shares), "seed": request.seed,
                "keep_split": request.keep_split, "fps": request.fps}  # fmt: skip
    try:
        write_json(output / MARKER, settings)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None


def _extract(
    output: Path,
    request: PreparationRequest,
    prepared: Prepared,
    videos: Mapping[str, Path],
    extract: Callable[..., Sequence[Mapping[str, Any]]] | None,
) -> None:
    from slt_jax.media.jobs import Job
    from slt_jax.media.settings import ExtractionSettings

    if extract is None:
        from slt_jax.media.extract_many import extract_videos

        extract = extract_videos
    corpus = prepared.corpus
    jobs = [Job(videos[clip.video], file_id(clip.video_id), clip.start, clip.end) for clip in corpus.clips]
    records = extract(jobs, output, ExtractionSettings(fps=request.fps), request.workers, resume=True)
    by_clip = {clip.video_id: record for clip, record in zip(corpus.clips, records, strict=True)}
    _drop(
        corpus,
        "extraction failed",
        lambda clip: None if by_clip[clip.video_id]["status"] == "ok" else by_clip[clip.video_id]["reason"],
    )
    kept = {clip.video_id for clip in corpus.clips}
    for split, clips in prepared.splits.items():
        prepared.splits[split] = [clip for clip in clips if clip.video_id in kept]

    prepared.records = {clip.video_id: by_clip[clip.video_id] for clip in corpus.clips}
    expected = [
        ClipRow(file_id(clip.video_id), clip.text, record["fps"], clip.duration, record["frames"])
        for clip, record in zip(corpus.clips, prepared.records.values(), strict=True)
    ]
    files = scan(folders_under(output), map(file_id, kept))
    with tqdm(total=len(expected), desc="checking", unit="clip", leave=False, disable=None) as bar:
        examined = examine_all(files, expected, lambda done, _: bar.update(done - bar.n))
    prepared.examined = {clip.video_id: examined[file_id(clip.video_id)] for clip in corpus.clips}


def _write(output: Path, title: str, prepared: Prepared) -> None:
    corpus = prepared.corpus
    index = {split: output / "index" / f"{split}.csv" for split in SPLITS}
    tables: dict[Path, list[Sequence[Any]]] = {
        output / "meta.csv": _meta_rows(prepared),
        output / "dropped.csv": [("line", "id", "reason", "detail"), *(
            (drop.line, drop.video_id, drop.reason, drop.detail) for drop in corpus.drops
        )],
        output / "repaired.csv": [("line", "id", "column", "found", "value", "source"), *(
            (r.line, r.video_id, r.column, r.found, r.value, r.source) for r in corpus.repairs
        )],
    }  # fmt: skip
    for split, clips in prepared.splits.items():
        if clips:
            tables[index[split]] = [("video_id",), *((file_id(clip.video_id),) for clip in clips)]
        else:
            index[split].unlink(missing_ok=True)  # of an earlier run with other shares
    for path, rows in tables.items():
        _write_table(path, rows)
    page = output / "report.html"
    with replacing(page) as file:
        file.write(report_page(title, prepared).encode())
    prepared.written = [*tables, page]


def _meta_rows(prepared: Prepared) -> list[Sequence[Any]]:
    """What training needs of every clip, then the corpus's own columns. Ids are as in file names."""
    clips = prepared.corpus.clips
    split_of = {clip.video_id: split for split, members in prepared.splits.items() for clip in members}
    renamed = any(file_id(clip.video_id) != clip.video_id for clip in clips)
    extras = list(dict.fromkeys(name for clip in clips for name in clip.extra if not (renamed and name == "source_id")))
    header = ["id", "text", "video", "start", "end", "duration", "split"]
    header += ["fps", "frame_count"] * bool(prepared.examined) + ["source_id"] * renamed
    rows: list[Sequence[Any]] = [[*header, *extras]]
    for clip in clips:
        record = prepared.records.get(clip.video_id, {})
        duration = record.get("duration") if clip.duration is None else clip.duration
        times = ("" if time is None else f"{time:.3f}" for time in (clip.start, clip.end, duration))
        row: list[Any] = [file_id(clip.video_id), clip.text, clip.video, *times, split_of[clip.video_id]]
        if prepared.examined:
            row += [f"{record['fps']:g}", prepared.examined[clip.video_id].frames]
        row += [clip.video_id] * renamed
        rows.append([*row, *(clip.extra.get(name, "") for name in extras)])
    return rows


def _write_table(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=";", lineterminator="\n")
    writer.writerows([" ".join(str(cell).split()) for cell in row] for row in rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())
