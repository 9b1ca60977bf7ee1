"""Clips a second that one core reads, decodes and batches, and how many in v9's way."""

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.cli import flags
from slt_jax.config import Config
from slt_jax.data.corpus_folder import PLACES
from slt_jax.errors import UserError
from slt_jax.streams import IMAGES, MASKED, POSE
from tools.benchmarks import opening
from tools.benchmarks.problem import add_config_flags, positive
from tools.benchmarks.processes import Side
from tools.benchmarks.timing import Seconds, alternate, as_text, now, ratios, summary

IMAGE_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
IMAGE_STD = np.array((0.229, 0.224, 0.225), np.float32)


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument(
        "--against",
        choices=("v9",),
        default=None,
        help="also v9's way: Pillow, float32 normalisation and stacking on the host",
    )
    top.add_argument(
        "--clips",
        type=positive,
        default=12,
        metavar="N",
        help="clips to generate where neither --root nor folders are given (default: 12)",
    )
    top.add_argument(
        "--open",
        type=positive,
        default=None,
        metavar="N",
        help="instead, the time and memory of opening a split of N generated clips in a pack",
    )
    top.add_argument("--rounds", type=positive, default=7, metavar="N", help="epochs of each side (default: 7)")
    flags.add_root_flag(top, flags.ROOT_KEYS)
    add_config_flags(top)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.open:
        return opening.measure(arguments.open, arguments.threads)
    config, _ = flags.configure(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if POSE.folder(config.data) is None:
            config = with_corpus(config, Path(folder, "corpus"), arguments.clips)
        # Read as for validation: every clip's same frames in every epoch, on both sides.
        config = dataclasses.replace(
            config,
            data=dataclasses.replace(
                config.data,
                val_index=config.data.train_index,
                val_batch_size=config.data.batch_size,
                num_workers=0,
                buckets=None,
            ),
        )
        cores = arguments.threads or 1
        sides = {"ours": Side("ours", Ours, config, folder, cores=cores)}
        if arguments.against:
            sides["v9"] = Side("v9", V9, config, folder, cores=cores, foreign=True)
        try:
            facts = sides["ours"].call("facts")
            if arguments.against and not (same := sides["v9"].call("difference")) < 1e-5:
                raise UserError(f"v9 reads something else: values differ by up to {same}")
            for side in sides.values():
                side.call("epoch")  # the files are in the cache of the system for all that follow
            taken = alternate({name: partial(side.call, "epoch") for name, side in sides.items()}, arguments.rounds)
        finally:
            for side in sides.values():
                side.close()
    results = {name: rates(seconds, facts) for name, seconds in taken.items()}
    if arguments.against:
        results["v9"]["times_ours"] = ratios(results["ours"]["seconds"], results["v9"]["seconds"])
    report(config, facts, results, cores)
    return {"facts": facts | {"cores": cores}, "results": results}


def with_corpus(config: Config, corpus: Path, clips: int) -> Config:
    """The configuration on generated clips of as many frames as it shows of one."""
    from slt_jax.synthetic.generator import generate

    frames = config.model.sequence_length
    generate(
        corpus,
        num_train=clips,
        num_val=0,
        num_test=0,
        frames=(frames, frames),
        image_size=config.model.image_size,
        progress=False,
    )
    paths: dict[str, Any] = {key: str(corpus / PLACES[key]) for key in flags.ROOT_KEYS}
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **paths))


def rates(seconds: list[Seconds], facts: dict[str, Any]) -> dict[str, Any]:
    """Clips and images per second by the clock, and images per second of CPU time."""
    times = summary(seconds)
    return {
        "seconds": times,
        "clips_per_second": facts["clips"] / times["median"],
        "images_per_second": facts["images"] / times["median"],
        "images_per_cpu_second": facts["images"] / times["cpu"],
    }


