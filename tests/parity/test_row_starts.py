"""Each row of a batch begins in its own language: the tokens are HuggingFace's, which is told one row's at a time."""

import numpy as np
import pytest

from slt_jax.data.text import RowStarts
from slt_jax.decoding import generate as module
from slt_jax.decoding.search import Search
from tests.parity.test_generate import BATCH, FAMILIES, huggingface, random_frames
from tests.parity.torch_weights import load, quick_compilation, randomise  # noqa: F401 (a fixture)

LENGTH = 10
LANGUAGES = np.array([7, 9, 7, 11], np.int32)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("how", ["mbart50", "mbart"])
def test_rows_begin_as_huggingfaces_do(how, beams):
    """mBART-50 forces the language after its start, mBART starts with it."""
    family = FAMILIES["mbart"]
    theirs, ours = family.build()
    randomise(theirs, 3, family.std)
    load(ours, theirs.state_dict())
    encoded, mask = random_frames(5)
    forced = LANGUAGES[:, None] if how == "mbart50" else np.full((BATCH, 1), -1, np.int32)
    first = np.full(BATCH, 2, np.int32) if how == "mbart50" else LANGUAGES
    search = Search(max_length=LENGTH, min_length=0, num_beams=beams, early_stopping=False, forced_bos_token_id=3)
    tokens = module.generate(ours, encoded, mask, search, RowStarts(first, forced))
    padded = np.full((BATCH, LENGTH), 1)
    padded[:, : tokens.shape[1]] = tokens
    for row in range(BATCH):
        settings = {"max_length": LENGTH, "num_beams": beams, "decoder_start_token_id": int(first[row])}
        if how == "mbart50":
            settings["forced_bos_token_id"] = int(LANGUAGES[row])
        (wanted,) = huggingface(theirs, encoded[row : row + 1], mask[row : row + 1], **settings).numpy()
        np.testing.assert_array_equal(padded[row, : len(wanted)], wanted)
        assert set(padded[row, len(wanted) :].tolist()) <= {1}
    assert len({tuple(row) for row in tokens[:, 2:].tolist()}) > 1


def test_a_prompt_of_several_tokens_is_said_first():
    family = FAMILIES["t5"]
    theirs, ours = family.build()
    randomise(theirs, 3, family.std)
    load(ours, theirs.state_dict())
    encoded, mask = random_frames(5)
    forced = np.array([[5, 6, 7], [8, -1, -1], [-1, -1, -1], [9, 10, -1]], np.int32)
    rows = RowStarts(np.full(BATCH, -1, np.int32), forced)
    tokens = module.generate(ours, encoded, mask, Search(max_length=LENGTH, min_length=0), rows)
    plain = module.generate(ours, encoded, mask, Search(max_length=LENGTH, min_length=0))
    for row, wanted in zip(tokens, forced, strict=True):
        known = wanted[wanted >= 0]
        np.testing.assert_array_equal(row[1 : 1 + len(known)], known)
    width = min(tokens.shape[1], plain.shape[1])
    np.testing.assert_array_equal(tokens[2, :width], plain[2, :width])
    # The rest follows from the beginning, as HuggingFace's goes on from tokens that it is given.
    for row in (0, 1, 3):
        known = forced[row][forced[row] >= 0]
        given = np.concatenate([[0], known])[None]
        (wanted,) = huggingface(
            theirs, encoded[row : row + 1], mask[row : row + 1], max_length=LENGTH, decoder_input_ids=as_tensor(given)
        ).numpy()
        np.testing.assert_array_equal(tokens[row, : min(len(wanted), tokens.shape[1])], wanted[: tokens.shape[1]])


def as_tensor(ids: np.ndarray):
    import torch

    return torch.tensor(ids)
