"""BLEU and chrF on sentences never seen, of the whole model and of models that lack or change one thing."""

import argparse
import csv
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from slt_jax.base.files import replacing, write_json
from slt_jax.cli.flags import flag_of
from slt_jax.errors import UserError
from slt_jax.streams import BY_NAME
from slt_jax.synthetic.generator import MARKER, generate
from tools.benchmarks.ablations import Variant, averaged, backbones_alone, blanked, needed, variants
from tools.benchmarks.problem import positive

CONFIG = Path(__file__).resolve().parents[2] / "configs/synthetic.yml"
IMAGE_SIZE = 28
OF_LEVEL = {
    "small": ("--sequence-length", "16"),
    "full": (),
    "hard": ("--sequence-length", "48"),
}  # what the longest clips of a level need
READABLE = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # behind a number that a line runs through
Results = Mapping[str, Mapping[str, Any]]


def add_flags(top: argparse.ArgumentParser) -> None:
    add_run_flags(top, "runs/learning", 3, "runs of the whole model", 16000)


def add_run_flags(top: argparse.ArgumentParser, output: str, seeds: int, what: str, train: int) -> None:
    """Flags of a benchmark that trains and scores one variant after the other, all on the same clips."""
    add_corpus_flags(top, output, seeds, what)
    top.add_argument("--epochs", type=positive, default=None, metavar="N", help="default: the configuration's")
    top.add_argument("--train", type=positive, default=train, metavar="N", help=f"training clips (default: {train})")


def add_corpus_flags(top: argparse.ArgumentParser, output: str, seeds: int, what: str) -> None:
    """Flags of a benchmark that trains and scores one variant after the other."""
    top.add_argument("--output", metavar="DIR", default=output,
                     help="the corpus, the runs, results.json and the plot; what is there is not done again "
                          f"(default: {output})")  # fmt: skip
    top.add_argument("--only", metavar="NAME", nargs="+", default=(), help="runs whose names begin so (default: all)")
    top.add_argument("--seeds", type=positive, default=seeds, metavar="N", help=f"{what} (default: {seeds})")
    top.add_argument("--test", type=positive, default=400, metavar="N", help="test clips (default: 400)")
    top.add_argument("--level", choices=OF_LEVEL, default="full", help="of the generated corpus (default: full)")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and score what has no result yet, one run after the other; the table and the plot show all there is."""
    settings, results = measured(arguments, variants(arguments.seeds))
    print(table(results))
    print(f"plot: {plot(results, Path(arguments.output) / 'learning.png')}")
    return {"settings": settings, "results": results}


def corpus_of(arguments: argparse.Namespace) -> Path:
    """The generated corpus, which is made if it is not there. Raises UserError if it is of another level."""
    if not find_spec("matplotlib"):  # before hours of training, not after them
        raise UserError("the plot needs matplotlib: install slt-jax[plots]")
    corpus = Path(arguments.output) / "corpus"
    if not (corpus / MARKER).is_file():
        generate(corpus, num_train=arguments.train, num_val=200, num_test=arguments.test, level=arguments.level,
                 image_size=IMAGE_SIZE)  # fmt: skip
    elif (level := json.loads((corpus / MARKER).read_text(encoding="utf-8"))["level"]) != arguments.level:
        raise UserError(f"{corpus}: is of the level {level}, asked is {arguments.level}; choose another --output")
    return corpus


def measured(
    arguments: argparse.Namespace, known: Sequence[Variant], **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings, of which some are `more`, and the results of those of the `known` variants that are asked for.

    Results that were there before are among them.
    """
    folder = Path(arguments.output)
    settings = {"train": arguments.train, "test": arguments.test, "epochs": arguments.epochs} | more
    if arguments.level != "full":  # results of before there were levels have none
        settings["level"] = arguments.level
    file = folder / "results.json"
    results = read_results(file, settings)
    chosen = needed(arguments.only, known)
    if not chosen:
        names = ", ".join(variant.name for variant in known)
        raise UserError(f"--only {' '.join(arguments.only)}: no variant begins so; known: {names}")
    corpus = corpus_of(arguments)
    for number, variant in enumerate(chosen, 1):
        if variant.name not in results:
            print(f"[{number}/{len(chosen)}] {variant.name}", flush=True)
            flags = (*OF_LEVEL[arguments.level], *variant.flags)
            results[variant.name] = learn(replace(variant, flags=flags), corpus, folder, arguments.epochs)
            write_json(file, {"settings": settings, "results": results})
    return settings, results


