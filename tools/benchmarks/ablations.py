"""What the learning benchmark trains: the whole model, and models that lack or change one thing."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from convert.torch_file import read_pt, write_pt
from slt_jax.cli.flags import flag_of
from slt_jax.streams import IMAGES, STREAMS

BACKBONES = tuple(stream.backbone for stream in IMAGES)
FROZEN = tuple(flag_of(stream.freeze_key) for stream in IMAGES)


@dataclass(frozen=True)
class Variant:
    """One way to train: further flags, the stream that shows nothing, and the variants whose weights it needs."""

    name: str
    flags: tuple[str, ...] = ()
    blank: str | None = None
    backbones_of: str | None = None
    begins_with: str | None = None
    taught_by: str | None = None
    seed: int = 1


def variants(seeds: int) -> list[Variant]:
    """In the order in which they are trained; a variant follows those it needs."""
    whole = [Variant(f"complete, seed {seed}", seed=seed) for seed in range(1, seeds + 1)]
    return [
        *whole,
        *(Variant(f"without {stream.title}", blank=stream.name) for stream in STREAMS),
        *(Variant(f"{stream.title} of other clips", ("--mix-stream", stream.name)) for stream in STREAMS),
        Variant("v9's hand masks", ("--v9-hand-masks",)),
        Variant("random backbones, frozen", FROZEN),
        Variant("trained backbones, frozen", FROZEN, backbones_of=whole[-1].name),
        Variant("bfloat16", ("--precision", "amp")),
    ]


def blanked(stream: str, corpus: Path, folder: Path) -> Path:
    """A copy of a stream that shows nothing: black crops where there are crops, poses of zeros."""
    there = folder / stream
    if there.is_dir():
        return there
    partial = folder / f".{stream}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if stream == "pose":
        for path in sorted((corpus / stream).iterdir()):
            with np.load(path) as archive:
                arrays = dict(archive)
            np.savez(partial / path.name, **(arrays | {"pose": np.zeros_like(arrays["pose"])}))
    else:
        crops = sorted((corpus / stream).iterdir())
        black = folder / f".{stream}.jpg"
        black.write_bytes(simplejpeg.encode_jpeg(np.zeros_like(simplejpeg.decode_jpeg(crops[0].read_bytes()))))
        for number, path in enumerate(crops):
            if number % 30_000 == 0:  # a file takes only so many names
                one = partial / path.name
                shutil.copyfile(black, one)
            else:
                os.link(one, partial / path.name)
        black.unlink()
    partial.rename(there)
    return there


def backbones_alone(checkpoint: Path, target: Path) -> Path:
    """The backbones of a checkpoint as one of their own, for `--init-checkpoint`."""
    saved = read_pt(checkpoint)
    state = {key: value for key, value in saved["model_state"].items() if key.split(".")[1] in BACKBONES}
    write_pt(target, {"model_state": state, "config": saved["config"]})
    return target


def averaged(checkpoint: Path) -> Path:
    """The averaged weights that a checkpoint of `--ema` holds, as one of their own; else the checkpoint itself."""
    saved = read_pt(checkpoint)
    if "ema_state" not in saved:
        return checkpoint
    target = checkpoint.with_name("averaged.pt")
    rest = {key: value for key, value in saved.items() if not key.endswith("_state")}
    write_pt(target, {"model_state": saved["model_state"] | saved["ema_state"], **rest})  # what stands still has none
    return target


def needed(chosen: Sequence[str], every: Sequence[Variant]) -> list[Variant]:
    """The variants that begin with one of `chosen` and those whose weights they take; all where none is named."""
    asked = [v for v in every if not chosen or any(v.name.startswith(name) for name in chosen)]
    sources = {name for v in asked for name in (v.backbones_of, v.begins_with, v.taught_by)}
    return [v for v in every if v in asked or v.name in sources]
