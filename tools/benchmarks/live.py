"""Quality against lag of streams: BLEU, LAAL, YAAL and flicker of every policy, on generated sentences with pauses."""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import slt_jax
from slt_jax.base.console import Progress
from slt_jax.base.files import replacing
from slt_jax.data.text import decode
from slt_jax.decoding.engine import Engine
from slt_jax.decoding.policies import FixedWindow, LocalAgreement, Policy, WaitK
from slt_jax.decoding.scores import corpus_scores
from slt_jax.decoding.search import Search
from slt_jax.decoding.stream import Stream, Update, push_many
from slt_jax.errors import UserError
from slt_jax.synthetic.generator import LEVELS, MARKER, ClipSpec, plan, render_clip
from slt_jax.synthetic.grammar import Sentence
from tools.benchmarks.problem import positive

FPS = 8.0  # at which three signs take two seconds
PAUSE = 0.75  # seconds of rest that end a sentence: signs are held for less
REST = (1.0, 2.2)  # seconds between two sentences, at least and at most
NEVER = 10**9
Frames = dict[str, np.ndarray]
Results = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Said:
    """A sentence in a stream: its frames there, and what it means."""

    first: int
    end: int
    text: str


@dataclass
class Log:
    """What a stream showed: settled words with the seconds at which they were, and how much was taken back."""

    words: list[str] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    running: str = ""
    shown: list[str] = field(default_factory=list)
    erased: int = 0

    def add(self, update: Update) -> None:
        """One more update. Raises ValueError if a settled word is taken back."""
        for segment in update.ended:
            self._settle(segment.text, update.time)
            self.running = ""
        self._settle(update.settled, update.time)
        self.running = update.settled
        shown = [*self.words, *update.pending.split()]
        same = next((n for n, (a, b) in enumerate(zip(shown, self.shown, strict=False)) if a != b),
                    min(len(shown), len(self.shown)))  # fmt: skip
        self.erased += len(self.shown) - same
        self.shown = shown

    def _settle(self, text: str, time: float) -> None:
        if not text.startswith(self.running):
            raise ValueError(f"'{self.running}' was settled, and became '{text}'")
        new = text.split()[len(self.running.split()) :]
        self.words += new
        self.delays += [time] * len(new)


