"""Ids that become file names."""

import pytest

from slt_jax.data.ids import LONGEST_ID, are_plain, check_id
from slt_jax.errors import UserError


@pytest.mark.parametrize("video_id", ["a", "a b", "..a", "a..b", "señal", "0001", "x" * LONGEST_ID])
def test_names_are_names(video_id):
    assert check_id(video_id, "meta.csv") == video_id


@pytest.mark.parametrize(
    ("video_id", "why"),
    [
        ("", "is empty"),
        (".", "folder"),
        ("..", "folder"),
        ("/etc/passwd", "as paths have"),
        ("../a", "as paths have"),
        ("a/b", "as paths have"),
        ("C:\\a", "as paths have"),
        ("a\0b", "NUL"),
        ("se\udcf1al", "not UTF-8"),
        ("é" * LONGEST_ID, "480 bytes"),
        ("x" * 1_000_000, "1000000 bytes"),
    ],
)
def test_what_could_be_a_path_is_refused_in_one_line(video_id, why):
    with pytest.raises(UserError, match=r"^meta\.csv, line 3: id ") as error:
        check_id(video_id, "meta.csv, line 3")
    message = str(error.value)
    assert why in message
    assert message.isprintable()
    assert len(message) < 250


def test_many_ids_are_looked_at_together(monkeypatch):
    monkeypatch.setattr("slt_jax.data.ids.AT_ONCE", 3)
    many = ["a", "video-1_2.b:c", "0"] * 3
    assert are_plain(many)
    assert are_plain([])
    for wrong in ("", "../a", "a b", "a\nb", "señal", "-a", "a/b", "x" * 101, " a"):
        for place in (0, 4, 9):
            assert not are_plain([*many[:place], wrong, *many[place:]])
