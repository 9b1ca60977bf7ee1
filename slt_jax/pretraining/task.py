"""Pre-training, the second task: from crops to a backbone, without labels."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from convert.state_dict import Entry, to_state
from convert.torch_file import read_pt, write_pt
from slt_jax.base.console import say
from slt_jax.base.files import copy_file, write_json
from slt_jax.config import TrainingConfig
from slt_jax.pretraining.crop_batches import CropBatch, CropBatches
from slt_jax.pretraining.crops import Crops
from slt_jax.pretraining.knn import Labelled, effective_rank, in_batches, knn_accuracy
from slt_jax.pretraining.program import Schedules
from slt_jax.pretraining.settings import PretrainConfig
from slt_jax.runtime import hosts
from slt_jax.runtime.sharding import place_batch
from slt_jax.training.ledger import TrainingStopped
from slt_jax.training.metrics import Totals
from slt_jax.training.position import Position, Taken
from slt_jax.training.program import Program
from slt_jax.training.state import TrainState
from slt_jax.training.state_store import is_sound
from slt_jax.training.task import Evaluation, Task
from slt_jax.training.workdir import WorkDir

BACKBONE = "backbone.pt"
RANKED = 512  # crops whose features' rank is told, where no pictures are labelled
COLLAPSED = 0.999  # of the teacher's entropy, as a share of the greatest that there can be


@dataclass
class Pretraining(Task):
    """Crops, a program, and perhaps labelled pictures by which features are judged."""

    program: Program
    training: TrainingConfig
    batch_size: int
    config: PretrainConfig
    crops: Crops
    loader: CropBatches
    entries: list[Entry]
    schedules: Schedules
    labelled: Labelled | None = None

    samples = "crops"

    @property
    def log_interval(self) -> int:  # type: ignore[override]
        """Steps between two points in TensorBoard."""
        return self.config.run.log_interval

    def batches_left(self, epoch: int, taken: Taken) -> int:
        """How many `batches` there are."""
        return self.loader.batches_left(epoch, taken)

    def batches(self, epoch: int, taken: Taken) -> Iterator[CropBatch]:
        """The batches of crops that are left."""
        return self.loader.batches(epoch, taken)

    def learning_rate(self, epoch: int, step: int) -> float:
        """The rate at a step, by the schedule."""
        return self.schedules.learning_rate(step)

    def training_metrics(self, totals: Totals) -> dict[str, float]:
        """The losses and entropies of an epoch. Raises TrainingStopped if the teacher sees the same in all pictures."""
        found = totals.mean_metrics
        most = math.log(self.config.loss.out_dim)
        if found["teacher_entropy"] > COLLAPSED * most or found["teacher_mean_entropy"] < (1 - COLLAPSED) * most:
            raise TrainingStopped(
                f"the teacher has collapsed: its entropy is {found['teacher_entropy']:.4f} of at most {most:.4f}, that "
                f"of its mean {found['teacher_mean_entropy']:.4f}; the last saved state is intact. Try a lower "
                f"--learning-rate or --teacher-temp, or --centering sinkhorn_knopp"
            )
        return {"train_loss": totals.mean_loss, **found}

    # --- judging ------------------------------------------------------------------------------------------------------

    def evaluate(self, state: TrainState, epoch: int, stopped: Callable[[], bool]) -> Evaluation:
        """k-NN accuracy and effective rank of the teacher's features."""
        every = self.config.run.knn_every
        if self.labelled is None:
            features = self.features(state, self.ranked)
            return Evaluation(None, metrics={"feature_rank": effective_rank(features)})
        if (epoch + 1) % every and epoch + 1 != self.training.epochs:
            return Evaluation(None)
        features = self.features(state, self.labelled.images)
        accuracy = knn_accuracy(features, self.labelled, self.config.run.knn_k)
        metrics = {"knn_accuracy": accuracy, "feature_rank": effective_rank(features)}
        return Evaluation(None, {"knn": accuracy}, metrics)

    @functools.cached_property
    def ranked(self) -> np.ndarray:
        """The crops whose features' rank is told, uint8 (N, S, S, 3)."""
        return spread(self.crops, RANKED, self.config.augmentation.image_size)

    def features(self, state: TrainState, images: np.ndarray) -> np.ndarray:
        """The teacher's features (N, d) of pictures, uint8."""
        mesh, rows = self.program.mesh, self.batch_size // hosts.count()
        start = jax.process_index() * rows

        def encode(batch: np.ndarray) -> np.ndarray:
            placed = place_batch({"images": batch[start : start + rows]}, mesh)
            return hosts.fetch(self.program.evaluate(state.teacher["params"], placed)["features"])

        return in_batches(encode, images, self.batch_size)

    # --- files --------------------------------------------------------------------------------------------------------

    def export(self, state: TrainState, position: Position, workdir: WorkDir) -> None:
        """The checkpoints, and the teacher's backbone: the best where pictures are labelled, else the last."""
        host = hosts.fetch({"student": state.params, "teacher": state.teacher["params"]})
        if not hosts.primary():
            return
        weights = {name: to_state(params, self.entries) for name, params in host.items()}
        record = {"epoch": position.epoch, "metrics": position.record, "config": dataclasses.asdict(self.config)}
        write_pt(workdir.last, {**record, **weights})
        if position.is_best:
            copy_file(workdir.last, workdir.best)
        teacher, paths = weights["teacher"], self.exported(workdir)
        if self.labelled is not None and position.best_epoch and not position.is_best:  # an earlier epoch's is there
            paths = [path for path in paths if not is_sound(path)] if is_sound(workdir.best) else []
            teacher = read_pt(workdir.best, mmap=False)["teacher"] if paths else {}
        prefix = "backbone."
        backbone = {key.removeprefix(prefix): array for key, array in teacher.items() if key.startswith(prefix)}
        for path in paths:
            write_pt(path, backbone)
        exports = [str(path) for path in self.exported(workdir)]
        checkpoints = {"last": str(workdir.last), "best": str(workdir.best)}
        write_json(workdir.path / "artifacts.json", {"checkpoints": checkpoints, "exports": {"backbone": exports}})

    def exported(self, workdir: WorkDir) -> list[Path]:
        """Where the backbone goes."""
        asked = self.config.run.export_backbone
        return [workdir.path / BACKBONE, *([Path(asked)] if asked else [])]

    def damaged(self, workdir: WorkDir) -> list[Path]:
        """The checkpoints and backbones that cannot be read."""
        return [path for path in (workdir.last, workdir.best, *self.exported(workdir)) if not is_sound(path)]

    def notes(self, position: Position) -> dict[str, Any]:
        """The position, the configuration, and which crops there are."""
        return {
            "position": dataclasses.asdict(position),
            "pretraining": dataclasses.asdict(self.config),
            "crops": len(self.crops),
            "crop_names": self.crops.fingerprint(),
        }

    def summary(self, record: Mapping[str, Any], best: bool) -> str:
        """Losses, k-NN and speed of an epoch in one line."""
        parts = ", ".join(
            f"{name} {record[f'{name}_loss']:.4f}" for name in ("dino", "patch", "koleo") if f"{name}_loss" in record
        )
        judged = f"k-NN {record['knn_accuracy']:.1%}, " if "knn_accuracy" in record else ""
        rank = f"rank {record['feature_rank']:.1f}, " if "feature_rank" in record else ""
        loss = f"loss {record['train_loss']:.4f}{' (best)' * best} ({parts})"
        return (
            f"epoch {record['epoch']}/{self.training.epochs}: {loss}, "
            f"teacher's entropy {record['teacher_entropy']:.3f}, {judged}{rank}lr {record['lr']:.3g}, "
            f"{record['crops_per_second']:.0f} crops/s, {record['seconds']:.0f} s"
        )

    def finish(self, state: TrainState, evaluation: Evaluation, stopped: Callable[[], bool]) -> None:
        """Say how a translator takes the backbone."""
        flag = "--face-backbone" if self.config.run.stream == "face" else "--hand-right-backbone"
        say(f"a translator takes it as {flag} file::{Path(str(self.config.run.output_dir)) / BACKBONE}")


def spread(crops: Crops, count: int, size: int) -> np.ndarray:
    """At most `count` crops from everywhere, uint8 (N, size, size, 3)."""
    chosen = np.unique(np.linspace(0, len(crops) - 1, min(count, len(crops))).round().astype(int)).tolist()
    images = np.empty((len(chosen), size, size, 3), np.uint8)
    for number, image in zip(chosen, images, strict=True):
        crops.decode(number, image)
    return images
