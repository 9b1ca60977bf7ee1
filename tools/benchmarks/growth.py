"""How time and memory grow with the work: frames, clips of a batch, target tokens, beams, weights, translations."""

import argparse
import dataclasses
import math
import random
import resource
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slt_jax.base.files import replacing, write_json
from slt_jax.base.places import check_file
from slt_jax.config import Config
from slt_jax.decoding.results import Prediction
from slt_jax.errors import UserError
from tools.benchmarks.opening import WORDS, peak_kib
from tools.benchmarks.problem import add_config_flags, positive, problem
from tools.benchmarks.processes import OutOfMemory, Side
from tools.benchmarks.timing import Seconds, timed

Row = Mapping[str, float]


@dataclass(frozen=True)
class Axis:
    """What grows, in `sizes`. `key` of the configuration is set to each of them."""

    what: str
    sizes: tuple[int, ...]
    key: str | None = None


AXES = {
    "frames": Axis("a training step against frames of a clip (T)", (8, 16, 32, 64, 128, 256, 512),
                   "model.sequence_length"),
    "batch": Axis("a training step against clips of a batch (B)", (1, 2, 4, 8, 16, 32, 64), "data.batch_size"),
    "target": Axis("a training step against target tokens (S)", (16, 32, 64, 128, 256), "data.max_target_length"),
    "beams": Axis("texts of a batch against beams", (1, 2, 4, 8, 16)),
    "states": Axis("saving a state and resuming from it against layers of the decoder", (2, 4, 8, 16, 32),
                   "model.decoder_layers"),
    "evaluation": Axis("slt-eval against clips, from its start to its reports", (250, 500, 1_000, 2_000, 4_000, 8_000)),
    "translations": Axis("scores of an evaluation against clips", (1_000, 3_000, 10_000, 30_000, 100_000)),
}  # fmt: skip


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument("--over", choices=AXES, nargs="+", default=[*AXES], help="what grows (default: all of it)")
    top.add_argument("--largest", type=positive, default=None, metavar="N", help="leave out sizes above N")
    top.add_argument("--rounds", type=positive, default=3, metavar="N", help="measurements of a size (default: 3)")
    top.add_argument("--picture", metavar="FILE", default=None, help="also draw the curves, as a PNG")
    add_config_flags(top)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    config, cores = problem(arguments), arguments.threads
    check_file("--picture", arguments.picture)
    training = dataclasses.replace(config.training, grad_accum_steps=1)
    if training.remat == "auto":
        training = dataclasses.replace(training, remat="none")  # the same rule for all sizes
    config = dataclasses.replace(config, training=training)
    results: dict[str, dict[int, Row]] = {}
    for name in arguments.over:
        sizes = [size for size in AXES[name].sizes if size <= (arguments.largest or math.inf)]
        if not sizes:
            raise UserError(f"--largest {arguments.largest}: no size of {name} is so small")
        rows = results[name] = {}
        print(AXES[name].what, flush=True)
        for size in sizes:
            # A process each: what one has used at its peak says nothing of the next.
            with Side(name, Measured, name, size, sized(config, name, size), cores=cores) as side:
                try:
                    rows[size] = side.call("rows", arguments.rounds)
                except OutOfMemory as error:
                    print(f"  {size:9,}: {error}", flush=True)
                    break
            print(f"  {size:9,}: {as_text(rows, size)}", flush=True)
    if arguments.picture:
        plot(results, Path(arguments.picture))
    return {"results": {name: {str(size): row for size, row in rows.items()} for name, rows in results.items()}}


def sized(config: Config, name: str, size: int) -> Config:
    """The configuration in which what `name` says is of that size."""
    key = AXES[name].key
    if key is None:
        return config
    section, field = key.split(".")
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{field: size})})