def policies() -> dict[str, Policy]:
    """What is compared, by its name in the table."""
    return {
        "at pauses": LocalAgreement(NEVER),
        **{f"agreement of {n}": LocalAgreement(n) for n in (2, 3, 4)},
        **{f"agreement of {n}, sure 0.8": LocalAgreement(n, sure=0.8) for n in (2, 3)},
        **{f"wait-{k}": WaitK(k) for k in (4, 5, 6, 7)},
        "windows of 2.4 s": FixedWindow(2.4),
    }


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument("--run", metavar="DIR", default="runs/demo/run", help="a run of `make demo` (default: its own)")
    top.add_argument("--root", metavar="DIR", default="runs/demo/data", help="its corpus (default: its own)")
    top.add_argument("--output", metavar="DIR", default="runs/live", help="the logs and the plot (default: runs/live)")
    top.add_argument("--sentences", type=positive, default=40, metavar="N", help="in each stream (default: 40)")
    top.add_argument("--only", metavar="NAME", nargs="+", default=(), help="policies whose names begin so")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sign the test sentences to the model in one stream a signer, once for each policy."""
    for package, extra in (("omnisteval", "test"), ("matplotlib", "plots")):
        if not find_spec(package):
            raise UserError(f"the benchmark needs {package}: install slt-jax[{extra}]")
    folder = Path(arguments.output)
    translator = slt_jax.load(arguments.run)
    engine = translator.stream(fps=FPS).engine
    streams = signed(Path(arguments.root), engine.config.image_size, arguments.sentences)
    engine = Engine(translator, engine.tokenizer, fps=FPS, search=Search(max_length=engine.search.max_length),
                    batch_sizes=(len(streams),), chunk=2)  # fmt: skip
    engine.compile()
    results = {"offline": {"bleu": offline(translator, engine, streams), "laal": 0.0}}
    for name, policy in policies().items():
        if arguments.only and not name.startswith(tuple(arguments.only)):
            continue
        results[name] = measured(engine, policy, streams, folder / "".join(c if c.isalnum() else "_" for c in name))
        print(f"{name}: {results[name]}", flush=True)
    print(table(results))
    print(f"plot: {plot(results, folder / 'live.png')}")
    return {"fps": FPS, "sentences": sum(len(said) for _, said in streams), "results": results}


def signed(root: Path, image_size: int, count: int) -> list[tuple[Frames, list[Said]]]:
    """One stream for each signer of the corpus `root`: its test sentences with rests before, between and after them."""
    marker = root / MARKER
    if not marker.is_file():
        raise UserError(f"--root {root}: holds no generated corpus ({MARKER}); run `make demo` first")
    facts = json.loads(marker.read_text(encoding="utf-8"))
    specs, _ = plan(facts["clips"], facts["seed"], facts["level"])
    level = LEVELS[facts["level"]]
    tests = list({s.sentence.text: s for name, s in specs.items() if name.startswith("test")}.values())[:count]
    return [_stream(tests, signer, level.calm, image_size) for signer in range(level.signers)]


def _stream(tests: Sequence[ClipSpec], signer: int, calm: bool, image_size: int) -> tuple[Frames, list[Said]]:
    rng = np.random.default_rng([7, signer])
    parts, said, place = [], [], 0
    rest = Sentence("", (), ())
    for number in range(2 * len(tests) + 1):
        spec = tests[number // 2] if number % 2 else None
        sentence = spec.sentence if spec else rest
        frames = spec.frames if spec else round(rng.uniform(*REST) * FPS)
        # Generated hands tremble from frame to frame, which at rest would be signing: one frame stands for all of it.
        clip = render_clip(ClipSpec(sentence, frames if spec else 1, signer, (7, signer, number), calm), image_size)
        part = {"face": clip.face, "hand_l": clip.hand_l, "hand_r": clip.hand_r, "pose": clip.pose.astype(np.float32),
                "miss_mask_hl": clip.miss_hand_l, "miss_mask_hr": clip.miss_hand_r}  # fmt: skip
        parts.append(part if spec else {name: np.repeat(array, frames, axis=0) for name, array in part.items()})
        if spec:
            said.append(Said(place, place + frames, sentence.text))
        place += frames
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, said


def offline(translator: slt_jax.Translator, engine: Engine, streams: Sequence[tuple[Frames, list[Said]]]) -> float:
    """BLEU of the sentences as clips, cut where they begin and end."""
    said = [(frames, one) for frames, some in streams for one in some]
    texts = []
    for frames, one in said:
        batch = {name: array[None, one.first : one.end] for name, array in frames.items()}
        tokens = translator.generate(batch, min_length=2, max_length=engine.search.max_length)
        texts += decode(engine.tokenizer, tokens)
    return corpus_scores([one.text for _, one in said], texts)["bleu"]


def measured(
    engine: Engine, policy: Policy, streams: Sequence[tuple[Frames, list[Said]]], folder: Path
) -> dict[str, float]:
    """The scores of one policy: BLEU, LAAL and YAAL in seconds, normalised erasure, milliseconds a frame."""
    logs, live = [Log() for _ in streams], [Stream(engine, policy, pause=PAUSE) for _ in streams]
    lengths = [len(frames["face"]) for frames, _ in streams]
    began = time.perf_counter()
    with Progress("stream", max(lengths), unit="frame", samples="frames") as progress:
        for frame in range(max(lengths)):
            due = [n for n, length in enumerate(lengths) if frame < length]
            pushes = [(live[n], {name: array[frame : frame + 1] for name, array in streams[n][0].items()}) for n in due]
            for n, update in zip(due, push_many(engine, pushes), strict=True):
                logs[n].add(update)
            progress.update(len(due))
    for log, stream in zip(logs, live, strict=True):
        log.add(stream.finish())
    seconds = time.perf_counter() - began
    scores = omnisteval(logs, streams, folder)
    erased, words = (sum(numbers) for numbers in ((log.erased for log in logs), (len(log.words) for log in logs)))
    return {
        "bleu": scores["BLEU"], "laal": scores["LongLAAL (CU)"] / 1000, "yaal": scores["LongYAAL (CU)"] / 1000,
        "erasure": erased / max(words, 1), "ms_per_frame": 1000 * seconds / sum(lengths),
    }  # fmt: skip


def omnisteval(logs: Sequence[Log], streams: Sequence[tuple[Frames, list[Said]]], folder: Path) -> dict[str, float]:
    """Write the logs as SimulEval's, and read what OmniSTEval says of them (Polák et al. 2025, arXiv:2509.17349)."""
    folder.mkdir(parents=True, exist_ok=True)
    segments, texts, lines = [], [], []
    for number, (log, (frames, said)) in enumerate(zip(logs, streams, strict=True)):
        segments += [{"wav": f"{number}.wav", "offset": one.first / FPS, "duration": (one.end - one.first) / FPS}
                     for one in said]  # fmt: skip
        texts += [one.text for one in said]
        delays = [1000 * delay for delay in log.delays]
        line = {"index": number, "source": [f"{number}.wav"], "prediction": " ".join(log.words), "delays": delays}
        lines.append(line | {"elapsed": delays, "source_length": 1000 * len(frames["face"]) / FPS})
    files = {name: folder / name for name in ("segments.json", "references.txt", "instances.log")}
    files["segments.json"].write_text(json.dumps(segments), encoding="utf-8")
    files["references.txt"].write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    files["instances.log"].write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "-m", "omnisteval.cli", "longform", "--word_level",
               "--speech_segmentation", str(files["segments.json"]), "--hypothesis_file", str(files["instances.log"]),
               "--ref_sentences_file", str(files["references.txt"]), "--output_folder", str(folder)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"omnisteval: {next(iter(done.stderr.strip().splitlines()[-1:]), 'failed')}")
    with (folder / "scores.tsv").open(encoding="utf-8", newline="") as file:
        return {row["metric"]: float(row["value"]) for row in csv.DictReader(file, delimiter="\t")}


