"""Where a corpus in the usual layout (docs/data.md) keeps what training reads."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from slt_jax.errors import UserError
from slt_jax.streams import STREAMS

SPLITS = ("train", "val", "test")
INDICES = {f"{split}_index": f"index/{split}.csv" for split in SPLITS}
# The place of what a key of section `data` names.
FOLDERS = {stream.folder_key: stream.name for stream in STREAMS}
PLACES = {**FOLDERS, "metadata_csv": "meta.csv", **INDICES}

StreamFolders = Mapping[str, str | Path]  # of each stream, by its name


def folder_keys(streams: Sequence[str] | None) -> dict[str, str]:
    """`FOLDERS` of the streams of these names; of all for None."""
    return {key: name for key, name in FOLDERS.items() if streams is None or name in streams}


def folders_under(root: str | Path) -> dict[str, Path]:
    """The folder of each stream in the corpus `root`."""
    return {stream.name: Path(root) / stream.name for stream in STREAMS}


def by_stream(paths: Mapping[str, str | Path]) -> dict[str, str | Path]:
    """The folder of each stream that is there from paths by key: {"hand_left_dir": path} -> {"hand_l": path}."""
    return {place: paths[key] for key, place in FOLDERS.items() if key in paths}


def check_folders(folders: StreamFolders, streams: Sequence[str] | None = None) -> None:
    """Raise UserError that names the flag if a folder of `streams` (None: of all) is not given or does not exist."""
    for key, stream in folder_keys(streams).items():
        path, flag = folders.get(stream), "--" + key.replace("_", "-")
        if not path:
            raise UserError(f"{flag} is not given")
        if not os.path.isdir(path):
            raise UserError(f"{flag} {path}: no such directory")
