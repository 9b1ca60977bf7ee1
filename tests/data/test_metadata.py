"""CSV files in every form that circulates, and the errors a user can act on."""

import csv
import io
import os
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slt_jax.data.metadata import ClipRow, read_index, read_metadata, select
from slt_jax.data.tables import read_rows
from slt_jax.errors import UserError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
LSA_T = SHARED / "lsa_t" / "meta.csv"
REAL = SHARED / "real_clips"


def written(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [";", ",", "\t"])
@pytest.mark.parametrize("header", [("id", "texto"), ("video_id", "text"), ("Video_ID", " TEXTO ")])
def test_every_form_gives_the_same_clips(tmp_path, encoding, newline, delimiter, header):
    rows = [header, ("clip_1", '  "¿qué, está mal; eh?"'.replace('  "', '"  ')), ("clip_2", "mañana")]
    path = written(tmp_path / "meta.csv", newline.join(delimiter.join(row) for row in rows) + newline * 2, encoding)
    assert read_metadata(path) == {
        "clip_1": ClipRow("clip_1", "¿qué, está mal; eh?"),
        "clip_2": ClipRow("clip_2", "mañana"),
    }


def test_numbers_and_other_columns(tmp_path):
    content = (
        "id;texto;fps;duration;frame_count;signer\n"
        "a;uno;25;2.0;50.0;ana\n"
        "b;dos;29,97;;;\n"
        "c;tres;;6.359.999.999.999.990;nan;\n"
        "d;cuatro\n"
    )
    clips = read_metadata(written(tmp_path / "m.csv", content))
    assert clips["a"] == ClipRow("a", "uno", 25.0, 2.0, 50)
    assert clips["a"].extra == {"signer": "ana"}
    assert clips["b"] == ClipRow("b", "dos", 29.97)
    assert clips["c"] == ClipRow("c", "tres")
    assert clips["d"] == ClipRow("d", "cuatro")


def test_damaged_duration_comes_from_start_and_end(tmp_path):
    content = (
        "id;text;start;end;duration\n"
        "a;uno;37.18;43.54;6.359.999.999.999.990\n"
        "b;dos;16.532.999.999.999.900;20;4.759.999.999\n"
        "c;tres;1;2;0.9\n"
        "d;cuatro;2;5;\n"
    )
    clips = read_metadata(written(tmp_path / "m.csv", content))
    assert [clip.duration for clip in clips.values()] == [pytest.approx(6.36), None, 0.9, 3.0]


