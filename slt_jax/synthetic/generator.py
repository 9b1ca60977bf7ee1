"""A generated signing corpus in the format of docs/data.md: something to train on without any recording.

`generate` writes a corpus, `render_clip` makes one clip in memory. Signs are in lexicon.py, sentences in grammar.py,
movement in body.py, people in signers.py, drawing in render.py; contact_sheet.py shows clips. What only the hard level
has is in the files whose names begin so, in spelling.py and in classifiers.py.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from tqdm import tqdm

from slt_jax.base.files import replacing_folder
from slt_jax.base.heap import keep_freed_memory
from slt_jax.base.places import check_folder
from slt_jax.data.corpus_folder import SPLITS, folders_under
from slt_jax.data.workers import cores
from slt_jax.errors import UserError
from slt_jax.synthetic import render
from slt_jax.synthetic.body import tracks
from slt_jax.synthetic.grammar import Sentence, sample_sentences
from slt_jax.synthetic.hard_grammar import sample_hard
from slt_jax.synthetic.hard_lexicon import time_of
from slt_jax.synthetic.signers import SIGNERS
from slt_jax.synthetic.spelling import names_in

MARKER = "synthetic.json"  # marks a directory as generated, so that it may be overwritten
JPEG_QUALITY = 90
_CHUNK = 8  # clips that a worker takes at once


@dataclass(frozen=True)
class Level:
    """How hard a corpus is: usual clip lengths, signs in the longest, signers, reduced jitter.

    `unseen`: how many more signers there are, who sign in the test only, where the others do not.
    """

    frames: tuple[int, int]
    signs: int
    signers: int
    calm: bool
    unseen: int = 0


LEVELS = {
    "small": Level((12, 16), 3, 3, True),
    "full": Level((20, 32), 6, 8, False),
    "hard": Level((16, 48), 10, 8, False, unseen=4),
}


@dataclass(frozen=True)
class ClipSpec:
    """Everything that decides a clip's content. Equal specs give equal arrays."""

    sentence: Sentence
    frames: int = 32
    signer: int = 0  # index into SIGNERS
    seed: tuple[int, ...] = (0,)
    calm: bool = False


@dataclass(frozen=True)
class RenderedClip:
    """One clip in memory. Crops are uint8 (T, size, size, 3); crops of missing hands are black."""

    text: str
    glosses: str
    signer: str
    face: np.ndarray
    hand_l: np.ndarray
    hand_r: np.ndarray
    miss_hand_l: np.ndarray  # bool (T,)
    miss_hand_r: np.ndarray
    pose: np.ndarray  # float32 (T, 39)


@dataclass(frozen=True)
class Summary:
    """What `generate` wrote. `missing_hands` is the share of hand crops that have no jpg."""

    directory: str
    level: str
    seed: int
    clips: dict[str, int]
    sentences: dict[str, int]
    glosses: int
    signers: int
    frames: int
    missing_hands: float
    seconds: float


def isolated(gloss: str) -> Sentence:
    """A sentence of one sign."""
    return Sentence(gloss.lower(), (gloss,), (frozenset(),))


def render_clip(spec: ClipSpec, image_size: int = 64) -> RenderedClip:
    """Draw one clip without files."""
    signer = SIGNERS[spec.signer]
    motion = tracks(spec.sentence, signer, spec.frames, spec.seed, spec.calm)
    hands = {}
    for name, track, missing, mirrored, stream in (
        ("hand_l", motion.left, motion.miss_left, True, 5),
        ("hand_r", motion.right, motion.miss_right, False, 6),
    ):
        crops = np.zeros((spec.frames, image_size, image_size, 3), np.uint8)
        seen = ~missing
        if seen.any():
            crops[seen] = render.render_hand(
                track[seen], motion.blur[seen], signer, mirrored, (*spec.seed, stream), image_size
            )
        hands[name] = crops
    return RenderedClip(
        text=spec.sentence.text,
        glosses=spec.sentence.gloss_text,
        signer=signer.name,
        face=render.render_face(motion.face, signer, (*spec.seed, 7), image_size),
        miss_hand_l=motion.miss_left,
        miss_hand_r=motion.miss_right,
        pose=motion.pose,
        **hands,
    )


