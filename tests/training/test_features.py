"""Features from disk are those the backbones would have made, and are never those of other frames or weights."""

import itertools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convert.checkpoint import plan_model
from slt_jax.config import Config, build_config
from slt_jax.data import clip_files
from slt_jax.data.augment import prepare
from slt_jax.data.clip_files import BadClip, scan
from slt_jax.data.clips import padded_lengths
from slt_jax.data.loader import Loader, LoaderSettings
from slt_jax.data.metadata import ClipRow
from slt_jax.data.packing import write_pack
from slt_jax.data.packs import open_pack
from slt_jax.errors import UserError
from slt_jax.models.cnn import SmallCNN
from slt_jax.models.params import Structure, split_model
from slt_jax.runtime.sharding import Layout, device_mesh
from slt_jax.streams import IMAGES
from slt_jax.training.feature_pass import read_from_cache
from slt_jax.training.state import TrainState
from slt_jax.training.translation_program import translation_program
from tests.data.conftest import ClipFactory

FRAMES = {"a": 3, "b": 9, "c": 6, "d": 12, "e": 5}  # of each clip; four are shown
SIZE = 16


class BatchNormCNN(SmallCNN):
    """Looks at all images of a batch."""

    def __init__(self, embed_dim, *, rngs):
        super().__init__([4], embed_dim, rngs=rngs)
        self.across = nnx.BatchNorm(embed_dim, rngs=rngs)


def cnn(width: int) -> dict:
    """Every stream's features are of another width, so that none can be taken for another's."""
    kwargs = {"widths": [4], "embed_dim": width}
    return {"type": "class", "model": "slt_jax.models.cnn:SmallCNN", "kwargs": kwargs, "freeze": True}


def settings(data=(), model=()) -> Config:
    return build_config(
        {
            "data": {"batch_size": 2, "precision": "float32", **dict(data)},
            "model": {
                "face_backbone": cnn(5),
                "hand_left_backbone": cnn(6),
                "hand_right_backbone": cnn(7),
                "image_size": SIZE,
                "projector_dim": 8,
                "d_model": 8,
                "temporal_nhead": 1,
                "temporal_layers": 1,
                "decoder_layers": 1,
                "temporal_dim_feedforward": 8,
                "decoder_heads": 1,
                "vocab_size": 20,
                "sequence_length": 4,
                **dict(model),
            },
        }
    )


@dataclass
class Run:
    """The beginning of a training run."""

    config: Config
    structure: Structure
    state: TrainState
    train: Loader
    val: Loader

    def cache(self, folder: Path, stopped=lambda: False) -> None:
        loaders = (self.train, self.val)
        read_from_cache(self.config, folder, self.structure, self.state, Layout(device_mesh()), loaders, stopped)


@pytest.fixture
def clips(tmp_path) -> ClipFactory:
    """Noise, in which a mirror changes everything; frames are missing everywhere, and one clip has no face."""
    factory = ClipFactory(tmp_path / "clips", SIZE)
    for video_id, frames in FRAMES.items():
        gone = {"a": {"face": [0, 1, 2]}, "b": {"hand_l": [2, 3, 4], "face": [0, 5]}, "d": {"hand_r": range(12)}}
        factory.write(video_id, frames, without=gone.get(video_id))
    rng = np.random.default_rng(0)
    for path in sorted(factory.root.glob("*/*.jpg")):
        factory.image(path, rng.integers(0, 256, (SIZE, SIZE, 3)))
    return factory


@pytest.fixture
def begin(clips):
    def begin(data=(), model=(), seed: int = 0, pack: str | None = None, **options) -> Run:
        config = settings(data, model)
        plan = plan_model(config.model)
        program = translation_program(config, plan)
        state = program.place(program.new_state(split_model(plan.build(seed=seed))[1]))

        def loader(names: str, **more) -> Loader:
            files = open_pack(pack).files(names) if pack else scan(clips.dirs, names)
            frames = [FRAMES[name] for name in names]
            settings = LoaderSettings(
                batch_size=2,
                sequence_length=4,
                image_size=config.model.image_size,
                num_landmarks=13,
                skip_bad_clips=config.data.skip_bad_clips,
                **more,
            )
            rows = [ClipRow(name, name) for name in names]
            lengths = padded_lengths(frames, 4, config.data.buckets or ())
            return Loader(rows, files, np.ones((len(names), 3), np.int32), settings, lengths=lengths)

        training = {"train": True, "flip_probability": 0.5, **options}
        return Run(config, program.structure, state, loader("abcd", **training), loader("dce"))

    return begin


def inputs(run: Run) -> list[dict]:
    """What the model would get in three epochs and a validation, frames turned into features."""

    @jax.jit
    def see(params, batch):
        encoder = run.structure.merge(params).encoder
        shown = prepare(batch)
        for stream in IMAGES:
            frames = shown[stream.name]
            if frames.ndim == 5:
                b, t = frames.shape[:2]
                images = frames.reshape(b * t, SIZE, SIZE, 3)
                shown[stream.name] = encoder.backbone(stream)(images).reshape(b, t, -1)
        return shown

    epochs = (*(run.train.epoch(n) for n in range(3)), run.val.epoch())
    params = run.state.params
    return [see(params, batch.arrays) for batch in itertools.chain(*epochs)]


