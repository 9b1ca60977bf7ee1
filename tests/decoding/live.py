"""A small translator of random weights, and somebody who signs to it."""

from pathlib import Path

import numpy as np

import slt_jax
from convert import write_pt
from convert.checkpoint import plan_model
from convert.state_dict import to_state
from slt_jax.config import build_config
from slt_jax.data.landmarks import names
from slt_jax.data.text import train_tokenizer
from slt_jax.training.start import fresh_params

LENGTH = 12  # frames that the model takes
FPS = 10.0
MODEL = {
    "image_size": 28, "projector_dim": 16, "d_model": 32, "sequence_length": LENGTH, "temporal_nhead": 4,
    "temporal_layers": 1, "temporal_dim_feedforward": 32, "decoder_layers": 1, "decoder_heads": 4,
    "backbone": {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 14, "image_size": 28},
}  # fmt: skip
TEXTS = ["uno dos tres cuatro", "¿qué está mal?", "la casa es grande", "no hay agua"]


def save(folder: Path, **model) -> Path:
    """A run with its tokenizer; its texts have at most 8 tokens, its random ones say something about the frames."""
    tokenizer = train_tokenizer(TEXTS, folder / "tokenizer")
    config = build_config(
        {"model": MODEL | model | {"vocab_size": tokenizer.vocab_size}, "data": {"max_target_length": 8}}
    )
    plan = plan_model(config.model)
    _, entries = plan.structure()
    params = {path: 3 * np.asarray(array) for path, array in fresh_params(plan, entries, 0).items()}
    params["encoder.positional.embedding.embedding"] /= 50
    write_pt(folder / "best.pt", {"model_state": to_state(params, entries), "config": config.to_dict()})
    return folder / "best.pt"


def load(folder: Path, **model) -> slt_jax.Translator:
    return slt_jax.load(save(folder, **model))


def signing(frames: int, *, seed: int = 0, rests: tuple[range, ...] = ()) -> dict[str, np.ndarray]:
    """Frames of hands that move fast, but for those in `rests`."""
    rng = np.random.default_rng(seed)
    arrays = {name: rng.integers(0, 256, (frames, 28, 28, 3), np.uint8) for name in ("face", "hand_l", "hand_r")}
    points = list(names("upper13"))
    pose = np.full((frames, 13, 3), 0.5, np.float32)
    pose[:, :, 2] = 1.0
    pose[:, points.index("left_shoulder"), 0] = 0.6
    pose[:, points.index("right_shoulder"), 0] = 0.4
    moves = np.array([not any(frame in rest for rest in rests) for frame in range(frames)])
    pose[:, points.index("left_wrist"), 1] = 0.4 + 0.2 * (np.cumsum(moves) % 2)
    missing = {name: rng.random(frames) < 0.2 for name in ("miss_mask_hl", "miss_mask_hr")}
    return arrays | {"pose": pose.reshape(frames, -1), "pose_conf_mask": rng.random((frames, 13)) < 0.9} | missing


def part(frames: dict[str, np.ndarray], first: int, end: int | None = None) -> dict[str, np.ndarray]:
    return {name: array[first:end] for name, array in frames.items()}
