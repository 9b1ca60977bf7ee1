"""From folders to batches: which crops are taken, mirrored, thinned, and in what order they come."""

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image

from slt_jax.data.clip_files import scan
from slt_jax.data.corpus_folder import folders_under
from slt_jax.data.metadata import ClipRow
from slt_jax.data.packing import write_pack
from slt_jax.errors import UserError
from slt_jax.pretraining.crop_batches import CropBatches
from slt_jax.pretraining.crops import find_crops
from slt_jax.pretraining.settings import DatasetSettings

SIZE = 16
ALL = DatasetSettings(batch_size=4)


def picture(path, level=100, size=SIZE):
    """Grey `level` on the left, black on the right."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:, : size // 2] = level
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=100)
    return path


def corpus(root, videos=("a", "b"), frames=3):
    for number, stream in enumerate(("face", "hand_l", "hand_r")):
        for video in videos:
            for frame in range(frames):
                picture(root / stream / f"{video}_f{frame:06d}.jpg", 100 + 40 * number + frame)
    (root / "pose").mkdir()
    return root


def names(crops):
    return [crops.name(number) for number in range(len(crops))]


def below(root, crops):
    return [os.path.relpath(name, root) for name in names(crops)]


def pixels(crops, number, size=SIZE):
    out = np.zeros((size, size, 3), np.uint8)
    crops.decode(number, out)
    return out.astype(int)


def faces(left: int, right: int):
    return lambda shown: (abs(shown[:, 2] - left) < 8).all() and (abs(shown[:, -3] - right) < 8).all()


# --- folders ------------------------------------------------------------------------------------------------------


def test_of_a_corpus_only_the_stream_is_taken(tmp_path):
    corpus(tmp_path)
    (tmp_path / "meta.csv").write_text("id;text\n")
    picture(tmp_path / "overview.png")  # no crop: it lies in no folder of a stream
    usual = [f"{video}_f{frame:06d}.jpg" for video in "ab" for frame in range(3)]
    assert below(tmp_path, find_crops([tmp_path], "face", ALL)) == [f"face/{name}" for name in usual]
    both = [f"{hand}/{name}" for hand in ("hand_l", "hand_r") for name in usual]
    assert below(tmp_path, find_crops([tmp_path], "hands", ALL)) == both


def test_left_hands_are_mirrored_and_told(tmp_path, capsys):
    corpus(tmp_path)
    crops = find_crops([tmp_path], "hands", ALL)
    assert capsys.readouterr().out == "12 crops of 4 videos, 6 of them left hands, which are mirrored (--mirror-left)\n"
    assert faces(0, 140)(pixels(crops, 0))
    assert faces(180, 0)(pixels(crops, 6))
    (batch,) = CropBatches(crops, dataclasses.replace(ALL, batch_size=12, shuffle=False), SIZE, 0).batches(0)
    for shown, left in zip(batch.arrays["images"].astype(int), [True] * 6 + [False] * 6, strict=True):
        assert (shown[:, 2].mean() < 8) == left
    plain = find_crops([tmp_path], "hands", dataclasses.replace(ALL, mirror_left=False))
    assert faces(140, 0)(pixels(plain, 0))
    assert "mirrored" not in capsys.readouterr().out


def test_a_folder_of_one_stream_says_by_its_name_whether_it_is_left(tmp_path):
    corpus(tmp_path)
    assert faces(0, 140)(pixels(find_crops([tmp_path / "hand_l"], "hands", ALL), 0))
    assert faces(180, 0)(pixels(find_crops([tmp_path / "hand_r"], "hands", ALL), 0))
    assert faces(0, 140)(pixels(find_crops([f"{tmp_path}/hand_l/"], "hand_l", ALL), 0))
    with pytest.raises(UserError, match=r"--train-dir .*hand_l: has no picture of face, but of hand_l; see --stream"):
        find_crops([tmp_path / "hand_l"], "face", ALL)


def test_corpora_below_a_folder_are_told_apart_too(tmp_path):
    corpus(tmp_path / "one" / "processed")
    corpus(tmp_path / "two" / "processed", videos=("c",))
    found = find_crops([tmp_path], "hand_r", ALL)
    assert {os.path.basename(os.path.dirname(name)) for name in names(found)} == {"hand_r"}
    assert len(found) == 9


def test_any_folder_of_pictures_is_searched_through(tmp_path):
    for name in ("b.png", "a.JPG", "deep/er/c.webp", "deep/d.bmp", ".hidden/e.png", "._f.jpg"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "deep" / "again").symlink_to(tmp_path)  # a circle
    crops = find_crops([tmp_path], "hands", ALL)
    assert below(tmp_path, crops) == ["a.JPG", "b.png", "deep/d.bmp", "deep/er/c.webp"]
    assert not any(crops.mirrored(number) for number in range(4))


def test_a_linked_folder_is_followed_and_a_name_can_be_the_links(tmp_path):
    corpus(tmp_path / "there")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "hand_l").symlink_to(tmp_path / "there" / "face")
    for given in (tmp_path / "here", tmp_path / "here" / "hand_l"):
        crops = find_crops([given], "hands", ALL)
        assert len(crops) == 6
        assert crops.mirrored(0)


def test_a_pack_gives_what_its_folders_give(tmp_path, capsys):
    root = corpus(tmp_path / "corpus")
    (root / "hand_l" / "b_f000001.jpg").unlink()
    clips = [ClipRow(video, "text") for video in "ab"]
    write_pack(tmp_path / "pack", clips, scan(folders_under(root), "ab"), shard_bytes=10_000)
    for settings in (ALL, dataclasses.replace(ALL, stride=2), dataclasses.replace(ALL, min_difference=0.3)):
        folder, pack = (find_crops([path], "hands", settings) for path in (root, tmp_path / "pack"))
        assert len(folder) == len(pack)
        for number in range(len(folder)):
            np.testing.assert_array_equal(pixels(folder, number), pixels(pack, number))
    assert f"{tmp_path}/pack/hand_r/b_f000002.jpg" in names(pack)
    capsys.readouterr()


def test_several_folders_keep_their_order(tmp_path):
    for name in ("z/1.png", "z/2.png", "a/3.png"):
        picture(tmp_path / name)
    assert below(tmp_path, find_crops([tmp_path / "z", tmp_path / "a"], "face", ALL)) == [
        "z/1.png",
        "z/2.png",
        "a/3.png",
    ]


# --- thinning -----------------------------------------------------------------------------------------------------


def test_stride_counts_within_each_video(tmp_path, capsys):
    for video, frames in (("a", (0, 1, 2, 3, 10)), ("b", (7, 8))):
        for frame in frames:
            picture(tmp_path / f"{video}_f{frame:06d}.jpg")
    picture(tmp_path / "other.jpg")
    picture(tmp_path / "picture.jpg")
    crops = find_crops([tmp_path], "face", dataclasses.replace(ALL, stride=2))
    assert below(tmp_path, crops) == [
        *(f"a_f{n:06d}.jpg" for n in (0, 2, 10)),
        "b_f000007.jpg",
        "other.jpg",
        "picture.jpg",
    ]
    assert capsys.readouterr().out == "6 crops of 2 videos, thinned from 9 (--stride 2, --min-difference 0)\n"


def test_frames_that_hardly_differ_from_the_last_one_taken_are_left_out(tmp_path):
    for frame, level in enumerate((100, 103, 106, 109, 112, 180, 181)):  # half the picture: 1.5, 3, 4.5, ...
        picture(tmp_path / f"a_f{frame:06d}.png", level)
    crops = find_crops([tmp_path], "face", dataclasses.replace(ALL, min_difference=4))
    assert below(tmp_path, crops) == [f"a_f{n:06d}.png" for n in (0, 3, 5)]


# --- batches ------------------------------------------------------------------------------------------------------


@pytest.fixture
def twenty(tmp_path):
    """Twenty crops; the name of each is its grey level."""
    for level in range(20):
        picture(tmp_path / f"{10 * level:03d}.png", 10 * level)
    return find_crops([tmp_path], "face", ALL)


def batches(crops, size=4, seed=1, **options):
    shards = {name: options.pop(name) for name in ("shard_index", "shard_count", "kept_bytes") if name in options}
    return CropBatches(crops, DatasetSettings(batch_size=size, **options), SIZE, seed, **shards)


def seen(found):
    return [os.path.basename(name)[:3] for batch in found for name in batch.names]


def test_every_crop_comes_once_an_epoch_in_another_order(twenty):
    reader = batches(twenty)
    first, second = (list(reader.batches(epoch)) for epoch in (0, 1))
    assert sorted(seen(first)) == sorted(seen(second)) == [f"{10 * level:03d}" for level in range(20)]
    assert seen(first) != seen(second)
    assert seen(batches(twenty, seed=2).batches(0)) != seen(first)
    for batch in first + second:
        assert batch.arrays["images"].shape == (batch.count, SIZE, SIZE, 3)
        assert batch.arrays["images"][:, 0, 0, 0].tolist() == [int(name) for name in seen([batch])]
    assert seen(batches(twenty, shuffle=False).batches(3)) == sorted(seen(first))
    reader.close()


def test_what_does_not_fill_a_batch_is_left_out(twenty):
    reader = batches(twenty, size=6)
    assert reader.batches_left(0) == 3
    assert len(set(seen(reader.batches(0)))) == 18
    reader.close()


@pytest.mark.parametrize("reading", [{"kept_bytes": 0}, {"kept_bytes": 0, "num_workers": 1}, {}])
def test_batches_do_not_depend_on_who_reads_them(twenty, reading):
    expected, reader = batches(twenty), batches(twenty, **reading)
    for epoch in (0, 1):
        for ours, theirs in zip(expected.batches(epoch), reader.batches(epoch), strict=True):
            assert ours.names == theirs.names
            np.testing.assert_array_equal(ours.arrays["images"], theirs.arrays["images"])
    expected.close()
    reader.close()


def test_an_epoch_is_resumed_with_other_batch_sizes(twenty):
    whole = seen(batches(twenty).batches(2))
    resumed = list(batches(twenty).batches(2, [[4, 2]]))
    assert seen(resumed) == whole[8:]
    taken = [[4, 1], [5, 2]]
    reader = batches(twenty, size=3)
    assert reader.batches_left(2, taken) == 2
    rest = seen(reader.batches(2, taken))
    assert rest == whole[14:]
    assert seen(reader.batches(3)) == seen(batches(twenty, size=3).batches(3))  # the next epoch is whole again
    assert reader.batches_left(2, [[4, 5]]) == 0
    assert list(reader.batches(2, [[4, 5]])) == []
    reader.close()


def test_processes_share_a_batch(twenty):
    whole = list(batches(twenty).batches(0))
    parts = [list(batches(twenty, shard_index=index, shard_count=2).batches(0)) for index in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch.names == first.names + second.names
        np.testing.assert_array_equal(
            batch.arrays["images"], np.concatenate([first.arrays["images"], second.arrays["images"]])
        )


def test_small_crops_are_decoded_once(twenty, tmp_path):
    reader = batches(twenty)
    first = list(reader.batches(0))
    for path in tmp_path.glob("*.png"):
        path.unlink()
    assert sorted(seen(reader.batches(1))) == sorted(seen(first))
    reader.close()


# --- errors -------------------------------------------------------------------------------------------------------


def error(*arguments):
    with pytest.raises(UserError) as caught:
        find_crops(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_that_cannot_be_used_are_named(tmp_path):
    picture(tmp_path / "one" / "only.jpg")
    picture(tmp_path / "file.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.txt", "c.mp4"):
        (tmp_path / "texts" / name).touch()
    assert error([], "face", ALL) == "--train-dir is not given: name folders of crops"
    assert error([tmp_path / "none"], "face", ALL) == f"--train-dir {tmp_path}/none: no such folder"
    assert error([tmp_path / "file.jpg"], "face", ALL).endswith("file.jpg: is a file, not a folder")
    assert "holds no pictures but nothing; they end in .jpg" in error([tmp_path / "empty"], "face", ALL)
    assert "holds no pictures but 2 .txt files, 1 .mp4 file; they" in error([tmp_path / "texts"], "face", ALL)
    assert "one picture, " in error([tmp_path / "one"], "face", ALL)
    assert error([tmp_path / "one"] * 2, "face", ALL).endswith("one is given twice")
    assert "--stream 'feet': choose face, hand_l, hand_r or hands" in error([tmp_path / "one"], "feet", ALL)
    assert "--stride must be" in error([tmp_path / "one"], "face", dataclasses.replace(ALL, stride=0))
    corpus(tmp_path / "corpus")
    for path in (tmp_path / "corpus" / "face").iterdir():
        path.unlink()
    assert "has no picture of face, but of hand_l, hand_r; see --stream" in error([tmp_path / "corpus"], "face", ALL)


def test_a_pack_without_the_stream_or_damaged_is_named(tmp_path):
    root = corpus(tmp_path / "corpus")
    for path in (root / "hand_l").iterdir():
        path.unlink()
    write_pack(tmp_path / "pack", [ClipRow("a", "")], scan(folders_under(root), "a"), shard_bytes=10_000)
    said = error([tmp_path / "pack"], "hand_l", ALL)
    assert said == f"--train-dir {tmp_path}/pack: the pack has no frame of hand_l, but of face, hand_r; see --stream"
    (tmp_path / "pack" / "index.json").write_text("{}")
    assert error([tmp_path / "pack"], "hand_r", ALL).startswith(f"--train-dir {tmp_path}/pack: index.json is damaged")


def test_a_batch_larger_than_the_data_is_refused(twenty):
    with pytest.raises(UserError, match="--batch-size 21 is larger than the data: there are 20 crops"):
        batches(twenty, size=21)
    with pytest.raises(UserError, match="--batch-size 5 does not divide into 2 processes"):
        batches(twenty, size=5, shard_count=2)


@pytest.mark.parametrize("how", ["broken", "gone"])
def test_a_picture_that_cannot_be_read_is_named(twenty, tmp_path, how):
    if how == "broken":
        (tmp_path / "070.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    else:
        (tmp_path / "070.png").unlink()
    reader = batches(twenty)
    with pytest.raises(
        UserError, match=r"070\.png: cannot be read as an image \(.*\); put a whole picture in its place"
    ):
        list(reader.batches(0))
    reader.close()


def test_a_broken_frame_is_named_while_thinning(tmp_path):
    for frame in range(3):
        picture(tmp_path / f"a_f{frame:06d}.jpg")
    (tmp_path / "a_f000001.jpg").write_bytes(b"\xff\xd8nothing")
    said = error([tmp_path], "face", dataclasses.replace(ALL, min_difference=1))
    assert f"{tmp_path}/a_f000001.jpg: cannot be read as an image (" in said