def report(config: Config, facts: dict[str, Any], results: dict[str, dict], cores: int) -> None:
    print(
        f"after the first batch, {facts['clips']} clips of {config.model.sequence_length} frames, {facts['images']} "
        f"images decoded to {config.model.image_size} px, B {config.data.batch_size}; "
        f"{cores} core{'s' if cores > 1 else ''}"
    )
    for name, result in results.items():
        print(
            f"{name}: {as_text(result['seconds'])} an epoch; {result['clips_per_second']:,.2f} clips/s, "
            f"{result['images_per_second']:,.0f} images/s, {result['images_per_cpu_second']:,.0f} a second of CPU time"
        )
        if times := result.get("times_ours"):
            print(f"  {name} / ours: " + ", ".join(f"{what} {ratio:.2f}" for what, ratio in times.items()))


class Ours:
    """The loader of training."""

    def __init__(self, config: Config, folder: str):
        from slt_jax.data.splits import open_splits

        self.config = config
        self.loader = open_splits(config, Path(folder, "tokenizer")).val

    def facts(self) -> dict[str, int]:
        """How many clips are timed, and how many images of them are decoded."""
        clips = images = 0
        for batch in list(self.loader.epoch())[1:]:
            real = batch.arrays["pad_mask"] & batch.arrays["valid"][:, None]
            clips += int(batch.arrays["valid"].sum())
            for stream in IMAGES:
                images += int((real & ~batch.arrays[stream.mask]).sum() if stream.mask else real.sum())
        if not clips:
            raise UserError(f"--batch-size {self.config.data.batch_size} takes all clips at once; use a smaller one")
        return {"clips": clips, "images": images}

    def epoch(self) -> Seconds:
        """From the first batch to the last; the loader works ahead, so only between batches is a batch's time."""
        times = [now() for _ in self._batches()]
        self.loader.close()
        return times[-1] - times[0]

    def _batches(self) -> Iterator:
        return self.loader.epoch()


class V9(Ours):
    """The same clips as v9's dataset and collate function make a batch of them; the model's inputs are float32."""

    def difference(self) -> float:
        """The largest difference of the first batch from ours, normalised."""
        theirs = next(self._batches())
        ours = {name: array[: len(theirs["face"])] for name, array in next(self.loader.epoch()).arrays.items()}
        if any((theirs[stream.mask] != ours[stream.mask]).any() for stream in MASKED):
            return float("inf")
        for stream in IMAGES:
            images = (ours[stream.name] / np.float32(255) - IMAGE_MEAN) / IMAGE_STD
            if stream.mask:
                images[ours[stream.mask]] = 0
            ours[stream.name] = images.transpose(0, 1, 4, 2, 3)
        return max(float(np.abs(theirs[stream.name] - ours[stream.name]).max()) for stream in (*IMAGES, POSE))

    def _batches(self) -> Iterator[dict[str, np.ndarray]]:
        clips, size = self.loader.clips, self.config.data.batch_size
        for start in range(0, len(clips), size):
            rows = [self._clip(clip.video_id) for clip in clips[start : start + size]]
            yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _clip(self, video_id: str) -> dict[str, np.ndarray]:
        data, length, side = self.config.data, self.config.model.sequence_length, self.config.model.image_size
        with np.load(Path(POSE.folder(data) or "", f"{video_id}.npz")) as archive:
            pose = np.asarray(archive["pose"], np.float32)
        stride = -(-len(pose) // length)
        shown = np.arange((len(pose) - 1) % stride // 2, len(pose), stride)
        shown = np.concatenate([shown, np.repeat(shown[-1:], length - len(shown))])
        row = {"pose": pose[shown]}
        for stream in IMAGES:
            paths = [Path(stream.folder(data) or "", f"{video_id}_f{frame:06d}.jpg") for frame in shown]
            images = [v9_image(path, side) if path.exists() else None for path in paths]
            blank = np.zeros((3, side, side), np.float32)
            row[stream.name] = np.stack([blank if image is None else image for image in images])
            if stream.mask:
                row[stream.mask] = np.array([image is None for image in images])
        return row


def v9_image(path: Path, side: int) -> np.ndarray:
    """float32 (3, H, W), normalised."""
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((side, side)), np.float32) / 255
    return ((pixels - IMAGE_MEAN) / IMAGE_STD).transpose(2, 0, 1)
