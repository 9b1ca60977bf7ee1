"""Training from a pack is training from the folders, to the last bit."""

from slt_jax.cli.pack_dataset import main as pack
from slt_jax.cli.train import main
from tests.cli.conftest import metrics

FOLDERS = ("face_dir", "hand_left_dir", "hand_right_dir", "pose_dir")


def test_a_packed_run_is_the_loose_run(corpus, finished, tmp_path, capsys):
    packed, work_dir = tmp_path / "packed", tmp_path / "run"
    assert pack(["write", "--root", str(corpus.root), "--output", str(packed)]) == 0
    arguments = corpus.flags(work_dir, "--packs", str(packed), num_workers="1", **dict.fromkeys(FOLDERS))
    assert main(arguments) == 0
    assert metrics(work_dir) == metrics(finished)

    capsys.readouterr()
    assert main(corpus.flags(tmp_path / "other", "--packs", str(tmp_path), **dict.fromkeys(FOLDERS))) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"slt-train: error: --packs {tmp_path}: there is no index.json; is this the folder of a whole pack?"
    ]
    assert main(corpus.flags(tmp_path / "other", **dict.fromkeys(FOLDERS))) == 2
    assert "--face-dir is not given" in capsys.readouterr().err
