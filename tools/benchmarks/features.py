"""Epochs of training from features of frozen backbones, and from images."""

import argparse
import dataclasses
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.config import Config
from slt_jax.data.clip_files import scan
from slt_jax.data.corpus_folder import folders_under
from slt_jax.data.loader import Loader, LoaderSettings
from slt_jax.streams import IMAGES
from tools.benchmarks.packs import write_corpus
from tools.benchmarks.problem import add_config_flags, positive, problem
from tools.benchmarks.timing import alternate, as_text, now, ratios, summary, timed


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument("--clips", type=positive, default=8, metavar="N", help="clips of an epoch (default: 8)")
    top.add_argument("--rounds", type=positive, default=3, metavar="N", help="epochs of each side (default: 3)")
    add_config_flags(top)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    config = problem(arguments)
    frozen: dict[str, Any] = {stream.freeze_key: True for stream in IMAGES}
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, feature_cache="auto"),
        model=dataclasses.replace(config.model, **frozen),
    )
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Path(folder), config, arguments)


def _measure(folder: Path, config: Config, arguments: argparse.Namespace) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from slt_jax.runtime.sharding import place_batch
    from slt_jax.training.feature_pass import read_from_cache
    from tools.benchmarks.ours import Training, device_facts

    training = Training(config)
    loaders = corpus(folder, config, arguments.clips, training.vocabulary)
    program = training.program
    start = now()
    read_from_cache(
        config,
        folder / "features",
        program.structure,
        training.state,
        program.layout,
        [loaders["features"]],
        lambda: False,
    )
    computing = now() - start

    def epoch(loader: Loader) -> None:
        """An epoch of training: batches are read, placed and trained on."""
        for batch in loader.epoch():
            placed = [place_batch(batch.arrays, training.mesh)]
            training.state, _ = program.step(training.state, placed, jnp.float32(config.optim.lr))
        jax.block_until_ready(training.state)
        loader.close()  # else the next epoch's first batches are read already

    turns = {name: partial(epoch, loader) for name, loader in loaders.items()}
    for turn in turns.values():
        turn()
    taken = alternate({name: partial(timed, turn) for name, turn in turns.items()}, arguments.rounds)
    seconds = {name: summary([one / arguments.clips for one in times]) for name, times in taken.items()}
    results = {
        "seconds_per_clip": seconds,
        "clips_per_second": {name: 1 / one["median"] for name, one in seconds.items()},
        "images_over_features": ratios(seconds["features"], seconds["images"]),
        "computing_seconds_per_clip": dataclasses.asdict(computing / arguments.clips),
    }
    report(config, results)
    return {"facts": device_facts(), "results": results}


def corpus(folder: Path, config: Config, count: int, vocabulary: int) -> dict[str, Loader]:
    """Loaders of the same made-up clips, one for each side."""
    length = config.model.sequence_length
    clips = write_corpus(folder / "clips", count, length, config.model.image_size)
    files = scan(folders_under(folder / "clips"), [clip.video_id for clip in clips])
    labels = np.random.default_rng(0).integers(3, vocabulary, (count, config.data.max_target_length), np.int32)
    settings = LoaderSettings(
        batch_size=config.data.batch_size,
        sequence_length=length,
        image_size=config.model.image_size,
        num_landmarks=config.model.pose_landmarks,
        train=True,
        flip_probability=config.data.flip_probability,
    )
    return {side: Loader(clips, files, labels, settings) for side in ("images", "features")}


def report(config: Config, results: dict[str, Any]) -> None:
    data, model, computing = config.data, config.model, results["computing_seconds_per_clip"]
    print(f"B {data.batch_size}, T {model.sequence_length}, {model.image_size} px, {data.precision}; a clip:")
    for side, seconds in results["seconds_per_clip"].items():
        print(f"  {side:8s} {as_text(seconds)}; {results['clips_per_second'][side]:,.2f} clips/s")
    print("  images / features: " + ", ".join(f"{k} {v:.1f}" for k, v in results["images_over_features"].items()))
    print(f"  once, to compute its features and compile: {computing['wall']:,.2f} s, CPU {computing['cpu']:,.2f} s")
