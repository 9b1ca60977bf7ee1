"""k-NN: votes of neighbours that are of other groups, by hand; and the CSV that names pictures."""

import numpy as np
import pytest
from PIL import Image

from slt_jax.cli.pretrain import main
from slt_jax.errors import UserError
from slt_jax.pretraining.knn import Labelled, effective_rank, in_batches, knn_accuracy, knn_labels, read_labelled


def labelled(labels: str, groups: str, queries: str) -> Labelled:
    images = np.zeros((len(labels), 2, 2, 3), np.uint8)
    return Labelled(images, np.array(list(labels)), np.array(list(groups)), np.array([q == "1" for q in queries]))


def on_circle(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return (
        np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, len(degrees) + 1)[:, None]
    )  # lengths don't count


def test_neighbours_are_of_other_groups():
    features = on_circle(0, 1, 10, 12, 90)
    data = labelled("abcca", "11234", "11111")
    assert knn_labels(features, data, 1).tolist() == ["c", "c", "c", "c", "c"]
    assert knn_accuracy(features, data, 1) == 2 / 5


def test_with_a_split_only_the_others_are_neighbours():
    features = on_circle(0, 1, 10, 12, 90)
    data = labelled("abcca", "12345", "11000")
    assert knn_labels(features, data, 1).tolist() == ["c", "c"]  # though they are nearest to each other


def test_near_neighbours_weigh_more():
    features = on_circle(0, 2, 60, 61)
    data = labelled("xabb", "1234", "1000")
    assert knn_labels(features, data, 3).tolist() == ["a"]  # two of three say b
    assert knn_labels(features, data, 99).tolist() == ["a"]  # more than there are


def test_a_picture_of_the_same_group_never_votes():
    """Not even where fewer than `k` pictures are of other groups."""
    assert knn_labels(on_circle(0, 1, 2, 90), labelled("aaab", "1112", "1111"), 3).tolist()[:3] == ["b", "b", "b"]


def test_effective_rank():
    assert effective_rank(np.eye(6)) == pytest.approx(6, rel=1e-4)
    assert effective_rank(np.ones((6, 4))) == pytest.approx(1, rel=1e-4)


def test_batches_are_filled_up():
    sizes = []

    def encode(images):
        sizes.append(len(images))
        return images.reshape(len(images), -1).mean(axis=1, keepdims=True)

    images = np.arange(7)[:, None] * np.ones((7, 3))
    assert in_batches(encode, images, 4)[:, 0].tolist() == list(range(7))
    assert sizes == [4, 4]


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        Image.new("RGB", (6, 6), (number * 40, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def write(folder, *lines: str):
    path = folder / "index.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_index(folder):
    path = write(folder, "group,file,label,split", "s1,0.png,a,test", "s2,1.png,b,train", "s3,2.png,b,train")
    found = read_labelled(path, None, 4)
    assert found.images.shape == (3, 4, 4, 3)
    assert found.images[2, 0, 0].tolist() == [80, 0, 0]
    assert found.labels.tolist() == ["a", "b", "b"]
    assert found.groups.tolist() == ["s1", "s2", "s3"]
    assert found.queries.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label", "0.png,a"], "has no column group"),
        (["file,label,group", "9.png,a,s1", "0.png,a,s2"], "9.png cannot be read (No such file or directory)"),
        (["file,label,group", "index.csv,a,s1", "0.png,a,s2"], "index.csv cannot be read (no jpg or png)"),
        (["file,label,group", "0.png,a,s1", "1.png,b,s1"], "all pictures are of one group"),
        (["file,label,group", "0.png,a,s1", "1.png,b"], "line 3 has 2 cells"),
        (["file,label,group"], "has no pictures"),
        (["file,label,group,split", "0.png,a,s1,train", "1.png,b,s2,train"], "no picture is of the split test"),
        (
            ["file,label,group,split", "0.png,a,s1,train", "1.png,b,s1,test", "2.png,b,s2,test"],
            "test pictures of group 's1' have no neighbours of another group",
        ),
    ],
)
def test_what_is_wrong_is_one_line(folder, lines, message):
    with pytest.raises(UserError) as error:
        read_labelled(write(folder, *lines), None, 4)
    assert message in str(error.value)
    assert "--knn-index" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("flag", ["--knn-k", "--image-size", "--batch-size"])
@pytest.mark.parametrize("number", ["0", "-14", "1000000000"])
def test_numbers_that_make_no_sense_are_one_line(folder, flag, number, capsys):
    index = write(folder, "file,label,group", "0.png,a,s1", "1.png,b,s2")
    assert main(["evaluate", "--knn-index", str(index), "--device", "cpu", flag, number]) == 2
    assert capsys.readouterr().err == f"slt-pretrain evaluate: error: {flag} {number}: must be 1 to 16384\n"


def test_no_such_index(folder):
    with pytest.raises(UserError, match="there is no such file"):
        read_labelled(folder / "none.csv", None, 4)
