"""Batches do not depend on workers, interruptions or the number of processes, and workers leave when they should."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from slt_jax.data import workers
from slt_jax.data.clip_files import BadClip, scan
from slt_jax.data.loader import Loader, LoaderSettings
from slt_jax.data.metadata import ClipRow
from slt_jax.errors import UserError
from slt_jax.training.earlier import Earlier
from slt_jax.training.position import Position

CLIPS = 7


@pytest.fixture
def split(factory):
    """Seven clips of 3, 8, 13, ... frames; the label row of clip n is n + 1."""
    clips = [ClipRow(factory.write(f"c{n}", 3 + 5 * n), f"text {n}") for n in range(CLIPS)]
    labels = np.repeat(np.arange(1, CLIPS + 1, dtype=np.int32)[:, None], 8, axis=1)
    return clips, scan(factory.dirs, [clip.video_id for clip in clips]), labels


def loader(split, **options):
    sizes = {"batch_size": 3, "sequence_length": 8, "image_size": 16, "num_landmarks": 13}
    return Loader(*split, LoaderSettings(**sizes | options))


def assert_equal(ours, others):
    for a, b in zip(ours, others, strict=True):
        assert (a.video_ids, a.texts) == (b.video_ids, b.texts)
        assert a.arrays.keys() == b.arrays.keys()
        for name in a.arrays:
            np.testing.assert_array_equal(a.arrays[name], b.arrays[name], err_msg=name)


def seen(batches):
    return [i for batch in batches for i, valid in zip(batch.video_ids, batch.arrays["valid"], strict=True) if valid]


def test_evaluation_is_the_file_in_order_with_a_padded_last_batch(split):
    evaluation = loader(split)
    batches = list(evaluation.epoch())
    assert len(evaluation) == len(batches) == 3
    assert seen(batches) == [f"c{n}" for n in range(CLIPS)]
    shapes = [{name: (array.shape, array.dtype.name) for name, array in batch.arrays.items()} for batch in batches]
    assert shapes[0] == shapes[1] == shapes[2] == {
        **{stream: ((3, 8, 16, 16, 3), "uint8") for stream in ("face", "hand_l", "hand_r")},
        **{mask: ((3, 8), "bool") for mask in ("pad_mask", "miss_mask_hl", "miss_mask_hr")},
        "pose": ((3, 8, 39), "float32"),
        "pose_conf_mask": ((3, 8, 13), "bool"),
        "labels": ((3, 8), "int32"),
        "valid": ((3,), "bool"),
        "flip": ((3,), "bool"),
    }  # fmt: skip
    last = batches[-1]
    assert last.arrays["valid"].tolist() == [True, False, False]
    assert (last.arrays["labels"] == [[7], [-100], [-100]]).all()
    for name in last.arrays.keys() - {"valid", "labels"}:
        np.testing.assert_array_equal(last.arrays[name][1:], last.arrays[name][[0, 0]])
    assert last.video_ids == ["c6"] * 3
    assert batches[0].texts == ["text 0", "text 1", "text 2"]
    assert not any(batch.arrays["flip"].any() for batch in batches)
    assert_equal(batches, evaluation.epoch(5))
    evaluation.close()


def test_rows_are_the_clips(split, factory):
    for batch in loader(split, train=True, batch_size=2).epoch():
        for row, video_id in enumerate(batch.video_ids):
            frames = 3 + 5 * int(video_id[1:])
            shown = factory.shown("face", batch.arrays["face"][row])
            stride = -(-frames // 8)
            real = batch.arrays["pad_mask"][row].sum()
            assert shown[:real] == list(range(shown[0], frames, stride))
            assert shown == factory.shown("hand_r", batch.arrays["hand_r"][row])


def test_training_depends_on_seed_and_epoch_alone(split):
    first = [list(loader(split, train=True).epoch(epoch)) for epoch in range(3)]
    assert_equal(first[1], loader(split, train=True).epoch(1))
    assert all(sorted(seen(batches)) == [f"c{n}" for n in range(CLIPS)] for batches in first)
    assert len({tuple(seen(batches)) for batches in first}) == 3
    assert seen(loader(split, train=True, seed=5).epoch(0)) != seen(first[0])
    # One loader through its epochs, whose workers run on, gives the same.
    continued = loader(split, train=True)
    for epoch in range(3):
        assert_equal(first[epoch], continued.epoch(epoch))


def test_random_draws_belong_to_the_clip(split):
    """Offsets and flips do not change with the batch a clip lands in."""
    by_size = []
    for batch_size in (2, 7):
        arrays = {}
        for batch in loader(split, train=True, batch_size=batch_size, flip_probability=0.5).epoch(3):
            for row in np.flatnonzero(batch.arrays["valid"]):
                arrays[batch.video_ids[row]] = (batch.arrays["flip"][row], batch.arrays["pose"][row])
        by_size.append(arrays)
    assert by_size[0].keys() == by_size[1].keys()
    for video_id, (flip, pose) in by_size[0].items():
        assert flip == by_size[1][video_id][0]
        np.testing.assert_array_equal(pose, by_size[1][video_id][1])
    flips = [flip for flip, _ in by_size[0].values()]
    assert 0 < sum(flips) < CLIPS


@pytest.mark.parametrize("train", [False, True])
def test_resuming_in_the_middle(split, train):
    whole = list(loader(split, train=train, batch_size=2).epoch(2))
    for start in range(5):
        assert_equal(whole[start:], loader(split, train=train, batch_size=2).epoch(2, [(2, start)]))
    assert_equal(whole[1:], loader(split, train=train, batch_size=2).epoch(2, [(2, 1)]))


def test_an_abandoned_epoch_leaves_the_next_one_whole(split):
    training = loader(split, train=True)
    next(iter(training.epoch(0)))
    assert_equal(training.epoch(1), loader(split, train=True).epoch(1))
    assert_equal(training.epoch(0, [(3, 2)]), list(loader(split, train=True).epoch(0))[2:])


@pytest.mark.parametrize("batch_size", [4, 6])
def test_processes_share_the_batches(split, batch_size):
    whole = list(loader(split, train=True, batch_size=batch_size).epoch(1))
    options = {"train": True, "batch_size": batch_size, "shard_count": 2}
    shards = [list(loader(split, shard_index=index, **options).epoch(1)) for index in (0, 1)]
    for batch, *parts in zip(whole, *shards, strict=True):
        assert batch.video_ids == [i for part in parts for i in part.video_ids]
        for name, array in batch.arrays.items():
            np.testing.assert_array_equal(array, np.concatenate([part.arrays[name] for part in parts]), err_msg=name)
    with pytest.raises(UserError, match="--batch-size 3 does not divide into 2 processes"):
        loader(split, shard_count=2)


def test_workers_change_nothing(split):
    """Also: epoch follows epoch, resuming, early ends, an error and the memory they leave behind."""
    expected = [list(loader(split, train=True, batch_size=2).epoch(epoch)) for epoch in (0, 1)]
    with loader(split, train=True, batch_size=2, num_workers=2) as training:
        for epoch in (0, 1):
            batches = list(training.epoch(epoch))
            assert_equal(expected[epoch], batches)
            assert all(type(array) is np.ndarray for batch in batches for array in batch.arrays.values())
    with loader(split, train=True, batch_size=2, num_workers=1) as training:
        iterator = training.epoch(1, [(2, 2)])
        assert_equal([expected[1][2]], [next(iterator)])
        iterator.close()
    wait_for(lambda: not children(os.getpid()))


def test_a_bad_clip_in_a_worker_is_the_same_error(split, factory, caplog):
    (factory.root / "hand_l" / "c1_f000000.jpg").write_bytes(b"no jpg")
    messages = []
    for num_workers in (0, 1):
        with pytest.raises(BadClip, match=r"c1_f000000\.jpg: cannot be read as an image") as error:
            list(loader(split, num_workers=num_workers).epoch())
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]

    with loader(split, num_workers=1, skip_bad_clips=True) as evaluation:
        batches = [batch for epoch in (0, 1) for batch in evaluation.epoch(epoch)]
    assert_equal(batches[:3], batches[3:])
    first = batches[0].arrays
    assert seen(batches[:3]) == ["c0", "c2", "c3", "c4", "c5", "c6"]
    assert first["valid"].tolist() == [True, False, True]
    assert (first["labels"][1] == -100).all()
    assert not any(first[name][1].any() for name in ("face", "hand_l", "hand_r", "pose", "pose_conf_mask", "flip"))
    assert first["pad_mask"][1].all()  # or attention would have nothing to look at
    assert first["face"][0].any()
    assert first["face"][2].any()
    assert [record.getMessage() for record in caplog.records] == [f"clip c1 is skipped, 1 so far: {messages[0]}"]
    assert evaluation.bad_clips == {"c1": messages[0]}


def test_a_bad_first_clip_fills_up_a_batch(split, factory):
    (factory.root / "pose" / "c6.npz").write_bytes(b"")
    last = list(loader(split, skip_bad_clips=True).epoch())[-1]
    assert not last.arrays["valid"].any()
    assert (last.arrays["labels"] == -100).all()


def test_wrong_landmarks_are_not_skipped(split):
    with pytest.raises(UserError, match="--pose-landmarks"):
        list(loader(split, num_landmarks=33, skip_bad_clips=True).epoch())


def test_flips_are_off_where_the_sides_are_unknown(split, caplog):
    training = loader(split, train=True, num_landmarks=20, flip_probability=1.0)
    assert "no horizontal flips with --pose-landmarks 20" in caplog.text
    assert not training.flips
    caplog.clear()
    loader(split, train=False, num_landmarks=20)
    assert not caplog.records
    assert all(batch.arrays["flip"].all() for batch in loader(split, train=True, flip_probability=1.0).epoch())


def test_a_run_that_goes_on_with_other_clips_says_so(split, capsys):
    clips, files, labels = split
    whole, fewer, other = (
        loader((some, files, labels[: len(some)])).identity for some in (clips, clips[1:], clips[::-1])
    )
    within, between = Position(taken=[[3, 1]]), Position(epoch=1)
    for before, position, told in (
        (whole, within, ""),
        (None, within, ""),  # a state of before this was kept
        (fewer, between, "note: run was trained on 6 clips, now there are 7\n"),
        (other, within, "note: run was trained on 7 other clips than those now; of the epoch under way some will be "),
    ):
        Earlier(Path("run"), {}, None, None, None, before).tell_clips(whole, position)
        said = capsys.readouterr().out
        assert said.startswith(told) if told else not said


def test_what_cannot_be_loaded(split):
    with pytest.raises(UserError, match="without clips"):
        loader(([], {}, np.zeros((0, 8))))
    with pytest.raises(ValueError, match="2 rows of labels for 7 clips"):
        loader((split[0], split[1], split[2][:2]))


PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what they start in the background ignore it
sys.path[:0] = {paths!r}
import numpy as np
from conftest import ClipFactory
from slt_jax.data.clip_files import scan
from slt_jax.data.corpus_folder import folders_under
from slt_jax.data.loader import Loader, LoaderSettings
from slt_jax.data.metadata import ClipRow
from pathlib import Path

def main():
    root = Path({root!r})
    files = scan(folders_under(root), ["a", "b"])
    settings = LoaderSettings(1, sequence_length=8, image_size=256, num_landmarks=13, num_workers=2, train=True)
    loader = Loader([ClipRow("a", "x"), ClipRow("b", "y")], files, np.ones((2, 8)), settings)
    iterator = loader.epoch()
    batch = next(iterator)
    globals().update(locals())  # nothing is closed, everything is still held
    print("ready", flush=True)
    while {wait}:  # in short sleeps: a signal that another thread is given does not end one
        time.sleep(0.1)

if __name__ == "__main__":
    main()
"""