def test_quotes_newlines_and_stray_separators(tmp_path):
    content = 'id;texto\na;"dijo ""hola""; y se fue"\nb;"dos\nlíneas"\nc;sin comillas; pero con separador\nd;fin;;\n'
    texts = {clip.video_id: clip.text for clip in read_metadata(written(tmp_path / "m.csv", content)).values()}
    assert texts == {
        "a": 'dijo "hola"; y se fue',
        "b": "dos\nlíneas",
        "c": "sin comillas; pero con separador",
        "d": "fin",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no column id or video_id .*empty file"),
        ("name;texto\na;b\n", "has no column id or video_id .found: name, texto"),
        ("id;traduccion\na;b\n", "has no column texto or text"),
        ("id;texto\n;hola\n", "line 2: the id is empty"),
        ("id;texto\na;hola\n\na;chau\n", "line 4: id a occurs twice"),
        ("id;texto;fps\na;hola; chau;25\n", "line 2: 4 cells where the header has 3"),
        ('id;texto;fps\na;uno;1\nb;"dos;2\nc;tres;3\n', "line 3: a quotation mark opens here"),
        ('id;texto\na;uno\nb;"dos\nc;tres\n', "line 3: a quotation mark opens here"),
        ('id;texto\na;uno\nb;"dos\n', "line 3: a quotation mark opens here"),
        ('id;texto\na;uno\nb;"dos', "line 3: a quotation mark opens here"),
        ('id;texto\na;"uno\nb;dos"\n', "line 2: a quotation mark opens here and takes in another row"),
        ('id;texto;fps\na;"uno;1\nb;dos";2\n', "line 2: a quotation mark opens here and takes in another row"),
        ('texto;id\n"uno;a\ndos";b\n', "line 2: a quotation mark opens here and takes in another row"),
        ('id;texto\nc 1;"uno\nc 2;dos\nc 3;tres"\n', "line 2: a quotation mark opens here and takes in another row"),
        ('id;texto;a;b\nc;"uno;x;"y"\n', "line 2: 2 cells where the header has 4; a quotation mark"),
        ("id;texto\na;uno\ndos\n", "line 3: 1 cell where the header has 2; quote the texts"),
        ("id;fps;texto\na;25\n", "line 2: 2 cells where the header has 3"),
        (
            "id;texto;fps\na;uno;1\nb;dos\ntres;2\n",
            "line 3: the row ends after 2 of 3 cells, and line 4 has the others",
        ),
        ("id;texto\na;uno\nb;dos\na;tres\n", r"line 4: id a occurs twice .*first on line 2"),
        ("id;texto\n../a;uno\n", "line 2: id '../a' has a /"),
        ("id;texto\n/etc/a;uno\n", "line 2: id '/etc/a' has a /"),
        ("id;texto\n..;uno\n", "line 2: id '..' is the name of a folder"),
        ('id;texto\n"a\nb";uno\n', r"line 2: id 'a\\nb' has a line break"),
        ("id;texto\na;u\0no\n", "line 2: a NUL character"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    path = written(tmp_path / "m.csv", content)
    with pytest.raises(UserError, match=message) as error:
        read_metadata(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_identical_rows_are_not_an_error(tmp_path, capsys):
    assert len(read_metadata(written(tmp_path / "m.csv", "id;texto\na;hola\na;hola\n"))) == 1
    assert "m.csv: 1 row the same as an earlier one, read once (line 3)" in capsys.readouterr().out


def test_short_rows_are_told(tmp_path, capsys):
    assert len(read_metadata(written(tmp_path / "m.csv", "id;texto;fps;signer\na;uno\nb;dos;25;x\nc;tres\n"))) == 3
    assert "m.csv: 2 rows shorter than the header" in (out := capsys.readouterr().out)
    assert "(line 2, 4)" in out


def test_texts_of_several_lines_are_read_if_none_looks_like_a_row(tmp_path):
    content = 'texto,id,fps\n"hola, ¿qué tal?\ny bien, gracias",a,25\n"uno\r\n\r\ndos, tres",b,\n'
    clips = read_metadata(written(tmp_path / "m.csv", content))
    assert [clip.text for clip in clips.values()] == ["hola, ¿qué tal?\ny bien, gracias", "uno\r\n\r\ndos, tres"]


@pytest.mark.parametrize(
    ("mark", "piece", "times", "message"),
    [
        ("", "x", 50_000_000, "line 2: the line has more than 1000000 characters"),
        ('"', "x\n", 25_000_000, "line 2: a cell has more than 131072 characters; perhaps a quotation mark"),
        ("", '"x\n";', 400_000, "line 2: the row has more than 1000000 characters"),
        ("", "x", 200_000, "line 2: a cell has more than 131072 characters"),
    ],
)
@pytest.mark.parametrize("read", [read_metadata, read_index])
def test_huge_rows_are_refused_in_bounded_memory(tmp_path, mark, piece, times, message, read):
    path = written(tmp_path / "m.csv", "id;texto\na;" + mark + piece * times)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message) as error:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 300 + len(str(path))


def test_a_pipe_is_refused_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "m.csv")
    with pytest.raises(UserError, match=r"m\.csv: is a pipe, device or socket, not a file"):
        read_metadata(tmp_path / "m.csv")
    with pytest.raises(UserError, match=r"Is a directory"):
        read_metadata(tmp_path)
    with pytest.raises(UserError, match="null"):
        read_metadata("a\0b")


def test_other_encodings_and_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        read_metadata(written(tmp_path / "m.csv", "id;texto\na;qué\n", "latin-1"))
    with pytest.raises(UserError, match=r"absent\.csv: No such file"):
        read_metadata(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    "content",
    [
        "a\nb_f2\n",
        "video_id\na\nb_f2\n",
        "id\r\na\r\nb_f2\r\n",
        "0\na\nb_f2\n",
        "\ufeffvideo_id\na\n\nb_f2\n\n",
        ",0\n0,a\n1,b_f2\n",
        ",video_id\n7,a\n9,b_f2\n",
        "0,a\n1,b_f2\n",
        "split;video_id\ntrain;a\ntrain;b_f2\n",
        "video_id,signer\na,x\nb_f2,y\n",
        "a,x\nb_f2,y\n",
        " a \n\tb_f2\n",
    ],
)
def test_every_form_of_an_index(tmp_path, content):
    assert read_index(written(tmp_path / "index.csv", content)) == ["a", "b_f2"]


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ("0,a\n5,b\n", ["0", "5"]),  # 0 is a header only where pandas writes it
        ("0\n12\n2\n", ["12", "2"]),
        (",0\n4,a\n2,b\n", ["a", "b"]),
        ("0,1\na,x\nb,y\n", ["a", "b"]),
    ],
)
def test_a_first_id_is_not_taken_for_a_header(tmp_path, content, ids):
    assert read_index(written(tmp_path / "index.csv", content)) == ids


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "names no clips"),
        ("video_id\n\n", "names no clips"),
        ("a\nb\na\n", r"line 3: a is listed twice .first on line 1"),
        ("split,video_id\ntrain,a\ntrain,\n", "line 3: the id is empty"),
        ("split,video_id\ntrain,a\ntrain\n", "line 3: 1 cell where the first row has 2"),
        ("video_id,text\na,hola\nb,que\ntal\n", "line 4: 1 cell where the first row has 2"),
        ("a\n../b\n", r"line 2: id '\.\./b' has a /"),
        ("/etc/b\n", "line 1: id '/etc/b' has a /"),
        ('video_id\n"a\nb"\n', "line 2: id .* line break"),
        ('video_id,text\na,"x\nb,y"\n', "line 2: a quotation mark opens here and takes in another row"),
        ("0\n1\n2\n", "line 1: 0 may be a header or an id"),
        ("name\na\nb\n", "line 1: a header .name. without a column video_id"),
    ],
)
def test_index_errors(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_index(written(tmp_path / "index.csv", content))


def test_a_row_that_cannot_be_read_is_told_before_an_id_that_cannot_be_meant(tmp_path):
    path = written(tmp_path / "index.csv", 'video_id,text\n../a,x\nb,"open\n')
    with pytest.raises(UserError, match="line 3: a quotation mark opens here"):
        read_index(path)


def test_many_rows_take_little_memory(tmp_path):
    """Objects of each row took a kilobyte: a gigabyte for a million clips."""
    ids = [f"video{number:08d}" for number in range(5000)]
    rows = "".join(f"{i};una seña de {i};25;{n / 7:.3f};s{n % 9};es\n" for n, i in enumerate(ids))
    meta = written(tmp_path / "meta.csv", "id;texto;fps;duration;signer;lang\n" + rows)
    index = written(tmp_path / "index.csv", "\n".join(["video_id", *ids]))
    tracemalloc.start()
    try:
        metadata, listed = read_metadata(meta), read_index(index)
        assert tracemalloc.get_traced_memory()[0] < 330 * len(ids)
    finally:
        tracemalloc.stop()
    assert listed == ids == list(metadata)
    assert metadata[ids[7]] == ClipRow(ids[7], f"una seña de {ids[7]}", 25.0, 1.0)
    assert dict(metadata[ids[7]].extra) == {"signer": "s7", "lang": "es"}


def test_select_names_what_is_missing():
    metadata = {"a": ClipRow("a", "hola"), "empty": ClipRow("empty", "")}
    assert select(["a"], metadata, "val.csv") == [metadata["a"]]
    with pytest.raises(UserError, match=r"val\.csv: 6 of 7 clips have no row .* metadata: m0, m1, m2, m3, m4, \.\.\."):
        select(["a", *(f"m{n}" for n in range(6))], metadata, "val.csv")
    with pytest.raises(UserError, match=r"val\.csv: 1 of 2 clips have an empty text: empty"):
        select(["a", "empty"], metadata, "val.csv")


@pytest.mark.skipif(not LSA_T.exists(), reason="the LSA-T metadata is not here")
def test_lsa_t_is_read_whole():
    clips = read_metadata(LSA_T)
    # Counted without the csv module: the file has one row a line.
    lines = LSA_T.read_text(encoding="utf-8-sig").splitlines()
    assert len(clips) == 8459 == len(lines) - 1
    assert list(clips) == [line.split(";")[0] for line in lines[1:]]
    with LSA_T.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter=";"):
            clip = clips[row["id"]]
            assert clip.text == row["text"].strip() != ""
            assert clip.extra["video"] == row["video"]
            if row["start"].count(".") == 1 and row["end"].count(".") == 1 and row["duration"].count(".") > 1:
                assert clip.duration == pytest.approx(float(row["end"]) - float(row["start"]))
    durations = [clip.duration for clip in clips.values() if clip.duration is not None]
    assert len(durations) == 8459 - 279  # the rest has neither a duration nor both limits
    assert 0.5 < min(durations) < max(durations) < 100