def table(results: Results) -> str:
    """A table in Markdown."""
    whole = results["offline"]["bleu"]
    lines = [
        "| policy | BLEU | of offline | LAAL (s) | YAAL (s) | erasure | ms a frame |",
        "|---|--:|--:|--:|--:|--:|--:|",
        f"| offline, clip by clip | {whole:.1f} | 100 % | | | | |",
    ]
    for name, row in results.items():
        if name != "offline":
            share = 100 * row["bleu"] / max(whole, 1e-9)
            lines.append(
                f"| {name} | {row['bleu']:.1f} | {share:.0f} % | {row['laal']:.2f} | {row['yaal']:.2f} | "
                f"{row['erasure']:.2f} | {row['ms_per_frame']:.1f} |"
            )
    return "\n".join(lines)


def plot(results: Results, path: Path) -> Path:
    """BLEU against LAAL, a point a policy, with the goal: 90 % of the offline BLEU within two seconds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    whole = results["offline"]["bleu"]
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for name, row in results.items():
        if name != "offline":
            axes.plot(row["laal"], row["bleu"], "o")
            axes.annotate(name, (row["laal"], row["bleu"]), (4, -4), textcoords="offset points", fontsize=8,
                          rotation=-50, rotation_mode="anchor", va="top")  # fmt: skip
    axes.axhline(whole, color="grey", linewidth=1)
    axes.axhspan(0.9 * whole, whole, alpha=0.08, color="green")
    axes.axvline(2.0, color="grey", linestyle="--", linewidth=1)
    axes.set(
        xlabel="LAAL (s)", ylabel="BLEU", xlim=(0, 1.12 * max(row["laal"] for row in results.values())), ylim=(0, 105)
    )
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return path
