"""BLEU against clips at equal steps: with texts alone, with glosses beside them, and with alignment before them."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from slt_jax.base.files import replacing
from slt_jax.errors import UserError
from tools.benchmarks.ablations import Variant
from tools.benchmarks.learning import CONFIG, add_corpus_flags, corpus_of, measured
from tools.benchmarks.options import ALIGNED, ALIGNMENT, GLOSSES, STEPS
from tools.benchmarks.problem import positive

PLAIN = "texts alone"
KINDS: Mapping[str, tuple[str, ...]] = {PLAIN: (), "glosses": GLOSSES, ALIGNED: ()}
Results = Mapping[str, Mapping[str, Any]]


def add_flags(top: argparse.ArgumentParser) -> None:
    add_corpus_flags(top, "runs/curve", 1, "runs of each point")
    top.add_argument("--clips", type=positive, nargs="+", metavar="N", default=[1000, 2000, 4000, 8000, 16000],
                     help="numbers of training clips (default: 1000 2000 4000 8000 16000)")  # fmt: skip
    top.add_argument("--steps", type=positive, default=5000, metavar="N", help="of each run (default: 5000)")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """As the benchmark `learning`: what has a result is not trained again."""
    arguments.train, arguments.epochs = max(arguments.clips), None
    corpus = corpus_of(arguments)
    lines = (corpus / "index" / "train.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    if len(lines) <= arguments.train:
        raise UserError(f"{corpus}: has {len(lines) - 1} training clips, asked are {arguments.train}; choose another "
                        f"--output")  # fmt: skip
    for clips in arguments.clips:
        with replacing(index_of(corpus, clips)) as file:
            file.write("".join(lines[: clips + 1]).encode())
    known = variants(corpus, arguments.clips, arguments.steps, arguments.seeds)
    settings, results = measured(arguments, known, steps=arguments.steps)
    print(table(results))
    print(f"plot: {plot(results, Path(arguments.output) / 'curve.png')}")
    return {"settings": settings, "results": results}


def index_of(corpus: Path, clips: int) -> Path:
    """The first so many of the training clips, whose sentences the generator drew at random."""
    return corpus / "index" / f"train_{clips}.csv"


def variants(corpus: Path, sizes: Sequence[int], steps: int, seeds: int) -> list[Variant]:
    """All sizes with the first seed, then with the next; a variant follows the one that it begins with."""
    batch = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["data"]["batch_size"]
    found = []
    for seed in range(1, seeds + 1):
        for clips in sizes:
            epochs = str(-(-steps * batch // clips))
            flags = (*STEPS, "--train-index", str(index_of(corpus, clips)), "--max-steps", str(steps), "--epochs",
                     epochs, "--eval-bleu-every", epochs)  # fmt: skip
            where = f"{clips} clips, seed {seed}"
            before = Variant(f"{ALIGNMENT}, {where}", (*flags, "--objectives", '{"contrastive": 1}'), seed=seed)
            for kind, more in KINDS.items():
                start = before.name if kind == ALIGNED else None
                found += [before] if start else []
                found.append(Variant(f"{kind}, {where}", (*flags, *more), begins_with=start, seed=seed))
    return found


def points(results: Results) -> dict[str, dict[int, float]]:
    """The mean BLEU of each kind at each number of clips that has a run."""
    found: dict[str, dict[int, list[float]]] = {}
    for name, row in results.items():
        kind, clips, _ = name.split(", ")
        if kind in KINDS:
            found.setdefault(kind, {}).setdefault(int(clips.split()[0]), []).append(row["bleu"])
    return {kind: {clips: mean(found[kind][clips]) for clips in sorted(found[kind])} for kind in KINDS if kind in found}


def table(results: Results) -> str:
    """Markdown: a row a kind, a column a number of clips."""
    curves = points(results)
    sizes = sorted({clips for curve in curves.values() for clips in curve})
    lines = ["| BLEU-4 | " + " | ".join(f"{clips:,} clips" for clips in sizes) + " |",
             "| --- " * (len(sizes) + 1) + "|"]  # fmt: skip
    for kind, curve in curves.items():
        cells = (f"{curve[clips]:.1f}" if clips in curve else "" for clips in sizes)
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results: Results, path: Path) -> Path:
    """A line a kind; clips double from tick to tick."""
    from matplotlib.figure import Figure

    curves = points(results)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    for kind, curve in curves.items():
        axis.plot(list(curve), list(curve.values()), marker="o", markersize=4, label=kind)
    sizes = sorted({clips for curve in curves.values() for clips in curve})
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [f"{clips:,}" for clips in sizes])
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.set_xlabel("training clips", fontsize=9)
    axis.set_ylabel("BLEU-4 on sentences never seen", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)
    return path
