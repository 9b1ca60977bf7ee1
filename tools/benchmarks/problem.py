"""What is measured: a model of given sizes at random weights, and a batch of made-up clips. Neither JAX nor torch."""

import argparse
import dataclasses
from typing import Any

import numpy as np

from slt_jax.cli import flags
from slt_jax.config import Config
from slt_jax.data.schema import PAD_MASK, full_sizes, shapes
from slt_jax.data.text import IGNORE, VOCABULARY
from slt_jax.errors import UserError
from slt_jax.streams import IMAGES, MASKED, POSE

RANDOM = "torchhub::dinov2_vits14:random"


def positive(text: str) -> int:
    """The value of a flag that counts something."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def add_config_flags(top: argparse.ArgumentParser) -> None:
    """Every flag of the configuration, and `--frames` for the length of its clips."""
    top.add_argument(
        "--frames", type=int, dest="model.sequence_length", metavar="INT", help="frames of a clip: --sequence-length"
    )
    flags.add_config_flags(top)


def problem(arguments: argparse.Namespace) -> Config:
    """The configuration, with random backbones and a vocabulary where it names none: nothing is downloaded."""
    config, _ = flags.configure(arguments)
    model = config.model
    if model.decoder_class:
        raise UserError("--decoder-class: a class of one's own has no torch model to be compared with; leave it out")
    streams = IMAGES if model.backbone is None else ()
    named: dict[str, Any] = {stream.backbone_key: stream.backbone_spec(model) or RANDOM for stream in streams}
    vocabulary = model.vocab_size
    if vocabulary is None and not (model.decoder_model or model.decoder_config):
        vocabulary = VOCABULARY
    return dataclasses.replace(config, model=dataclasses.replace(model, vocab_size=vocabulary, **named))


def raw_batch(config: Config, vocabulary: int, rows: int) -> dict[str, np.ndarray]:
    """Clips as the loader brings them: the same in every process.

    Names, shapes and types are those of slt_jax.data.schema. Targets end after a quarter to all of the S =
    data.max_target_length tokens. Nothing is flipped.
    """
    rng = np.random.default_rng(0)
    shape = {name: shape for name, (shape, _) in shapes(full_sizes(config, rows)).items()}
    rows, frames = shape[PAD_MASK]
    _, length = shape["labels"]
    batch = {stream.name: rng.integers(0, 256, shape[stream.name], np.uint8) for stream in IMAGES}
    batch[POSE.name] = rng.random(shape[POSE.name], np.float32)
    batch[PAD_MASK] = np.arange(frames) < rng.integers(-(-frames // 2), frames + 1, (rows, 1))
    batch |= {stream.mask: rng.random(shape[stream.mask]) < 0.1 for stream in MASKED}
    batch[POSE.mask] = rng.random(shape[POSE.mask]) < 0.9
    batch |= {"flip": np.zeros(rows, bool), "valid": np.ones(rows, bool)}
    labels = rng.integers(3, vocabulary, (rows, length), np.int32)
    ends = rng.integers(-(-length // 4), length + 1, (rows, 1))
    batch["labels"] = np.where(np.arange(length) < ends, labels, IGNORE)
    return batch
