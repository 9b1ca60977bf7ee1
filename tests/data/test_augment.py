"""What happens to a batch on the device: normalisation, mirrors, mixed streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slt_jax.data.augment import flip, mix, permute_valid, prepare
from slt_jax.errors import UserError
from slt_jax.streams import parse_mix_stream

B, T, S = 4, 3, 6


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 256, (B, T, S, S, 3), np.uint8) for name in ("face", "hand_l", "hand_r")}
    arrays["pose"] = rng.integers(0, 65, (B, T, 39)).astype(np.float32) / 64  # exact in float32, also as 1 - x
    arrays |= {name: rng.random((B, T)) < 0.5 for name in ("pad_mask", "miss_mask_hl", "miss_mask_hr")}
    arrays["pose_conf_mask"] = rng.random((B, T, 13)) < 0.5
    arrays["labels"] = rng.integers(0, 9, (B, 8)).astype(np.int32)
    return {name: jnp.array(value) for name, value in arrays.items()} | {
        "valid": jnp.array([True, True, True, False]),
        "flip": jnp.array([True, False, True, False]),
    }


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_normalisation_and_untouched_arrays(batch):
    batch["flip"] = jnp.zeros(B, bool)
    out = jax.jit(prepare)(batch)
    assert "flip" not in out
    for stream in ("face", "hand_l", "hand_r"):
        expected = (np.asarray(batch[stream]) / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        assert out[stream].dtype == jnp.float32
        np.testing.assert_allclose(out[stream], expected, rtol=1e-5, atol=1e-6)
    for name in out.keys() - {"face", "hand_l", "hand_r"}:
        np.testing.assert_array_equal(out[name], batch[name])
    assert prepare(batch, dtype=jnp.bfloat16)["face"].dtype == jnp.bfloat16


def test_flip_of_a_recognisable_picture(batch):
    picture = np.zeros((B, T, S, S, 3), np.uint8)
    picture[..., :, 0, :] = 255  # a line at the left edge
    mirrored = picture[..., ::-1, :]
    batch |= {"face": jnp.array(picture), "hand_l": jnp.array(picture), "hand_r": jnp.zeros_like(picture)}
    # The left wrist (BlazePose 15) is at landmark 5, the right one (16) at 6.
    pose = np.zeros((B, T, 13, 3), np.float32)
    pose[:, :, 5] = [0.25, 0.5, 0.9]
    pose[:, :, 6] = [0.5, 0.75, 0.8]
    keep = np.zeros((B, T, 13), bool)
    keep[:, :, 5] = True
    batch |= {"pose": jnp.array(pose.reshape(B, T, 39)), "pose_conf_mask": jnp.array(keep)}
    batch |= {"miss_mask_hl": jnp.zeros((B, T), bool), "miss_mask_hr": jnp.ones((B, T), bool)}

    out = flip(batch)
    for row, flipped in enumerate(np.asarray(batch["flip"])):
        np.testing.assert_array_equal(out["face"][row], (mirrored if flipped else picture)[row])
        seen, missing = ("hand_r", "hand_l") if flipped else ("hand_l", "hand_r")
        np.testing.assert_array_equal(out[seen][row], (mirrored if flipped else picture)[row])
        assert not out[missing][row].any()
        assert bool(out["miss_mask_hl"][row].all()) == flipped
        assert bool(out["miss_mask_hr"][row].any()) == (not flipped)
        landmarks = np.asarray(out["pose"][row]).reshape(T, 13, 3)
        wrists = [[0.5, 0.75, 0.8], [0.75, 0.5, 0.9]] if flipped else [[0.25, 0.5, 0.9], [0.5, 0.75, 0.8]]
        np.testing.assert_allclose(landmarks[:, 5:7], np.broadcast_to(wrists, (T, 2, 3)), rtol=1e-6)
        assert np.flatnonzero(out["pose_conf_mask"][row, 0]).tolist() == [6 if flipped else 5]
    for name in ("pad_mask", "labels", "valid"):
        np.testing.assert_array_equal(out[name], batch[name])


def test_flipping_twice_is_the_identity(batch):
    once = flip(batch)
    twice = flip(once | {"flip": batch["flip"]})
    equal(twice, {name: value for name, value in batch.items() if name != "flip"})
    assert (once["face"][0] != batch["face"][0]).any()


def test_unknown_landmarks_are_not_flipped(batch):
    batch |= {"pose": batch["pose"][..., :15], "pose_conf_mask": batch["pose_conf_mask"][..., :5]}
    equal(flip(batch), {name: value for name, value in batch.items() if name != "flip"})


@pytest.mark.parametrize(
    "names",
    [("face",), ("hand_l", "miss_mask_hl"), ("hand_r", "miss_mask_hr"), ("pose", "pose_conf_mask")],
    ids=lambda names: names[0],
)
def test_a_mixed_stream_takes_its_masks_along(batch, names):
    seen = set()
    for seed in range(12):
        out = mix(batch, jax.random.key(seed), {names[0]: 1.0})
        main = np.asarray(batch[names[0]])
        rows = [next(r for r in range(B) if (main[r] == np.asarray(value)).all()) for value in out[names[0]]]
        assert sorted(rows) == list(range(B))
        assert rows[3] == 3  # not valid
        for name in batch:
            np.testing.assert_array_equal(out[name], batch[name][np.array(rows)] if name in names else batch[name])
        seen.add(tuple(rows))
    assert len(seen) > 2


def test_mixing_has_its_probability_and_needs_a_key(batch):
    mixed = [bool((mix(batch, jax.random.key(n), {"face": 0.3})["face"] != batch["face"]).any()) for n in range(60)]
    assert 3 < sum(mixed) < 30
    equal(prepare(batch, mix_streams={"face": 1.0}), prepare(batch))
    keyed = [prepare(batch, jax.random.key(1), mix_streams={"face": 1.0, "pose": 1.0}) for _ in range(2)]
    equal(*keyed)


def test_streams_are_mixed_independently_of_each_other(batch):
    both = mix(batch, jax.random.key(0), {"face": 1.0, "pose": 1.0})
    alone = mix(batch, jax.random.key(0), {"pose": 1.0})
    np.testing.assert_array_equal(both["pose"], alone["pose"])


@pytest.mark.parametrize("valid", [[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]])
def test_invalid_rows_keep_their_place(valid):
    valid = np.array(valid, bool)
    for seed in range(10):
        order = np.asarray(permute_valid(jax.random.key(seed), jnp.array(valid)))
        assert sorted(order) == list(range(5))
        assert (order[~valid] == np.flatnonzero(~valid)).all()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("face", ("face", 1.0)),
        ("pose:.5", ("pose", 0.5)),
        ("hand-left:0.5", ("hand_l", 0.5)),
        ("hand_l:1e-3", ("hand_l", 0.001)),
        ("hl:1", ("hand_l", 1.0)),
        ("hand-right", ("hand_r", 1.0)),
        ("hand_r", ("hand_r", 1.0)),
        ("HR:0.25", ("hand_r", 0.25)),
    ],
)
def test_parse_mix_stream(text, parsed):
    assert parse_mix_stream(text) == parsed


@pytest.mark.parametrize("text", ["", "body", "face:", "face:0", "face:1.5", "face:x", "face:nan", "face:-1"])
def test_parse_mix_stream_errors(text):
    with pytest.raises(UserError, match="--mix-stream"):
        parse_mix_stream(text)