def read_results(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What earlier runs of this command found. Raises UserError if they were other runs."""
    if not file.is_file():
        return {}
    earlier = json.loads(file.read_text(encoding="utf-8"))
    if earlier["settings"] != settings:
        raise UserError(f"{file}: holds results of {earlier['settings']}, asked is {settings}; choose another --output")
    return dict(earlier["results"])


def learn(variant: Variant, corpus: Path, folder: Path, epochs: int | None) -> dict[str, Any]:
    """Train one variant in a process of its own, translate the test clips with its last weights, and score that."""
    run = work_dir(folder, variant.name)
    data: list[str] = []
    if variant.blank:
        blank = blanked(variant.blank, corpus, folder / "blank")
        data = [flag_of(BY_NAME[variant.blank].folder_key), str(blank)]
    start = []
    if variant.backbones_of:
        source = work_dir(folder, variant.backbones_of) / "last.pt"
        start = ["--init-checkpoint", str(backbones_alone(source, folder / "backbones.pt"))]
    if variant.begins_with:
        start = ["--init-checkpoint", str(work_dir(folder, variant.begins_with) / "last.pt")]
    if variant.taught_by:
        start += ["--teacher", str(work_dir(folder, variant.taught_by) / "last.pt")]
    words = ["--seed", str(variant.seed), *variant.flags, *start, *(("--epochs", str(epochs)) if epochs else ())]
    scores = train_and_score(CONFIG, corpus, run, words, data)
    return {name: round(scores[name], 2) for name in ("bleu", "chrf")} | {"seconds": round(scores["seconds"])}


def train_and_score(
    config: Path, corpus: Path, run: Path, words: Sequence[str], data: Sequence[str] = ()
) -> dict[str, float]:
    """BLEU, chrF and the share of exact translations of the test clips, in percent, and the seconds of training.

    The weights are the last ones, or their average where the run keeps one.
    `words` are flags of training, `data` of both commands beside `--root`.
    """
    data, predictions = ["--root", str(corpus), *data], run / "test" / "predictions.csv"
    began = time.monotonic()
    command("train", ["--config", str(config), *data, "--work-dir", str(run), "--overwrite", *words])
    seconds = time.monotonic() - began
    command("evaluate", [
        "--checkpoint", str(averaged(run / "last.pt")), *data, "--eval-index", str(corpus / "index" / "test.csv"),
        "--output-csv", str(predictions),
    ])  # fmt: skip
    report = json.loads((predictions.parent / "report.json").read_text(encoding="utf-8"))
    scores = report["checkpoints"][0]["metrics"]
    with predictions.open(encoding="utf-8", newline="") as file:
        exact = [row["prediction"] == row["reference"] for row in csv.DictReader(file)]
    return {"bleu": scores["bleu"], "chrf": scores["chrf"], "exact": 100 * mean(exact), "seconds": seconds}


def work_dir(folder: Path, name: str) -> Path:
    return folder / "runs" / "-".join(re.findall(r"\w+", name))


def command(module: str, flags: Sequence[str], *, quiet: bool = False) -> None:
    """Run `slt-train` or `slt-eval`. Raises UserError if it fails; it has said why, even if `quiet`."""
    printed = subprocess.DEVNULL if quiet else None
    ended = subprocess.run([sys.executable, "-m", f"slt_jax.cli.{module}", *flags], stdout=printed)
    if ended.returncode:
        raise UserError(f"slt_jax.cli.{module} ended with {ended.returncode}; the same command goes on from there")


def complete(results: Results) -> list[Mapping[str, Any]]:
    return [row for name, row in results.items() if name.startswith("complete")]


def table(results: Results) -> str:
    """Markdown: each run, and what it loses against the mean of the whole model's."""
    whole = complete(results)
    base = mean(row["bleu"] for row in whole) if whole else None
    lines = ["| run | BLEU-4 | chrF | BLEU lost | training, s |", "| --- | --- | --- | --- | --- |"]
    for name, row in results.items():
        lost = "" if base is None or name.startswith("complete") else f"{base - row['bleu']:.1f}"
        lines.append(f"| {name} | {row['bleu']:.1f} | {row['chrf']:.1f} | {lost} | {row['seconds']} |")
    if len(whole) > 1:
        cells = (f"{mean(v):.1f} ± {stdev(v):.1f}" for v in ([row[key] for row in whole] for key in ("bleu", "chrf")))
        lines.append(f"| complete, mean and standard deviation of {len(whole)} | {' | '.join(cells)} | | |")
    return "\n".join(lines)


def plot(results: Results, path: Path) -> Path:
    """A bar a run, the whole model's BLEU as a line."""
    from matplotlib.figure import Figure

    names = list(results)
    figure = Figure(figsize=(7, 0.32 * len(names) + 0.9), layout="constrained")
    axis = figure.subplots()
    colours = ["C0" if name.startswith("complete") else "0.6" for name in names]
    bars = axis.barh(names, [results[name]["bleu"] for name in names], color=colours, height=0.7)
    if whole := complete(results):
        axis.axvline(mean(row["bleu"] for row in whole), color="C0", linewidth=1, linestyle="--", zorder=0)
    axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=8, bbox=READABLE)
    return finished(figure, axis, path)


def finished(figure: Any, axis: Any, path: Path) -> Path:
    """Write a figure of bars of BLEU, the first at the top."""
    axis.invert_yaxis()
    axis.set_xlim(0, 105)
    axis.set_xlabel("BLEU-4 on test sentences never seen in training", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)
    return path