@pytest.mark.parametrize(("precision", "workers"), [("float32", 0), ("amp", 1)])
def test_features_are_those_of_the_images(begin, tmp_path, precision, workers):
    """Also of mirrored clips, where the hands change places, of frames that are missing, and in worker processes."""
    data = {"precision": precision}
    run = begin(data)
    expected = inputs(run)
    cached = begin(data, num_workers=workers)
    with cached.train:
        cached.cache(tmp_path / "features")
        assert next(cached.train.epoch()).arrays["hand_l"].shape == (2, 4, 6)
        found = inputs(cached)
    assert any(batch["flip"].any() for batch in (b.arrays for b in cached.train.epoch()))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            assert array.dtype == theirs[name].dtype, name
            if name in ("face", "hand_l", "hand_r"):
                wide = np.float32
                close = {"rtol": 1e-5, "atol": 1e-5} if precision == "float32" else {"rtol": 0.02, "atol": 0.02}
                np.testing.assert_allclose(array.astype(wide), theirs[name].astype(wide), **close, err_msg=name)
            else:
                np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_of_packed_clips_in_batches_of_several_lengths(begin, clips, tmp_path, capsys):
    """A pack's features know its content, so they are found for the same clips packed anew."""
    packs = [str(tmp_path / name) for name in ("pack", "again")]
    for pack in packs:
        write_pack(Path(pack), [ClipRow(name, name) for name in FRAMES], scan(clips.dirs, FRAMES), shard_bytes=30_000)
    buckets = {"buckets": [3, 4]}
    expected = inputs(begin(buckets))
    assert {batch["face"].shape[1] for batch in expected} == {3, 4}
    for pack in packs:
        run = begin(buckets, pack=pack)
        run.cache(tmp_path / "features")
        shutil.rmtree(pack)  # not even for poses
        for ours, theirs in zip(inputs(run), expected, strict=True):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)
    assert "features of 5 clips are in" in capsys.readouterr().out


def test_nothing_is_computed_twice_and_no_image_read(begin, tmp_path, capsys, monkeypatch):
    first = begin()
    first.cache(tmp_path / "features")
    assert "features of 0 clips are in" in capsys.readouterr().out
    expected = inputs(first)
    monkeypatch.setattr(clip_files, "decode_image", None)
    second = begin()
    second.cache(tmp_path / "features")
    assert capsys.readouterr().out == f"frozen backbones: features of 5 clips are in {tmp_path / 'features'}\n"
    jax.tree.map(np.testing.assert_array_equal, inputs(second), expected)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    "spoil",
    [damage, shorten, Path.unlink, lambda path: path.write_bytes(b"")],
    ids=["a bit", "cut short", "gone", "empty"],
)
def test_damaged_files_are_computed_anew(begin, tmp_path, capsys, spoil):
    folder = tmp_path / "features"
    first = begin()
    first.cache(folder)
    expected = inputs(first)
    (path,) = folder.glob("*/mirrored/*/b")
    spoil(path)
    capsys.readouterr()
    second = begin()
    second.cache(folder)
    word = "missing" if spoil is Path.unlink else "damaged"
    assert f"features of 4 clips are in {folder}, of 1 are computed (1 {word})\n" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, inputs(second), expected)


def test_damage_in_the_middle_of_a_run_stops_it(begin, tmp_path):
    run = begin()
    run.cache(tmp_path)
    for path in tmp_path.glob("*/*/*/c"):
        damage(path)
    with pytest.raises(UserError, match=r"/c: no longer the features that training began with \(damaged\)"):
        inputs(run)


def test_other_frames_are_seen(begin, clips, tmp_path, capsys):
    """An edited frame, a new one and one that is gone; the rest stays."""
    folder = tmp_path / "features"
    begin().cache(folder)
    clips.image(clips.root / "face" / "b_f000003.jpg", 7)
    clips.image(clips.root / "hand_r" / "d_f000002.jpg", 8)
    (clips.root / "hand_l" / "e_f000001.jpg").unlink()
    capsys.readouterr()
    run = begin()
    run.cache(folder)
    assert "features of 2 clips are in" in (said := capsys.readouterr().out)
    assert "of 3 are computed (3 with other frames than before)" in said
    for ours, theirs in zip(inputs(run), inputs(begin()), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 1}, "other weights of face, weights of hand_left, weights of hand_right"),
        ({"data": {"precision": "amp"}}, "other precision of face, precision of hand_left, precision of hand_right"),
        ({"model": {"image_size": 24}}, "other image size"),
        ({"model": {"hand_right_backbone": cnn(9)}}, "other weights of hand_right"),
    ],
    ids=["weights", "precision", "image size", "backbone"],
)
def test_other_settings_are_other_features(begin, tmp_path, capsys, change, reason):
    folder = tmp_path / "features"
    begin().cache(folder)
    capsys.readouterr()
    begin(**change).cache(folder)
    assert capsys.readouterr().out.endswith(
        f"of 5 are computed (5 missing); those of earlier runs do not fit: {reason}\n"
    )
    begin().cache(folder)  # the earlier ones are as they were
    assert capsys.readouterr().out == f"frozen backbones: features of 5 clips are in {folder}\n"