def started(factory, tmp_path, wait):
    for video_id in ("a", "b"):
        factory.write(video_id, 3)
    here = Path(__file__).resolve()
    program = tmp_path / "program.py"
    paths = [str(here.parents[2]), str(here.parent)]
    program.write_text(PROGRAM.format(paths=paths, root=str(factory.root), wait=wait))
    process = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def children(parent: int) -> list[int]:
    """Worker processes of `parent` (not multiprocessing's resource tracker)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z" and b"spawn_main" in command:
            found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@needs_proc
@pytest.mark.parametrize("finished", [False, True], ids=["while it computes", "when it has computed what was asked"])
def test_a_dead_worker_is_an_error_with_advice(split, finished):
    evaluation = loader(split, num_workers=1, batch_size=1)
    iterator = evaluation.epoch()
    next(iterator)
    time.sleep(1.0 if finished else 0.0)
    (worker,) = children(os.getpid())
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not alive(worker))
    time.sleep(1.0 if finished else 0.0)  # until the pool knows
    with pytest.raises(UserError, match=r"a data worker died; was memory short"):
        list(iterator)


class Slow:
    """Elements of which only the first comes soon."""

    def __getitem__(self, index: int) -> dict:
        time.sleep(60 if index else 0)
        return {"arrays": {}}


def test_nobody_waits_for_a_worker_that_is_no_longer_needed():
    ahead = workers.Ahead(Slow(), 0, 1, 1000)
    next(ahead)
    before = time.monotonic()
    ahead.close()
    assert time.monotonic() - before < 20


@needs_proc
def test_a_program_that_closes_nothing_ends_cleanly(factory, tmp_path):
    process = started(factory, tmp_path, wait=False)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


@needs_proc
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_their_parent(factory, tmp_path, sent):
    process = started(factory, tmp_path, wait=True)
    of_it = children(process.pid)
    assert len(of_it) == 2
    process.send_signal(sent)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "Exception ignored" not in errors
    if sent == signal.SIGINT:
        assert "leaked" not in errors
    wait_for(lambda: not any(map(alive, of_it)))
