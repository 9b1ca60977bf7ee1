"""The commands of the guide to the corpora run, in both languages; each corpus has its row and its configuration."""

import re
import shlex
from pathlib import Path

import pytest

from slt_jax.config import load_config
from slt_jax.corpora.known import CORPORA
from slt_jax.corpora.table import LSA_T
from slt_jax.data.metadata import read_metadata
from tests.commands import command_of
from tests.corpora import official
from tests.corpora.made import FakeExtraction, write_videos

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ("corpora.md", "es/corpora.md")


def blocks(guide: str) -> list[str]:
    return re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / guide).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("slt_jax.media.extract_many.extract_videos", FakeExtraction())
    monkeypatch.chdir(tmp_path)
    official.how2sign(Path("How2Sign"), missing=0)
    write_videos(Path("films"), ["a.mp4", "b.mp4"])
    official.write(Path("films/films.tsv"), "SENTENCE_NAME\tSENTENCE\tFILE\tpart\nx\thi\ta\ttrain\ny\tbye\tb\tval\n")
    for command in "".join(blocks("corpora.md")).splitlines():
        main, arguments = command_of(shlex.split(command))
        assert main(arguments) == 0, f"{command}\n{capsys.readouterr()}"
    assert len(read_metadata("data/how2sign/meta.csv")) == 28
    assert len(read_metadata("data/films/meta.csv")) == 2


def test_both_languages_have_the_same_commands_and_numbers():
    assert blocks(GUIDES[0]) == blocks(GUIDES[1])
    numbers = [sorted(re.findall(r"\d+", (ROOT / "docs" / guide).read_text(encoding="utf-8"))) for guide in GUIDES]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("name", [*CORPORA, LSA_T])
def test_each_corpus_has_a_row_and_a_configuration_that_opens_with_its_command(name):
    for guide in GUIDES:
        text = (ROOT / "docs" / guide).read_text(encoding="utf-8")
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        for rows in (CORPORA[name].published if name in CORPORA else {}).values():
            assert f"{rows:,}".replace(",", "." if guide.startswith("es") else ",") in row
    path = ROOT / "configs" / "corpora" / f"{name}.yml"
    opening = path.read_text(encoding="utf-8").split("\ndata:")[0]
    assert f"slt-prepare {name} --source" in opening
    for word in ("Size:", "Hours, computed:", "Published BLEU-4"):
        assert word in opening
    config, _ = load_config(path, {}, [])
    assert config.model.freeze_face_backbone is True
