"""What is measured: a model of given sizes at random weights, and a batch of made-up clips. Neither JAX nor torch."""

import argparse
import dataclasses

import numpy as np

from slt_jax.cli import flags
from slt_jax.config import Config
from slt_jax.data.text import IGNORE, VOCABULARY
from slt_jax.errors import UserError

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
    streams = ("face_backbone", "hand_left_backbone", "hand_right_backbone") if model.backbone is None else ()
    named = {key: getattr(model, key) or RANDOM for key in streams}
    vocabulary = model.vocab_size
    if vocabulary is None and not (model.decoder_model or model.decoder_config):
        vocabulary = VOCABULARY
    return dataclasses.replace(config, model=dataclasses.replace(model, vocab_size=vocabulary, **named))


def raw_batch(config: Config, vocabulary: int, rows: int) -> dict[str, np.ndarray]:
    """Clips as the loader brings them: the same in every process.

    face, hand_l, hand_r uint8 (B, T, H, W, 3); pose float32 (B, T, 3L); masks bool; labels int32 (B, S), -100 = ignore.
    Targets end after a quarter to all of the S = data.max_target_length tokens. Nothing is flipped.
    """
    rng = np.random.default_rng(0)
    frames, side, landmarks = config.model.sequence_length, config.model.image_size, config.model.pose_landmarks
    length = config.data.max_target_length
    batch = {
        stream: rng.integers(0, 256, (rows, frames, side, side, 3), np.uint8) for stream in ("face", "hand_l", "hand_r")
    }
    batch["pose"] = rng.random((rows, frames, 3 * landmarks), np.float32)
    batch["pad_mask"] = np.arange(frames) < rng.integers(-(-frames // 2), frames + 1, (rows, 1))
    batch |= {name: rng.random((rows, frames)) < 0.1 for name in ("miss_mask_hl", "miss_mask_hr")}
    batch["pose_conf_mask"] = rng.random((rows, frames, landmarks)) < 0.9
    batch |= {"flip": np.zeros(rows, bool), "valid": np.ones(rows, bool)}
    labels = rng.integers(3, vocabulary, (rows, length), np.int32)
    ends = rng.integers(-(-length // 4), length + 1, (rows, 1))
    batch["labels"] = np.where(np.arange(length) < ends, labels, IGNORE)
    return batch
