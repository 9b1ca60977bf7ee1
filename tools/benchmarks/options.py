"""What each option of training is worth: BLEU on sentences never seen, at equal epochs, over seeds."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tools.benchmarks.ablations import Variant
from tools.benchmarks.learning import READABLE, add_run_flags, finished, measured

PLAIN = "as it is"
AUGMENTATION = {
    "speed at random": '{"speed": [0.75, 1.25]}',
    "frames left out": '{"drop_frames": 0.1}',
    "hands left out": '{"drop_hands": 0.05}',
    "poses jittered": '{"jitter_pose": 0.01}',
    "crops at random": '{"crop_scale": [0.8, 1.0]}',
    "colours at random": '{"color": 0.3}',
}
STEPS = ("--scheduler-unit", "step", "--warmup-steps", "200")
GLOSSES = ("--objectives", '{"translation": 1, "gloss_ctc": 0.3}')
EMA = ("--ema", "0.99")
DROPOUT = ("--decoder-dropout", "0.1", "--temporal-dropout", "0.1")
FULL_GLOSSES = ("--objectives", '{"translation": 1, "gloss_ctc": 1}')
MILD = ("--augmentation", '{"crop_scale": [0.8, 1.0], "color": 0.2, "speed": [0.85, 1.2], "jitter_pose": 0.005}')
ADAPTERS = ("--set", 'model.lora={"rank": 16, "targets": ["backbones", "decoder"]}', "--lr", "0.001")
ALIGNMENT, ALIGNED = "alignment alone", "aligned before"
LONGER, ADAPTED, TAUGHT = "as long again", "as long again, by adapters", "taught by a model"
OPTIONS: Mapping[str, tuple[str, ...]] = {
    PLAIN: (),
    "cosine by step": ("--scheduler-unit", "step"),
    "warm-up, cosine by step": STEPS,
    "twice the rate, warm-up, cosine by step": (*STEPS, "--lr", "0.001"),
    "Lion at a tenth of the rate": ("--optimizer", "lion", "--lr", "0.00005"),
    "backbones at half the rate": ("--lr-backbone", "0.00025"),
    "matrices decay by 0.1": ("--weight-decay", "0.1", "--decay-only-matrices"),
    "averaged weights": EMA,
    "dropout": DROPOUT,
    "glosses": GLOSSES,
    "glosses as heavy as texts": FULL_GLOSSES,
    "aligned beside": ("--objectives", '{"translation": 1, "contrastive": 0.1}'),
    ALIGNED: (),
    TAUGHT: ("--objectives", '{"translation": 1, "distillation": 1}'),
    LONGER: (),
    ADAPTED: ADAPTERS,
    **{name: ("--augmentation", setting) for name, setting in AUGMENTATION.items()},
    "warm-up, cosine by step, averaged weights, glosses": (*STEPS, *EMA, *GLOSSES),
    "for few clips": (*STEPS, *EMA, *FULL_GLOSSES, *DROPOUT),
    "for few clips, without glosses": (*STEPS, *EMA, *DROPOUT),
    "for few clips, with changes at random": (*STEPS, *EMA, *FULL_GLOSSES, *DROPOUT, *MILD),
}
BEGINS_WITH: Mapping[str, str] = {ALIGNED: ALIGNMENT, LONGER: PLAIN, ADAPTED: PLAIN}  # whose weights, of the same seed


def add_flags(top: argparse.ArgumentParser) -> None:
    add_run_flags(top, "runs/options", 3, "runs of each option", 4000)
    top.set_defaults(epochs=10)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """As the benchmark `learning`: what has a result is not trained again."""
    settings, results = measured(arguments, variants(arguments.seeds))
    print(table(results))
    print(f"plot: {plot(results, Path(arguments.output) / 'options.png')}")
    return {"settings": settings, "results": results}


def variants(seeds: int) -> list[Variant]:
    """All options with the first seed, then with the next."""
    found = []
    for seed in range(1, seeds + 1):
        found.append(Variant(f"{ALIGNMENT}, seed {seed}", ("--objectives", '{"contrastive": 1}'), seed=seed))
        for option, flags in OPTIONS.items():
            start = f"{BEGINS_WITH[option]}, seed {seed}" if option in BEGINS_WITH else None
            teacher = f"{PLAIN}, seed {seed}" if option == TAUGHT else None
            name = f"{option}, seed {seed}"
            found.append(Variant(name, flags, begins_with=start, taught_by=teacher, seed=seed))
    return found


def by_option(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The runs of each option that has some, by seed."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {option: {} for option in OPTIONS}
    for name, row in results.items():
        option, _, seed = name.rpartition(", ")
        if option in found:
            found[option][seed] = row
    return {option: rows for option, rows in found.items() if rows}


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: the mean of each option, its deviation over seeds, and what it gains on the same seeds as they are."""
    runs = by_option(results)
    plain = runs.get(PLAIN, {})
    lines = ["| option | BLEU-4 | chrF | BLEU gained | each seed's BLEU | training, s |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for option, rows in runs.items():
        bleu, chrf = (_spread([row[key] for row in rows.values()]) for key in ("bleu", "chrf"))
        gains = [rows[seed]["bleu"] - plain[seed]["bleu"] for seed in rows if seed in plain]
        gain = f"{mean(gains):+.1f}" if gains and option != PLAIN else ""
        each = ", ".join(f"{row['bleu']:.1f}" for row in rows.values())
        seconds = round(mean(row["seconds"] for row in rows.values()))
        lines.append(f"| {option} | {bleu} | {chrf} | {gain} | {each} | {seconds} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def plot(results: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """The mean of each option as a bar, its seeds as dots."""
    from matplotlib.figure import Figure

    runs = by_option(results)
    figure = Figure(figsize=(7, 0.36 * len(runs) + 0.9), layout="constrained")
    axis = figure.subplots()
    for place, (option, rows) in enumerate(runs.items()):
        values = [row["bleu"] for row in rows.values()]
        axis.barh(place, mean(values), color="C0" if option == PLAIN else "0.75", height=0.7)
        axis.plot(values, [place] * len(values), "o", color="0.15", markersize=3.5)
        axis.annotate(f"{mean(values):.1f}", (max(values), place), (5, 0), textcoords="offset points",
                      va="center", fontsize=8, bbox=READABLE)  # fmt: skip
    if PLAIN in runs:
        base = mean(row["bleu"] for row in runs[PLAIN].values())
        axis.axvline(base, color="C0", linewidth=1, linestyle="--", zorder=0)
    axis.set_yticks(range(len(runs)), list(runs))
    return finished(figure, axis, path)