@pytest.mark.skipif(not REAL.exists(), reason="the real clips are not here")
def test_real_clips_select():
    metadata = read_metadata(REAL / "meta.csv")
    names = ("train", "val", "test")
    splits = {name: select(read_index(REAL / "index" / f"{name}.csv"), metadata, name) for name in names}
    assert {name: len(clips) for name, clips in splits.items()} == {"train": 6, "val": 1, "test": 1}
    assert splits["val"][0].text == "¿qué está mal?"


# --- any table -------------------------------------------------------------------------------------------------------

IDS = st.text(st.characters(categories=("L", "Nd"), include_characters="_-"), min_size=1, max_size=6)
WORDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
TEXTS = st.one_of(WORDS, st.lists(st.sampled_from(["a", "b ", "ñ", '"', ";", ",", "\t", " ", "\n", "\r"])).map("".join))
bounded = settings(
    max_examples=300, deadline=5000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def outcome(read, path):
    """What a reader gives, or the message with which it refuses."""
    try:
        return read(path), None
    except UserError as error:
        return None, str(error)


@bounded
@given(
    rows=st.lists(st.tuples(IDS, TEXTS, WORDS), min_size=1, max_size=6, unique_by=lambda row: row[0]),
    delimiter=st.sampled_from(";,\t"),
    form=st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\r\n"), (csv.QUOTE_ALL, "\n")]),
)
def test_what_csv_writes_is_read_back(tmp_path, rows, delimiter, form):
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, quoting=form[0], lineterminator=form[1])
    writer.writerows([("id", "texto", "nota"), *rows])
    clips, problem = outcome(read_metadata, written(tmp_path / "m.csv", buffer.getvalue()))
    if problem:  # only where a text has, on a line of its own, what could be a row
        assert "takes in another row" in problem
        assert any(re.search(r"[\r\n]", cell) for row in rows for cell in row[1:])
    else:
        found = [(clip.video_id, clip.text, clip.extra["nota"]) for clip in clips.values()]
        assert found == [(video_id, text.strip(), note.strip()) for video_id, text, note in rows]


