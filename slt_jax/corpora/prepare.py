"""Turn a corpus into a data set that training reads: clips, tables, splits, an audit, a report."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slt_jax.base.console import say
from slt_jax.base.files import write_json
from slt_jax.base.places import check_folder
from slt_jax.corpora.audit import LOST, Audit, audit
from slt_jax.corpora.known import CORPORA
from slt_jax.corpora.partition import partition, same_footage
from slt_jax.corpora.prepared import Prepared
from slt_jax.corpora.subtitled import Corpus, CorpusClip, Drop, read_corpus
from slt_jax.corpora.table import LSA_T, find_footage, find_table, holds_footage, open_table
from slt_jax.corpora.written import DROPPED, file_id, write_audit, write_tables
from slt_jax.data.clip_files import scan
from slt_jax.data.contract import examine_all
from slt_jax.data.corpus_folder import SPLITS, folders_under
from slt_jax.data.metadata import ClipRow
from slt_jax.errors import UserError

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
               "test": "test", "testing": "test"}  # fmt: skip
MARKER = "prepare.json"  # its presence says that the tables beside it may be replaced


@dataclass(frozen=True)
class PreparationRequest:
    """What to prepare. Without `output` nothing is written. A dry run needs no videos.

    `corpus` is a name in CORPORA, "lsa-t" or "table"; without one, `metadata` is a table of v9's shape, and rows may be
    lost without `allow_missing`. `source` is the corpus's folder.
    """

    metadata: Path | None = None
    videos: Path | None = None
    output: Path | None = None
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 1234
    workers: int = 1
    fps: float = 25.0
    keep_split: bool = False
    dry_run: bool = False
    corpus: str = ""
    source: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)  # of a table: what is meant, and the column's own name
    split: str | None = None  # the only one to prepare
    limit: int | None = None  # clips of each split
    allow_missing: bool = False

    @property
    def name(self) -> str:
        """What the corpus is called on its page."""
        return CORPORA[self.corpus].title if self.corpus in CORPORA else self.metadata.name if self.metadata else ""

    @property
    def place(self) -> str:
        """Where its rows come from, as it was given."""
        return f"--source {self.source}" if self.corpus in CORPORA else f"--metadata {self.metadata}"


def prepare(request: PreparationRequest, extract: Callable[..., Sequence[Mapping[str, Any]]] | None = None) -> Prepared:
    """Carry out a request. The same request continues where an earlier one was stopped.

    `extract` replaces `slt_jax.media.extract_many.extract_videos`. A row or video that cannot be used becomes a `Drop`
    with its reason. Raises UserError for what the user can fix.
    """
    request = _completed(request)
    _check(request)
    if request.output is not None:
        check_folder("--output", request.output)
    prepared = _in_splits(request)
    _restrict(prepared, request)
    known = CORPORA.get(request.corpus)
    prepared.audit = audit(prepared.corpus, prepared.splits, known.published if known else {})
    if request.corpus:
        _tell(request, prepared.audit)
    _refuse_losses(request, prepared)
    if not prepared.corpus.clips:
        raise UserError(f"{request.place}: no row can be used, {_most_common(prepared.corpus.drops)}")
    if request.output is not None:
        _claim(request.output, request)
        if not request.dry_run:
            _extract(request.output, request, prepared, extract)
        write_tables(request.output, request.name, prepared, text_column="texto" if request.corpus else "text")
    return prepared


def _completed(request: PreparationRequest) -> PreparationRequest:
    """Where the table and the videos are that a corpus's folder holds."""
    if request.corpus in CORPORA or not request.corpus:
        return request
    if request.source is not None and not request.source.is_dir():
        raise UserError(f"--source {request.source}: no such folder")
    metadata = request.metadata or (find_table(request.source, request.corpus) if request.source else None)
    videos = request.videos or request.source
    if request.dry_run and request.videos is None and request.source and not holds_footage(request.source):
        say(f"--source {request.source}: holds no video; a dry run looks only at the table")
        videos = None
    return replace(request, metadata=metadata, videos=videos)


def _in_splits(request: PreparationRequest) -> Prepared:
    """The rows that can be used, in the corpus's own splits, or in new ones where it has none."""
    if request.corpus in CORPORA:
        if request.source is None or not request.source.is_dir():
            raise UserError(f"--source {request.source}: no such folder" if request.source else "--source is not given")
        corpus = CORPORA[request.corpus].read(request.source, (request.split,) if request.split else SPLITS)
        kept = replace(request, keep_split=True)
    else:
        if request.metadata is None:
            raise UserError("--metadata is not given")
        table = open_table(request.metadata, request.columns) if request.corpus else None
        corpus, kept = read_corpus(request.metadata, table), request
        if request.corpus == LSA_T:
            corpus.clips[:] = [replace(clip, extra={**clip.extra, "lang": "es"}) for clip in corpus.clips]
        if "split" in request.columns:
            kept = replace(request, keep_split=True)
        if request.videos:
            find_footage(corpus, request.videos, named_by_id=request.corpus == LSA_T)
            _drop(corpus, "video not found", lambda clip: None if clip.footage else clip.video)
    if not corpus.clips:
        return Prepared(corpus, {split: [] for split in SPLITS})
    return _own_splits(corpus, request) if kept.keep_split else _new_splits(corpus, request)