def generate(
    out_dir: str | os.PathLike,
    *,
    num_train: int,
    num_val: int,
    num_test: int,
    seed: int = 0,
    level: str = "full",
    frames: tuple[int, int] | None = None,
    image_size: int = 64,
    fps: float = 25,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Summary:
    """Write a corpus in the format of docs/data.md: crops, poses, meta.csv and index/{train,val,test}.csv.

    The same arguments give the same bytes, whatever `workers` is (None: one per core; 0: this process). Splits share
    signers but no sentence; the test of the level hard has signers and names of its own. If the grammar has fewer
    sentences than there are clips, the clips of a split repeat its sentences with other signers and movements. The
    directory appears complete or not at all. Raises UserError for an argument out of range, and for a directory that is
    not empty.
    """
    out_dir = Path(out_dir)
    counts = dict(zip(SPLITS, (num_train, num_val, num_test), strict=True))
    _check(counts, level, frames, image_size, fps, workers, seed)
    _check_directory(out_dir, overwrite)
    started = time.perf_counter()
    specs, sentences = plan(counts, seed, level, frames)
    with replacing_folder(out_dir) as directory:
        for folder in (*folders_under(directory).values(), directory / "index"):
            folder.mkdir()
        missing = _write_clips(directory, specs, image_size, workers, progress)
        _write_tables(directory, specs, fps)
        summary = Summary(
            directory=str(out_dir),
            level=level,
            seed=seed,
            clips=counts,
            sentences={split: len(texts) for split, texts in sentences.items()},
            glosses=len({gloss for spec in specs.values() for gloss in spec.sentence.glosses}),
            signers=len({spec.signer for spec in specs.values()}),
            frames=sum(spec.frames for spec in specs.values()),
            missing_hands=missing / max(1, 2 * sum(spec.frames for spec in specs.values())),
            seconds=time.perf_counter() - started,
        )
        # Only what follows from the arguments, so that two runs write equal files.
        facts = {k: v for k, v in asdict(summary).items() if k not in ("directory", "seconds")}
        if LEVELS[level].unseen:
            facts["test_only"] = _test_only(specs)
        (directory / MARKER).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return summary


def plan(
    counts: dict[str, int], seed: int, level: str, frames: tuple[int, int] | None = None
) -> tuple[dict[str, ClipSpec], dict[str, set[str]]]:
    """Decide what each clip shows: {video id: spec}, and the texts of each split."""
    kind = LEVELS[level]
    low, high = frames or kind.frames
    rng = np.random.default_rng([seed, 0])
    parts = (
        sample_hard(rng, counts)
        if level == "hard"
        else _parts(sample_sentences(rng, sum(counts.values()), level), counts)
    )
    specs: dict[str, ClipSpec] = {}
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, 1, number])
        people = (
            range(kind.signers, kind.signers + kind.unseen) if kind.unseen and split == "test" else range(kind.signers)
        )
        for i in range(counts[split]):
            sentence = parts[split][i % len(parts[split])]
            signer = people[int(rng.integers(len(people)))]
            # Longer sentences and slower signers need more frames.
            fill = (time_of(sentence.glosses) - 2) / (kind.signs - 2)
            length = (low + (high - low) * fill) * SIGNERS[signer].tempo * rng.uniform(0.9, 1.1)
            specs[f"{split}_{i:06d}"] = ClipSpec(
                sentence, int(np.clip(round(length), low, high)), signer, (seed, number, i), kind.calm
            )
    texts = {split: {s.sentence.text for v, s in specs.items() if v.startswith(split)} for split in SPLITS}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not texts[a] & texts[b], f"{a} and {b} share sentences"
    return specs, texts


def _parts(pool: list[Sentence], counts: dict[str, int]) -> dict[str, list[Sentence]]:
    """A split's sentences, none of which is another's."""
    shares = counts
    if len(pool) < sum(counts.values()):  # a small grammar: most goes to training, the rest repeats its sentences
        limit = len(pool) * 15 // 100 if counts["train"] else len(pool) // 2
        shares = {split: min(counts[split], limit) for split in ("val", "test")}
    cuts = (shares["val"], shares["val"] + shares["test"])
    return {"val": pool[: cuts[0]], "test": pool[cuts[0] : cuts[1]], "train": pool[cuts[1] :]}


def _test_only(specs: dict[str, ClipSpec]) -> dict[str, list[str]]:
    """The signers and the spelled names of the test that no other split has."""
    found: dict[bool, tuple[set[str], set[str]]] = {tested: (set(), set()) for tested in (True, False)}
    for video_id, spec in specs.items():
        signers, names = found[video_id.startswith("test")]
        signers.add(SIGNERS[spec.signer].name)
        names.update(names_in(spec.sentence.glosses))
    return {what: sorted(found[True][i] - found[False][i]) for i, what in enumerate(("signers", "names"))}


