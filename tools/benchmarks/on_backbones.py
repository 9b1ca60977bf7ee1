"""From pre-trained backbones to a translator that starts on them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convert.torch_file import read_pt, write_pt
from slt_jax.cli.pretrain import main
from slt_jax.errors import UserError
from slt_jax.streams import BY_NAME


def sizes(output: Path) -> dict[str, Any]:
    """`model.backbone` and `model.image_size` of a translator on the backbone of a pre-training run."""
    params = json.loads((output / "params.json").read_text(encoding="utf-8"))
    side = params["augmentation"]["image_size"]
    return {"model.backbone": {**params["vit"], "image_size": side}, "model.image_size": side}


def start_on(backbones: Mapping[str, Path], target: Path) -> Path:
    """A checkpoint for `--init-checkpoint` that holds these backbones, by the names of their streams, and no more."""
    state = {
        f"encoder.{BY_NAME[stream].backbone}.{key}": array
        for stream, path in backbones.items()
        for key, array in read_pt(path, mmap=False).items()
    }
    write_pt(target, {"model_state": state})
    return target


def pretrain(output: Path, words: Sequence[str]) -> None:
    """A run of `slt-pretrain`, which goes on where an earlier one was stopped. Raises UserError if it fails."""
    resume = ["--resume", str(output)] if (output / "params.json").is_file() else []
    if main(["--output-dir", str(output), *words, *resume]):
        raise UserError(f"the run in {output} failed; it has said why")