def _restrict(prepared: Prepared, request: PreparationRequest) -> None:
    """Keep the split that is asked for, and of each split the first clips, as many as `limit` says."""
    if request.split is None and request.limit is None:
        return
    for split, clips in prepared.splits.items():
        prepared.splits[split] = [] if request.split not in (None, split) else clips[: request.limit]
    kept = {clip.video_id for clips in prepared.splits.values() for clip in clips}
    prepared.corpus.clips[:] = [clip for clip in prepared.corpus.clips if clip.video_id in kept]


def _tell(request: PreparationRequest, found: Audit) -> None:
    say(f"{request.place}:")
    for name, value in found.facts:
        say(f"  {name}: {value}")


def _refuse_losses(request: PreparationRequest, prepared: Prepared) -> None:
    """Raise UserError if more rows are lost than may be; the output then names them, and has nothing to train from."""
    found = prepared.audit
    if not request.corpus or request.allow_missing or found is None or found.lost_share <= LOST:
        return
    named = "; --output DIR has them named"
    if request.output is not None:
        _claim(request.output, request)
        write_audit(request.output, request.name, prepared)
        named = f"; {request.output / DROPPED} names them"
    raise UserError(
        f"{request.place}: {found.lost:,} of {found.rows:,} rows ({found.lost_share:.1%}) are lost, "
        f"more than {LOST:.0%}, {_most_common(prepared.corpus.lost)}{named}; --allow-missing goes on without them"
    )


def _check(request: PreparationRequest) -> None:
    given = ",".join(f"{share:g}" for share in request.shares)
    if min(request.shares) < 0 or abs(sum(request.shares) - 1) > 1e-6 or not request.shares[0]:
        raise UserError(f"--splits {given}: give the shares of train, val and test, which add up to 1, train above 0")
    if request.seed < 0:
        raise UserError(f"--seed {request.seed}: must be 0 or more")
    if not request.dry_run:
        videos = () if request.corpus in CORPORA else (("--videos", request.videos),)
        for flag, path in (*videos, ("--output", request.output)):
            if path is None:
                raise UserError(f"{flag} is not given; only --dry-run goes without")


def _drop(corpus: Corpus, reason: str, detail: Callable[[CorpusClip], str | None]) -> None:
    """Drop the clips for which `detail` gives a text."""
    kept = []
    for clip in corpus.clips:
        grounds = detail(clip)
        if grounds is None:
            kept.append(clip)
        else:
            corpus.drops.append(Drop(clip.line, clip.video_id, reason, grounds, clip.file))
    corpus.clips[:] = kept
    corpus.drops.sort(key=lambda drop: (drop.file, drop.line))


def _new_splits(corpus: Corpus, request: PreparationRequest) -> Prepared:
    texts, lengths = defaultdict(list), defaultdict(list)
    for clip in corpus.clips:
        texts[clip.recording].append(clip.text)
    groups = same_footage(texts)
    name = {video: members[0] for members in groups for video in members}
    for clip in corpus.clips:
        lengths[name[clip.recording]].append(clip.duration)
    split_of = partition(lengths, dict(zip(SPLITS, request.shares, strict=True)), request.seed)
    splits = {split: [clip for clip in corpus.clips if split_of[name[clip.recording]] == split] for split in SPLITS}
    return Prepared(corpus, splits, shared_footage=[members for members in groups if len(members) > 1])


def _own_splits(corpus: Corpus, request: PreparationRequest) -> Prepared:
    """The splits from the file's own column."""
    if not any(clip.split.lower() in SPLIT_NAMES for clip in corpus.clips):
        names = ", ".join(SPLITS)
        place = request.metadata or request.source
        raise UserError(f"--keep-split: the column split of {place} names no split ({names}); leave the flag out")
    _drop(
        corpus,
        "no split of its own",
        lambda clip: None if clip.split.lower() in SPLIT_NAMES else f"split {clip.split or 'empty'}",
    )
    splits = {split: [clip for clip in corpus.clips if SPLIT_NAMES[clip.split.lower()] == split] for split in SPLITS}
    places = Counter(video for clips in splits.values() for video in {clip.recording for clip in clips})
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
                "keep_split": request.keep_split, "fps": request.fps, "corpus": request.corpus,
                "source": str(request.source), "split": request.split, "limit": request.limit}  # fmt: skip
    try:
        write_json(output / MARKER, settings)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None


def _extract(
    output: Path,
    request: PreparationRequest,
    prepared: Prepared,
    extract: Callable[..., Sequence[Mapping[str, Any]]] | None,
) -> None:
    from slt_jax.media.jobs import Job
    from slt_jax.media.settings import ExtractionSettings

    if extract is None:
        from slt_jax.media.extract_many import extract_videos

        extract = extract_videos
    corpus = prepared.corpus
    jobs = [Job(clip.footage.path, file_id(clip.video_id), clip.start, clip.end, rate=clip.footage.rate,
                signer_box=clip.signer_box)
            for clip in corpus.clips if clip.footage]  # fmt: skip
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
