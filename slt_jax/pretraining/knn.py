"""How good features are without training anything: k-NN on labelled pictures, and how many dimensions they use."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slt_jax.data.decode import IMAGE_ERRORS, decode_into
from slt_jax.data.regular import read_regular
from slt_jax.data.tables import count, find_delimiter, read_rows
from slt_jax.errors import UserError, shown

COLUMNS = ("file", "label", "group")
TEMPERATURE = 0.07  # of the neighbours' votes, as in DINO
BLOCK = 1024  # pictures compared with all others at a time


@dataclass(frozen=True)
class Labelled:
    """Pictures, uint8 (N, S, S, 3), with what they show and of whom they are."""

    images: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    queries: np.ndarray  # bool: those that are classified; the others are neighbours only


def read_labelled(index: str | Path, folder: str | Path | None, size: int) -> Labelled:
    """The pictures of a CSV with the columns file, label and group, perhaps split, at `size` x `size` pixels.

    With a column `split`, those of `test` are classified by the others. Raises UserError in one line.
    """
    rows = _rows(index)
    base = Path(folder) if folder else Path(index).parent
    try:
        images = np.empty((len(rows), size, size, 3), np.uint8)
    except MemoryError:
        taken = len(rows) * size * size * 3 / 2**30
        raise UserError(f"--knn-index {index}: {len(rows)} pictures of {size} px take {taken:.0f} GiB") from None
    for image, row in zip(images, rows, strict=True):
        path = base / row["file"]
        try:
            decode_into(read_regular(path), image)
        except IMAGE_ERRORS as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--knn-index {index}: {path} cannot be read ({reason})") from None
    labels, groups = (np.array([row[name] for row in rows]) for name in ("label", "group"))
    queries = np.array([row.get("split", "test") == "test" for row in rows])
    if len(set(groups)) < 2:
        raise UserError(f"--knn-index {index}: all pictures are of one group; neighbours must be of another one")
    if not queries.any():
        raise UserError(f"--knn-index {index}: no picture is of the split test, so none would be classified")
    bank = set(groups if queries.all() else groups[~queries])
    if len(bank) == 1 and bank & set(groups[queries]):
        group = shown(str(bank.pop()))
        raise UserError(f"--knn-index {index}: test pictures of group {group} have no neighbours of another group")
    return Labelled(images, labels, groups, queries)


def _rows(index: str | Path) -> list[dict[str, str]]:
    """The rows of the CSV by column."""
    if not Path(index).is_file():
        raise UserError(f"--knn-index {index}: there is no such file")
    table = iter(read_rows(index, find_delimiter(index, COLUMNS), COLUMNS))
    header = next(table, (0, []))[1]
    names = [cell.strip().lower() for cell in header]
    if missing := [name for name in COLUMNS if name not in names]:
        raise UserError(f"--knn-index {index}: has no column {missing[0]}; its columns must be {', '.join(COLUMNS)}")
    rows = []
    for line, cells in table:
        if len(cells) != len(names):
            raise UserError(f"--knn-index {index}: line {line} has {count(cells)}, the header {len(names)}")
        rows.append(dict(zip(names, (cell.strip() for cell in cells), strict=True)))
    if not rows:
        raise UserError(f"--knn-index {index}: has no pictures")
    return rows


def knn_accuracy(features: np.ndarray, labelled: Labelled, k: int) -> float:
    """The share (0 to 1) of queries whose label the `k` nearest pictures by cosine vote for; see `knn_labels`."""
    found = knn_labels(features, labelled, k)
    return float(np.mean(found == labelled.labels[labelled.queries]))


def knn_labels(features: np.ndarray, labelled: Labelled, k: int) -> np.ndarray:
    """The label of each query by its nearest neighbours, weighted as in Wu et al., 2018.

    Neighbours are never of a query's own group. Where some pictures are no queries, they alone are neighbours.
    """
    names, numbers = np.unique(labelled.labels, return_inverse=True)
    queries, found = np.flatnonzero(labelled.queries), []
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        nearest, cosines = neighbours(features, labelled, block, k)
        votes = np.zeros((len(block), len(names)))
        np.add.at(votes, (np.arange(len(block))[:, None], numbers[nearest]), np.exp(cosines / TEMPERATURE))
        found.append(names[votes.argmax(axis=1)])
    return np.concatenate(found)


def neighbours(features: np.ndarray, labelled: Labelled, chosen: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers (N, k) of the pictures nearest to the chosen ones, the nearest first, and their cosines.

    Where fewer than `k` are of other groups, the rest have the cosine -inf.
    """
    bank = np.flatnonzero(~labelled.queries) if not labelled.queries.all() else np.arange(len(features))
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    cosines = unit[chosen] @ unit[bank].T
    cosines[labelled.groups[chosen][:, None] == labelled.groups[bank][None, :]] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(k, len(bank))]
    return bank[order], np.take_along_axis(cosines, order, axis=1)


def effective_rank(features: np.ndarray) -> float:
    """How many dimensions the features use: exp of the entropy of their singular values (Garrido et al., 2023)."""
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    shares = values / max(values.sum(), 1e-30) + 1e-7
    return float(np.exp(-np.sum(shares * np.log(shares))))


def in_batches(encode: Callable[[np.ndarray], np.ndarray], images: np.ndarray, size: int) -> np.ndarray:
    """The features of all images, `size` at a time; the last batch is filled up with its first image."""
    found = []
    for start in range(0, len(images), size):
        block = images[start : start + size]
        filled = np.concatenate([block, np.repeat(block[:1], size - len(block), axis=0)])
        found.append(encode(filled)[: len(block)])
    return np.concatenate(found)


def raw_pixels(images: np.ndarray, side: int = 16) -> np.ndarray:
    """Pictures scaled to `side` x `side` pixels as features, to compare with."""
    from PIL import Image

    small = [Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image, np.float32).ravel() / 255 for image in small])
