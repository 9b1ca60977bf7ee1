"""Clips of like length share a batch: the same clips, in the same frames, and the model computes the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert.checkpoint import plan_model
from slt_jax.config import build_config, build_section
from slt_jax.data.augment import prepare
from slt_jax.data.clip_files import BadClip, scan
from slt_jax.data.clips import padded_lengths, read_clip
from slt_jax.data.loader import Loader, LoaderSettings
from slt_jax.data.metadata import ClipRow
from slt_jax.data.shown import sample
from slt_jax.errors import UserError
from slt_jax.models.params import split_model
from slt_jax.training.loss import token_loss
from tests.data.test_loader import assert_equal, seen

FRAMES = (3, 8, 13, 2, 9, 4, 24, 7, 1, 6, 5)  # of these 8 are shown at most: 13 and 9 become 7 and 5, 24 becomes 8


@pytest.fixture
def split(factory):
    clips = [ClipRow(factory.write(f"c{n}", frames), f"text {n}") for n, frames in enumerate(FRAMES)]
    labels = np.repeat(np.arange(1, len(clips) + 1, dtype=np.int32)[:, None], 6, axis=1)
    return clips, scan(factory.dirs, [clip.video_id for clip in clips]), labels


def loader(split, buckets=(3, 6), **options):
    given = {"batch_size": 2, "sequence_length": 8, "image_size": 28, "num_landmarks": 13}
    return Loader(*split, LoaderSettings(**given | options), lengths=padded_lengths(FRAMES, 8, buckets))


def length(batch) -> int:
    return batch.arrays["pad_mask"].shape[1]


def test_the_bucket_holds_whatever_is_drawn():
    frames = np.arange(1, 400)
    for buckets, longest in (((32, 64, 96, 128), 128), ((96, 64), 128), ((), 100), ((1, 2, 3), 5)):
        found = padded_lengths(frames, longest, buckets)
        lengths = sorted({*buckets, longest})
        for count, padded in zip(frames, found, strict=True):
            most = max(len(sample(count, longest, rng)) for rng in [None, *map(np.random.default_rng, range(4))])
            assert most <= padded
            assert padded == next(
                bucket for bucket in lengths if len(np.arange(0, count, -(-count // longest))) <= bucket
            )


@pytest.mark.parametrize("train", [False, True])
def test_every_clip_comes_once_and_batches_are_of_one_length(split, train):
    ours = loader(split, train=train)
    assert ours.lengths == {3: 3, 6: 4, 8: 4}
    orders = []
    for epoch in range(3):
        batches = list(ours.epoch(epoch))
        assert len(batches) == len(ours) == 2 + 2 + 2
        assert sorted(seen(batches)) == sorted(f"c{n}" for n in range(len(FRAMES)))
        for batch in batches:
            rooms = padded_lengths([FRAMES[int(video_id[1:])] for video_id in batch.video_ids], 8, (3, 6))
            assert set(rooms) == {length(batch)}
        orders.append([length(batch) for batch in batches])
        assert sum(not batch.arrays["valid"].all() for batch in batches) == 1  # of the three clips of three frames
    if train:
        assert len({tuple(order) for order in orders}) > 1
    else:
        assert [batch.video_ids[0] for batch in batches] == ["c0", "c1", "c4", "c6", "c8", "c9"]  # the split's order


def test_rows_are_those_without_buckets_cut_short(split):
    """The draws belong to the clip: the same frames, the same flip."""
    whole = {}
    for batch in loader(split, (), train=True, flip_probability=0.5).epoch(2):
        assert length(batch) == 8
        for row in np.flatnonzero(batch.arrays["valid"]):
            whole[batch.video_ids[row]] = {name: array[row] for name, array in batch.arrays.items()}
    flips = set()
    for batch in loader(split, train=True, flip_probability=0.5).epoch(2):
        for row in np.flatnonzero(batch.arrays["valid"]):
            for name, array in batch.arrays.items():
                expected = whole[batch.video_ids[row]][name]
                in_frames = name not in ("labels", "valid", "flip")
                np.testing.assert_array_equal(array[row], expected[: length(batch)] if in_frames else expected)
            flips.add(bool(batch.arrays["flip"][row]))
    assert flips == {True, False}


def test_resuming_processes_and_workers(split):
    options = {"train": True, "seed": 5}
    whole = list(loader(split, **options).epoch(1))
    for start in range(len(whole)):
        assert_equal(whole[start:], loader(split, **options).epoch(1, [(2, start)]))
    with loader(split, num_workers=1, **options) as working:
        assert_equal(list(loader(split, **options).epoch(0)), working.epoch(0))
        assert_equal(whole, working.epoch(1))
    shards = [list(loader(split, shard_index=index, shard_count=2, **options).epoch(1)) for index in (0, 1)]
    for batch, *parts in zip(whole, *shards, strict=True):
        assert {length(batch)} == {length(part) for part in parts}
        for name, array in batch.arrays.items():
            np.testing.assert_array_equal(array, np.concatenate([part.arrays[name] for part in parts]), err_msg=name)


@pytest.mark.parametrize("taken", [[(2, 3)], [(4, 1), (3, 2)], [(1, 5), (2, 1), (1, 1)], [(5, 9)], [(2, 0), (3, 1)]])
def test_an_epoch_goes_on_with_other_batches(split, taken):
    """Whatever sizes the batches before had, every clip comes once; the next epoch is whole."""
    options, had = {"train": True, "seed": 5}, []
    for number, (size, count) in enumerate(taken):
        batches = list(loader(split, batch_size=size, **options).epoch(1, taken[:number]))
        had += seen(batches[:count])
    ours = loader(split, batch_size=3, **options)
    rest = list(ours.epoch(1, taken))
    assert sorted(had + seen(rest)) == sorted(f"c{n}" for n in range(len(FRAMES)))
    assert ours.left(1, taken) == len(rest)
    assert all(len({length(batch)}) == 1 for batch in rest)
    assert_equal(list(ours.epoch(2)), loader(split, batch_size=3, **options).epoch(2))
    with loader(split, batch_size=3, num_workers=1, **options) as working:
        assert_equal(rest, working.epoch(1, taken))
        assert_equal(list(ours.epoch(2)), working.epoch(2))


def test_one_bucket_is_none(split):
    for train in (False, True):
        settings = LoaderSettings(2, sequence_length=8, image_size=28, num_landmarks=13, train=train)
        assert_equal(loader(split, (), train=train).epoch(1), Loader(*split, settings).epoch(1))


def test_a_clip_that_grew_is_told(split, factory):
    out = {name: array[0] for name, array in next(iter(loader(split).epoch())).arrays.items()}
    factory.write("c0", 5)
    files = scan(factory.dirs, ["c0"])["c0"]
    with pytest.raises(BadClip, match="c0: has 5 frames, more than when the folders were listed"):
        read_clip(files, sequence_length=8, image_size=28, num_landmarks=13, out=out)


def test_the_model_computes_the_same(split):
    """Loss and every gradient of a batch of three frames, and of the same batch padded to eight."""
    plan = plan_model(build_section("model", {
        "backbone": {"embed_dim": 16, "depth": 1, "num_heads": 2, "image_size": 28}, "image_size": 28,
        "projector_dim": 16, "d_model": 16, "temporal_nhead": 2, "temporal_layers": 2, "sequence_length": 8,
        "temporal_dim_feedforward": 16, "decoder_layers": 1, "decoder_heads": 2, "vocab_size": 20,
    }))  # fmt: skip
    structure, _ = plan.structure()
    _, params = split_model(plan.build(seed=1))
    rng = np.random.default_rng(0)  # no zeros that hide something, and none of a LayerNorm's inputs nearly constant
    params = {path: array + rng.normal(0, 0.1, array.shape).astype(np.float32) for path, array in params.items()}

    @jax.jit
    def loss_and_gradients(params, batch):
        def loss(params):
            inputs = prepare(batch)
            total, tokens = token_loss(structure.merge(params)(inputs), inputs["labels"], 0.1)
            return total / tokens

        return jax.value_and_grad(loss)(params)

    short = next(batch for batch in loader(split).epoch() if length(batch) == 3)
    arrays = {}
    for row, video_id in enumerate(short.video_ids):
        clip = read_clip(split[1][video_id], sequence_length=8, image_size=28, num_landmarks=13)
        for name, array in clip.items():
            arrays.setdefault(name, np.empty((2, *array.shape), array.dtype))[row] = array
    padded = short.arrays | arrays
    assert padded["face"].shape[1] == 8
    losses, gradients = zip(*(loss_and_gradients(params, b) for b in (short.arrays, padded)), strict=True)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    for path, gradient in gradients[0].items():
        np.testing.assert_allclose(gradient, gradients[1][path], rtol=1e-5, atol=1e-6, err_msg=path)
    assert jnp.abs(gradients[0]["encoder.positional.embedding.embedding"][:3]).min() > 0


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ([4, 16], "data.buckets: 16 is more than model.sequence_length 8"),
        ([0, 4], "whole numbers from 1 on"),
        ([4.5], "whole numbers from 1 on"),
        (8, "data.buckets must be"),
    ],
)
def test_what_is_no_bucket(buckets, message):
    with pytest.raises(UserError, match=message):
        build_config({"data": {"buckets": buckets}, "model": {"sequence_length": 8}})