PIECES = st.lists(
    st.sampled_from(
        ["id", "texto", "a", "b1", "../c", "0", "1", '"', '""', ";", ",", "\t", "\n", "\r\n", "\r", " ", "\0"]
    ),
    max_size=60,
).map(lambda pieces: "".join(pieces).encode())


@bounded
@given(content=st.one_of(st.binary(max_size=200), PIECES, PIECES.map(lambda tail: b"id;texto;fps\n" + tail)))
def test_any_bytes_give_rows_or_one_line(tmp_path, content):
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    for read in (read_metadata, read_index):
        ids, problem = outcome(read, path)
        assert len((problem or "").splitlines()) == (ids is None)
        assert not [i for i in ids or () if not i.strip() or "/" in i or "\n" in i or i in (".", "..")]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_plain_and_quoted_pieces_give_the_rows_that_csv_gives(tmp_path, monkeypatch, newline):
    """A file is read in pieces; those without a quotation mark are not given to csv."""
    monkeypatch.setattr("slt_jax.data.lines.PIECE", 40)
    rows = [["id", "texto", "x"]]
    for number in range(60):
        text = f"a text, {number}" if number % 7 else 'with "marks"; and\nanother line of it\nand a third'
        rows.append([f"v{number}", text, "" if number % 5 else "ñ\u2028"])
    path = tmp_path / "m.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=";", lineterminator=newline).writerows(rows)
    found = list(read_rows(path, ";", ("id",)))
    assert [cells for _, cells in found] == rows
    content = path.read_bytes().decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for line, cells in found:
        assert content[line - 1].startswith(f"{cells[0]};")


def test_a_line_of_a_plain_piece_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("slt_jax.data.lines.PIECE", 40)
    lines = [b"id;texto", *(b"v%d;hola" % number for number in range(60))]
    for damage, reason in ((b"v40;\xff", "line 42: not UTF-8"), (b"v40;\0", "line 42: a NUL character")):
        lines[41] = damage
        path = tmp_path / "m.csv"
        path.write_bytes(b"\n".join(lines))
        with pytest.raises(UserError, match=reason):
            list(read_rows(path, ";", ("id",)))