def _check(counts, level, frames, image_size, fps, workers, seed) -> None:
    if level not in LEVELS:
        raise UserError(f"--level {level}: choose one of {', '.join(LEVELS)}")
    if min(counts.values()) < 0 or not sum(counts.values()):
        raise UserError("--train, --val and --test: give at least one clip, and no negative numbers")
    if frames is not None and not (len(frames) == 2 and 4 <= frames[0] <= frames[1]):
        raise UserError(f"--frames {frames}: give the least and the greatest number of frames, 4 or more")
    if not 24 <= image_size <= 1024:
        raise UserError(f"--image-size {image_size}: choose 24 to 1024 pixels")
    if fps <= 0:
        raise UserError(f"--fps {fps}: choose a number above 0")
    if workers is not None and workers < 0:
        raise UserError(f"--workers {workers}: choose 0 (this process) or more")
    if seed < 0:
        raise UserError(f"--seed {seed}: choose 0 or more")


def _check_directory(out_dir: Path, overwrite: bool) -> None:
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"{out_dir} is a file: choose a directory for the corpus")
    check_folder("", out_dir)
    if out_dir.exists() and any(out_dir.iterdir()):
        if not overwrite:
            raise UserError(f"{out_dir} is not empty: choose another directory, or replace the corpus with --overwrite")
        if not (out_dir / MARKER).is_file():
            raise UserError(f"{out_dir} holds other files (no {MARKER}): --overwrite only replaces a generated corpus")


def _write_clips(directory: Path, specs: dict[str, ClipSpec], image_size: int, workers, progress: bool) -> int:
    """Render and write all clips; returns how many hand crops are missing."""
    items = list(specs.items())
    chunks = [items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK)]
    if workers is None:
        workers = cores()
    missing = 0
    with tqdm(total=len(items), unit="clip", desc="signs", disable=None if progress else True) as bar:
        if not workers:
            for chunk in chunks:
                missing += _write_chunk(directory, chunk, image_size)
                bar.update(len(chunk))
            return missing
        # Spawned, because a parent that has started JAX's threads must not be forked.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context, initializer=keep_freed_memory) as pool:
            futures = {pool.submit(_write_chunk, directory, chunk, image_size): len(chunk) for chunk in chunks}
            try:
                for future in as_completed(futures):
                    missing += future.result()
                    bar.update(futures[future])
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return missing


def _write_chunk(directory: Path, chunk: list[tuple[str, ClipSpec]], image_size: int) -> int:
    missing = 0
    for video_id, spec in chunk:
        clip = render_clip(spec, image_size)
        for stream, lost in (("face", None), ("hand_l", clip.miss_hand_l), ("hand_r", clip.miss_hand_r)):
            images = getattr(clip, stream)
            prefix = f"{directory}/{stream}/{video_id}_f"
            for frame in range(spec.frames):
                if lost is None or not lost[frame]:
                    _write_jpeg(f"{prefix}{frame:06d}.jpg", images[frame])
        np.savez(
            directory / "pose" / f"{video_id}.npz",
            pose=clip.pose, miss_hand_l=clip.miss_hand_l, miss_hand_r=clip.miss_hand_r,
        )  # fmt: skip
        missing += int(clip.miss_hand_l.sum() + clip.miss_hand_r.sum())
    return missing


def _write_jpeg(path: str, image: np.ndarray) -> None:
    data = simplejpeg.encode_jpeg(image, quality=JPEG_QUALITY, colorsubsampling="420")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)  # costs a third less than open()
    try:
        while data:  # the last bytes of a disk are written, and the next are refused
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)


def _write_tables(directory: Path, specs: dict[str, ClipSpec], fps: float) -> None:
    with (directory / "meta.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter=";", lineterminator="\n")
        table.writerow(["id", "texto", "fps", "duration", "frame_count", "signer", "glosses"])
        for video_id, spec in specs.items():
            sentence, signer = spec.sentence, SIGNERS[spec.signer].name
            duration = f"{spec.frames / fps:.3f}"
            table.writerow([video_id, sentence.text, f"{fps:g}", duration, spec.frames, signer, sentence.gloss_text])
    for split in SPLITS:
        ids = [video_id for video_id in specs if video_id.startswith(split)]
        (directory / "index" / f"{split}.csv").write_text("\n".join(["video_id", *ids]) + "\n", encoding="utf-8")