class Measured:
    """One size of one axis, in a process of its own."""

    def __init__(self, name: str, size: int, config: Config):
        self.name, self.size, self.config = name, size, config

    def rows(self, rounds: int) -> dict[str, float]:
        """The least seconds of what is measured by their names, and `mib`, the memory that it takes."""
        work = {"beams": self._beams, "states": self._states, "evaluation": self._evaluation,
                "translations": self._translations}  # fmt: skip
        return work.get(self.name, self._step)(rounds)

    def _step(self, rounds: int) -> dict[str, float]:
        from tools.benchmarks.ours import Training

        training = Training(self.config)
        seconds = [training.turn(1, 2)["seconds"] for _ in range(rounds)]
        return {"step": least(seconds), "mib": training.memory()["total"] / 2**20}

    def _beams(self, rounds: int) -> dict[str, float]:
        from tools.benchmarks.ours import Generation

        generation = Generation(self.config)
        generation.turn(self.size)
        return {"text": least([generation.turn(self.size) for _ in range(rounds)]), "mib": peak_kib() / 2**10}

    def _states(self, rounds: int) -> dict[str, float]:
        from slt_jax.training.state_store import StateStore
        from tools.benchmarks.ours import Training

        training = Training(self.config)
        tree = training.state.to_tree()
        saving, resuming = [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:

                def save(folder: str = folder) -> None:
                    with StateStore(Path(folder)) as store:
                        store.save(tree, {})

                def resume(folder: str = folder) -> None:
                    with StateStore(Path(folder), read_only=True) as store:
                        store.restore(training.program.abstract_state().to_tree())

                saving.append(timed(save))
                resuming.append(timed(resume))
        import jax

        size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        return {"save": least(saving), "resume": least(resuming), "mib": size / 2**20}

    def _evaluation(self, rounds: int) -> dict[str, float]:
        from slt_jax.synthetic.generator import generate
        from tools.benchmarks.learning import command

        with tempfile.TemporaryDirectory() as folder:
            corpus, run, config = (Path(folder, name) for name in ("corpus", "run", "config.json"))
            generate(corpus, num_train=self.config.data.batch_size, num_val=1, num_test=self.size, level="small",
                     image_size=self.config.model.image_size, workers=0, progress=False)  # fmt: skip
            model = dataclasses.replace(self.config.model, vocab_size=None)  # that of a tokenizer of these texts
            write_json(config, dataclasses.asdict(dataclasses.replace(self.config, model=model)))
            root = ["--root", str(corpus)]
            command("train", ["--config", str(config), *root, "--work-dir", str(run), "--max-steps", "1"], quiet=True)
            clips = ["--eval-index", str(corpus / "index" / "test.csv"), "--output-csv", str(run / "test.csv")]
            flags = ["--checkpoint", str(run / "last.pt"), *root, *clips]
            seconds = [timed(lambda: command("evaluate", flags, quiet=True)) for _ in range(min(rounds, 2))]
        return {"evaluation": least(seconds), "mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10}

    def _translations(self, rounds: int) -> dict[str, float]:
        from slt_jax.evaluation.report import checkpoint_report

        draw = random.Random(0)
        texts = [" ".join(draw.choices(WORDS, k=9)) for _ in range(2 * self.size)]
        found = [Prediction(str(number), texts[2 * number], texts[2 * number + 1], 1.0, 50.0)
                 for number in range(self.size)]  # fmt: skip
        seconds = least([timed(lambda: checkpoint_report(found)) for _ in range(min(rounds, 2))])
        return {"scores": seconds, "mib": peak_kib() / 2**10}


def least(seconds: Sequence[Seconds]) -> float:
    """By the clock."""
    return min(one.wall for one in seconds)


def as_text(rows: Mapping[int, Row], size: int) -> str:
    """A row for people. In brackets: by what it grew where the work doubled, 2 in proportion, less below that."""
    before = max((other for other in rows if other < size), default=None)
    parts = []
    for name, value in rows[size].items():
        text = f"{value:,.0f} MiB" if name == "mib" else f"{name} {1e3 * value:,.1f} ms"
        if before is not None:
            growth = math.log(value / rows[before][name]) / math.log(size / before)
            text += f" ({2**growth:.2f})"
        parts.append(text)
    return ", ".join(parts)


def plot(results: Mapping[str, Mapping[int, Row]], path: Path) -> None:
    """A panel each, both axes logarithmic; a dotted line is what grows in proportion."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    columns = min(3, len(results))
    lines = -(-len(results) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.7 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for (name, rows), panel in zip(results.items(), panels, strict=False):
        sizes = list(rows)
        for quantity in (quantity for quantity in rows[sizes[0]] if quantity != "mib"):
            values = [rows[size][quantity] for size in sizes]
            panel.plot(sizes, values, marker="o", markersize=3, label=quantity)
            panel.plot(sizes, [values[-1] * size / sizes[-1] for size in sizes], ":", color="grey", linewidth=1)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.minorticks_off()
        panel.set_xticks(sizes, [f"{size:,}" if size < 10_000 else f"{size // 1000}k" for size in sizes])
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_xlabel(name, fontsize=8)
        panel.set_ylabel("seconds", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=7, frameon=False)
    for panel in list(panels):
        panel.set_axis_off()
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)
