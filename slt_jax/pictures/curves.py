"""Plot the curves of one or several runs from their `metrics.jsonl`, as PNG and SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slt_jax.base.files import replacing
from slt_jax.base.json_text import parse_json
from slt_jax.errors import UserError

Records = Sequence[Mapping[str, Any]]
LineStyle = Literal["-", "--"]


@dataclass(frozen=True)
class Panel:
    """One diagram: its title and its lines, {key of a record: (name, style of line)}."""

    title: str
    lines: Mapping[str, tuple[str, LineStyle]]
    factor: float = 1.0


RENAMED: dict[str, str] = {"val_cer": "val_teacher_forced_cer"}  # names in the records of earlier versions
PANELS = (
    Panel("loss", {"train_loss": ("train", "--"), "val_loss": ("validation", "-")}),
    Panel(
        "character error rate (%)",
        {"val_translation_cer": ("translations", "-"), "val_teacher_forced_cer": ("teacher forced", "--")},
        factor=100.0,
    ),
    Panel("glosses of validation clips (error rate, %)", {"val_gloss_wer": ("WER", "-")}, factor=100.0),
    Panel(
        "videos and sentences that find each other (%)", {"val_contrastive_accuracy": ("validation", "-")}, factor=100.0
    ),
    Panel("translations of validation clips", {"val_bleu": ("BLEU", "-"), "val_chrf": ("chrF", "--")}),
    Panel("learning rate", {"lr": ("lr", "-")}),
    Panel("throughput (clips/s)", {"clips_per_second": ("clips/s", "-")}),
    Panel("waiting for data (% of the time)", {"data_wait_share": ("share", "-")}, factor=100.0),
)


def read_runs(paths: Sequence[str | Path]) -> dict[str, Records]:
    """The records of every run, by a label of its own. A path is a work-dir or a `metrics.jsonl`.

    Raises UserError that names the file (and line) that cannot be used, or the run that is given twice.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        file = path / "metrics.jsonl" if path.is_dir() else path
        if any(file.resolve() == other.resolve() for other in files):
            raise UserError(f"{path}: is given twice")
        files.append(file)
    return {label: read_records(file) for label, file in zip(run_labels(files), files, strict=True)}


def read_records(path: Path) -> Records:
    """One record per epoch, in order."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name a work-dir that training has written to") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from None
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or _number(record.get("epoch")) is None:
            raise UserError(f"{path}: line {number} is no record of an epoch; name a metrics.jsonl of a run")
        records.append({todays_name(name): value for name, value in record.items()})
    if not records:
        raise UserError(f"{path}: no epoch has been finished yet")
    return sorted(records, key=lambda record: record["epoch"])


def todays_name(metric: str) -> str:
    """The name of a metric, which an earlier version may have called otherwise."""
    return RENAMED.get(metric, metric)


def run_labels(files: Sequence[Path]) -> list[str]:
    """Each file's folder name, with as many parent folders as make it unique, or else with the file's name."""
    folders = [file.resolve().parent for file in files]
    names = {folder: folder.name for folder in folders}
    for count in range(2, max(len(folder.parts) for folder in folders) + 1):
        taken = list(names.values())
        names = {
            folder: "/".join(folder.parts[-count:]) if taken.count(name) > 1 else name for folder, name in names.items()
        }
    return [
        f"{names[folder]} ({file.name})" if folders.count(folder) > 1 else names[folder]
        for folder, file in zip(folders, files, strict=True)
    ]


def plot(runs: Mapping[str, Records], targets: Sequence[Path]) -> None:
    """Draw the panels for which any run has numbers. `targets` end in .png or .svg.

    Raises UserError if matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError('plots need matplotlib: pip install "slt-jax[plots]"') from None
    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = [panel for panel in PANELS if any(_curve(run, key)[0] for run in runs.values() for key in panel.lines)]
    if not panels:
        raise UserError(f"{', '.join(runs)}: the records hold nothing to draw")
    columns = 1 if len(panels) == 1 else 2 if len(panels) < 5 else 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows + 0.35 * len(runs) ** 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    colours = [f"C{index % 10}" for index in range(len(runs))]
    for axis, panel in zip(axes, panels, strict=False):
        for run, colour in zip(runs.values(), colours, strict=True):
            for key, (_, style) in panel.lines.items():
                epochs, values = _curve(run, key)
                if epochs:
                    values = [panel.factor * value for value in values]
                    marker = "o" if len(epochs) < 15 else None
                    axis.plot(epochs, values, style, color=colour, marker=marker, markersize=3, linewidth=1.5)
        _style_key(axis, panel, runs)
        axis.set_title(panel.title, fontsize=10)
        axis.set_xlabel("epoch", fontsize=9)
        axis.tick_params(labelsize=8)
        if panel.title != "loss":
            axis.set_ylim(bottom=0)
        axis.ticklabel_format(axis="y", scilimits=(-3, 5))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[len(panels) :]:
        axis.remove()
    handles = [_line(colour, "-") for colour in colours]
    labels = [label.replace("$", r"\$") for label in runs]  # names of folders, not formulas
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(runs)), frameon=False, fontsize=9)
    for target in targets:
        kind = target.suffix.lower().removeprefix(".")
        with replacing(target) as file, matplotlib.rc_context({"svg.hashsalt": "slt_jax", "svg.fonttype": "none"}):
            # Without a date, the same runs give the same file.
            figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def _line(colour: str, style: LineStyle):
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linestyle=style)


def _style_key(axis, panel: Panel, runs: Mapping[str, Records]) -> None:
    """Explain the dashed line, if a panel has two kinds of lines."""
    there = [line for key, line in panel.lines.items() if any(_curve(run, key)[0] for run in runs.values())]
    if len(panel.lines) > 1:
        axis.legend([_line("0.4", style) for _, style in there], [name for name, _ in there], fontsize=8, frameon=False,
                    handlelength=2.5)  # fmt: skip


def _curve(records: Records, key: str) -> tuple[list[float], list[float]]:
    """Epochs and values of the records that have a number for the key."""
    points = [
        (epoch, value)
        for record in records
        if (epoch := _number(record["epoch"])) is not None and (value := _value(record, key)) is not None
    ]
    return [epoch for epoch, _ in points], [value for _, value in points]


def _value(record: Mapping[str, Any], key: str) -> float | None:
    if key != "data_wait_share":
        return _number(record.get(key))
    waited, seconds = (_number(record.get(name)) for name in ("data_wait_seconds", "seconds"))
    return waited / seconds if waited is not None and seconds else None


def _number(value: Any) -> float | None:
    """A number that can be drawn. NaN and infinity become gaps in the curve."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        return None
    return float(value)