def test_a_change_of_a_backbones_code_is_seen(begin, tmp_path, capsys, monkeypatch):
    begin().cache(tmp_path)
    capsys.readouterr()
    call = SmallCNN.__call__
    monkeypatch.setattr(SmallCNN, "__call__", lambda self, images: jnp.tanh(call(self, images)))
    begin().cache(tmp_path)
    assert "do not fit: other program of face, program of hand_left, program of hand_right" in capsys.readouterr().out


def test_what_was_computed_before_an_interruption_is_kept(begin, tmp_path, capsys):
    asked = itertools.count()
    begin().cache(tmp_path, lambda: next(asked) >= 5 + 60)  # five clips are looked at, then every image
    kept = sum(1 for _ in tmp_path.glob("*/plain/*/*"))
    assert 0 < kept < 4
    capsys.readouterr()
    run = begin()
    run.cache(tmp_path)
    assert f"features of {kept} clips are in {tmp_path}, of {5 - kept} are computed" in capsys.readouterr().out
    for ours, theirs in zip(inputs(run), inputs(begin()), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


def test_mirrored_features_are_only_made_where_clips_are_mirrored(begin, tmp_path, capsys):
    begin(flip_probability=0.0).cache(tmp_path)
    assert not list(tmp_path.glob("*/mirrored"))
    capsys.readouterr()
    begin().cache(tmp_path)
    assert "features of 1 clips are in" in capsys.readouterr().out  # the one that is only validated
    assert {path.name for path in tmp_path.glob("*/mirrored/*/*")} == set("abcd")


def test_bad_clips(begin, clips, tmp_path, caplog):
    """Frames that look whole from outside and are not: an error, or the clip is skipped as without features."""
    path = clips.root / "hand_l" / "c_f000001.jpg"
    content = bytearray(path.read_bytes())
    content[2:200] = bytes(198)
    path.write_bytes(content)
    with pytest.raises(BadClip, match=r"c_f000001\.jpg: cannot be read as an image"):
        begin().cache(tmp_path)
    run = begin({"skip_bad_clips": True})
    run.cache(tmp_path)
    batches = list(run.train.epoch())
    valid = {i: v for batch in batches for i, v in zip(batch.video_ids, batch.arrays["valid"], strict=True)}
    assert valid == {"a": True, "b": True, "c": False, "d": True}
    assert caplog.records[0].getMessage().startswith("clip c is skipped, 1 so far: ")


def test_backbones_that_train_have_no_features(begin, tmp_path):
    trains = cnn(6) | {"freeze": {"exclude": ["proj"]}}
    run = begin(model={"hand_left_backbone": trains})
    run.cache(tmp_path / "features")
    assert next(run.val.epoch()).arrays["face"].dtype == np.uint8
    assert not (tmp_path / "features").exists()
    folder = str(tmp_path / "named")
    run = begin({"feature_cache": folder}, {"hand_left_backbone": trains})
    with pytest.raises(UserError, match=f"--feature-cache {folder}: hand_left_backbone trains.*--freeze-hand-left"):
        run.cache(tmp_path)


def test_nor_have_those_that_look_at_a_whole_batch(begin, tmp_path):
    own = {"type": "class", "model": f"{__name__}:BatchNormCNN", "kwargs": {"embed_dim": 6}, "freeze": True}
    begin(model={"hand_left_backbone": own}).cache(tmp_path / "features")
    assert not (tmp_path / "features").exists()
    with pytest.raises(UserError, match="hand_left_backbone normalises over a batch"):
        begin({"feature_cache": str(tmp_path)}, {"hand_left_backbone": own}).cache(tmp_path)


def test_nor_have_several_processes(begin, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    begin().cache(tmp_path / "features")
    assert not (tmp_path / "features").exists()
    with pytest.raises(UserError, match="and here are 2; leave out the cache"):
        begin({"feature_cache": str(tmp_path)}).cache(tmp_path)


def test_none_reads_images(begin, tmp_path):
    run = begin({"feature_cache": "none"})
    run.cache(tmp_path / "features")
    assert next(run.train.epoch()).arrays["face"].dtype == np.uint8
    assert not (tmp_path / "features").exists()


def test_a_folder_that_cannot_be_written(begin, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--feature-cache .*file: cannot be written"):
        begin({"feature_cache": str(tmp_path / "file")}).cache(tmp_path)


def test_a_touched_frame_may_lie_anywhere(begin, clips, tmp_path, capsys):
    """Features follow a data set that moves, as long as names, sizes and times stay."""
    begin().cache(tmp_path / "features")
    os.rename(clips.root / "face", tmp_path / "faces")
    clips.dirs["face"] = tmp_path / "faces"
    capsys.readouterr()
    begin().cache(tmp_path / "features")
    assert "features of 5 clips are in" in capsys.readouterr().out
