"""Corpus CSVs as they come: what is repaired, what is dropped and why, and how videos become splits."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slt_jax.corpora.partition import partition, same_footage
from slt_jax.corpora.subtitled import read_corpus
from slt_jax.errors import UserError
from tests.corpora.made import HEADER, write_csv
from tests.data.conftest import SHARED

LSA_T = SHARED / "lsa_t" / "meta.csv"
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
needs_lsa_t = pytest.mark.skipif(not LSA_T.exists(), reason="LSA-T's metadata is not here")


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (";hola;v;1;2;1", "no id", ""),
        ("a;  ;v;1;2;1", "no text", ""),
        ("a;# NOMBRE?;v;1;2;1", "no text", "NOMBRE"),
        ("a;#N/A;v;1;2;1", "no text", "#N/A"),
        ("a;hola;v;;;1", "no start and end", ""),
        ("a;hola;v;1;;1", "start or end cannot be read", "end empty"),
        ("a;hola;v;16.532.999.999;20;1", "start or end cannot be read", "16.532.999.999"),
        ("a;hola;v;2;1;1", "end not after start", "start 2, end 1"),
        ("a;hola;v;1;1;1", "end not after start", ""),
        ("a;hola;v;-1;1;1", "start before the video", ""),
        ("a;hola;v;1;1.1;1", "absurd duration", "0.1 s"),
        ("a;hola;v;1;1001;1", "absurd duration", "1000 s"),
        ("a;hola;;1;2;1", "no video", ""),
        ("a;hola; chau;v;1;2;1", "more cells than columns", "7 cells"),
        ("a", "fewer cells than columns", "1 cell "),
        ("good;hola;v;0;2;2", "id used before", "on line 2, with the same values"),
        ("good;chau;v;0;2;2", "id used before", "other values"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_with_its_reason(tmp_path, row, reason, detail):
    corpus = read_corpus(write_csv(tmp_path / "c.csv", ["good;hola;v;0;2;2", row, "last;hola;v;2;4;2"]))
    assert [clip.video_id for clip in corpus.clips] == ["good", "last"]
    (drop,) = corpus.drops
    assert (drop.line, drop.reason) == (3, reason)
    assert detail in drop.detail
    assert corpus.rows == 3


def test_repairs_say_what_stood_there_and_what_it_was_taken_from(tmp_path):
    lines = "[(' ¡hola!  ¿cómo', 165.32999999999998, 167.0), ('están?', 167.0, 168.18)]"
    path = write_csv(
        tmp_path / "c.csv",
        [
            f'a;# NOMBRE?;v;16.532.999.999.999.900;168.18;28.500.000.000.000.200;"{lines}"',
            "b;  dos   tres ;v;1,5;4;;",
            "c;cuatro;v;4;6;2.0;",
            "d;cinco;v;4;6;9;",
        ],
        HEADER + ";split",
    )
    corpus = read_corpus(path)
    assert [(clip.text, clip.start, clip.end) for clip in corpus.clips] == [
        ("¡hola! ¿cómo están?", pytest.approx(165.33), 168.18), ("dos tres", 1.5, 4.0), ("cuatro", 4.0, 6.0),
        ("cinco", 4.0, 6.0),
    ]  # fmt: skip
    assert [(r.line, r.video_id, r.column, r.found, r.value, r.source) for r in corpus.repairs] == [
        (2, "a", "text", "# NOMBRE?", "¡hola! ¿cómo están?", "subtitle lines"),
        (2, "a", "start", "16.532.999.999.999.900", "165.330", "subtitle lines"),
        (2, "a", "duration", "28.500.000.000.000.200", "2.850", "end - start"),
        (3, "b", "duration", "", "2.500", "end - start"),
        (5, "d", "duration", "9", "2.000", "end - start"),
    ]
    assert not corpus.drops


def test_the_id_names_the_video_where_no_column_does(tmp_path):
    (clip,) = read_corpus(write_csv(tmp_path / "c.csv", ["a.b,hola"], "video_id,texto")).clips
    assert (clip.video, clip.start, clip.duration) == ("a.b", None, None)


@pytest.mark.parametrize("header", ["id;video;start;end", "text;video;start;end"])
def test_a_table_without_id_or_text_is_refused(tmp_path, header):
    with pytest.raises(UserError, match=r"c\.csv: the header has no column"):
        read_corpus(write_csv(tmp_path / "c.csv", ["a;b;1;2"], header))


HOW2SIGN = "VIDEO_ID\tVIDEO_NAME\tSENTENCE_ID\tSENTENCE_NAME\tSTART\tEND\tTEXT"


def how2sign_rows(videos="abc", sentences=4):
    return [
        f"{v}\t{v}-rgb\t{v}_{s}\t{v}_{s}-rgb\t{s}0.5\t{s}6.25\tsentence {s}" for v in videos for s in range(sentences)
    ]


def test_sentences_of_a_video_are_named_by_the_column_that_tells_them_apart(tmp_path, capsys):
    corpus = read_corpus(write_csv(tmp_path / "c.csv", how2sign_rows(), HOW2SIGN))
    assert len(corpus.clips) == corpus.rows == 12
    assert (corpus.clips[1].video_id, corpus.clips[1].video) == ("a_1-rgb", "a-rgb")
    assert "the column VIDEO_ID repeats, so SENTENCE_NAME names the clips" in capsys.readouterr().out


def test_the_video_is_still_named_where_only_its_id_names_it(tmp_path):
    rows = ["a;a_0;uno;0;2", "a;a_1;dos;2;4", "b;b_0;tres;0;2"]
    corpus = read_corpus(write_csv(tmp_path / "c.csv", rows, "video_id;sentence_id;text;start;end"))
    assert [(clip.video_id, clip.video) for clip in corpus.clips] == [("a_0", "a"), ("a_1", "a"), ("b_0", "b")]


def test_losing_most_rows_to_a_repeated_id_is_an_error(tmp_path):
    rows = [f"a;frase {n};v;{n};{n + 1};1" for n in range(4)]
    with pytest.raises(UserError, match=r"line 3: id a is on line 2 too, and 3 of 4 rows repeat an id") as error:
        read_corpus(write_csv(tmp_path / "c.csv", rows))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['a;"uno;v;0;2;2', "b;dos;v;2;4;2", 'c;tres";v;4;6;2'], "line 2: a quotation mark opens here"),
        (["a;uno", "dos;v;0;2;2", "c;tres;v;4;6;2"], "line 2: the row ends after 2 of 6 cells, and line 3 has"),
        (["a;uno;v;0;2;2", "b;d\0s;v;2;4;2"], "line 3: a NUL character"),
    ],
)
def test_rows_that_run_into_each_other_are_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_corpus(write_csv(tmp_path / "c.csv", rows))


@settings(
    max_examples=200, deadline=5000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    tail=st.lists(
        st.sampled_from(["a", "b", "0", "9", "1e999", "#N/A", "[('x',1,", ")]", '"', ";", ";", ";", "\n", "\n", " "]),
        max_size=80,
    ).map("".join)
)
def test_every_row_of_any_table_is_a_clip_or_a_drop(tmp_path, tail):
    path = tmp_path / "c.csv"
    path.write_text("id;text;video;start;end;split\n" + tail, encoding="utf-8")
    try:
        corpus = read_corpus(path)
    except UserError as error:
        problem = str(error)
    else:
        assert len(corpus.clips) + len(corpus.drops) == corpus.rows
        problem = ""
    assert len(problem.splitlines()) <= 1


@needs_lsa_t
def test_every_usable_row_of_lsa_t_is_kept():
    """Against a reading of its own: rows with plain times, or whose subtitle lines have them."""
    corpus = read_corpus(LSA_T)
    assert corpus.rows == 8459
    assert len(corpus.clips) + len(corpus.drops) == corpus.rows
    # The others are cut off after the text: no video, no times, nothing to take them from.
    assert Counter(drop.reason for drop in corpus.drops) == {"no start and end": 47}
    assert all(0.5 < clip.duration < 81 for clip in corpus.clips)
    assert not [clip for clip in corpus.clips if clip.text.startswith("#")]
    repaired = Counter(repair.column for repair in corpus.repairs)
    assert repaired == {"duration": 8170, "start": 174, "end": 174, "text": 9}
    by_id = {clip.video_id: clip for clip in corpus.clips}
    clip = by_id["noticias-en-lengua-de-senas-argentina-resumen-semanal-29112020_26"]  # 16.532.999.999.999.900
    assert (clip.start, clip.end) == (pytest.approx(165.33), 168.18)


# --- splits ----------------------------------------------------------------------------------------------------------


def kolmogorov_smirnov(one, other) -> float:
    """The largest distance of the two distributions, over what 1 in 100 pairs of random samples would exceed."""
    points = np.sort(np.concatenate([one, other]))
    both = (np.searchsorted(np.sort(sample), points, side="right") / len(sample) for sample in (one, other))
    distance = np.abs(np.subtract(*both)).max()
    return distance / (1.63 * np.sqrt((len(one) + len(other)) / (len(one) * len(other))))


def videos_of_unlike_lengths(count: int = 60) -> dict[str, list[float]]:
    """Videos of 20 to 150 clips whose clips are short in some and long in others."""
    rng = np.random.default_rng(5)
    return {f"video {n}": rng.gamma(2, rng.uniform(1, 6), rng.integers(20, 150)).tolist() for n in range(count)}


@pytest.mark.parametrize("seed", range(5))
def test_splits_have_their_shares_and_clips_of_all_lengths(seed):
    videos = videos_of_unlike_lengths()
    split_of = partition(videos, SHARES, seed)
    assert split_of.keys() == videos.keys()
    lengths = {split: np.concatenate([videos[v] for v in videos if split_of[v] == split]) for split in SHARES}
    total = sum(map(len, lengths.values()))
    for split, share in SHARES.items():
        assert len(lengths[split]) / total == pytest.approx(share, abs=0.02)
    assert kolmogorov_smirnov(lengths["train"], lengths["val"]) < 1
    assert kolmogorov_smirnov(lengths["train"], lengths["test"]) < 1


def test_whole_videos_at_random_would_not_pass():
    """So the test above can fail."""
    videos = videos_of_unlike_lengths()
    far = 0
    for seed in range(20):
        names = np.random.default_rng(seed).permutation(list(videos))
        train, *others = (np.concatenate([videos[name] for name in part]) for part in np.split(names, [48, 54]))
        far += max(kolmogorov_smirnov(train, other) for other in others) > 1
    assert far >= 15


def test_splits_depend_on_the_seed_and_not_on_the_order():
    videos = videos_of_unlike_lengths()
    turned = {name: lengths[::-1] for name, lengths in reversed(videos.items())}
    assert partition(videos, SHARES, 3) == partition(turned, SHARES, 3)
    assert partition(videos, SHARES, 3) != partition(videos, SHARES, 4)


@pytest.mark.parametrize("count", [3, 4, 7])
@pytest.mark.parametrize("known", [True, False])
def test_no_split_of_a_small_corpus_is_empty(count, known):
    sizes = [200, *[1] * (count - 1)]
    videos = {f"v{n}": [2.0 * n + 1 if known else None] * size for n, size in enumerate(sizes)}
    split_of = partition(videos, SHARES, 0)
    assert set(split_of.values()) == set(SHARES)
    assert split_of["v0"] == "train"


def test_small_shares_of_large_videos_are_filled_too():
    videos = {f"v{n}": [3.0] * 100 for n in range(4)}
    split_of = partition(videos, {"train": 0.98, "val": 0.01, "test": 0.01}, 0)
    assert sorted(split_of.values()) == ["test", "train", "train", "val"]


def test_fewer_videos_than_splits():
    with pytest.raises(UserError, match=r"--splits: 2 videos cannot fill 3 splits.* test would be empty") as error:
        partition({"a": [1.0], "b": [2.0]}, SHARES, 0)
    assert "\n" not in str(error.value)
    split_of = partition({"a": [1.0], "b": [2.0]}, {"train": 0.5, "val": 0.5, "test": 0}, 0)
    assert set(split_of.values()) == {"train", "val"}


def said(name: str, count: int) -> list[str]:
    return [f"{name} dice la frase número {n}" for n in range(count)]


def test_a_compilation_stays_with_what_it_is_made_of():
    texts = {"a": said("a", 40), "b": said("b", 40), "best of": said("a", 9) + said("b", 9), "c": said("c", 40),
             "few of a": said("d", 40) + said("a", 4), "e": said("e", 80), "little of e": said("f", 80) + said("e", 6),
             "short phrases": ["muy bien", "gracias", "chau", "hola", "sí", "no"] * 3 + said("g", 9),
             "short phrases too": ["muy bien", "gracias", "chau", "hola", "sí", "no"] * 3 + said("h", 9)}  # fmt: skip
    groups = same_footage(texts)
    assert [group for group in groups if len(group) > 1] == [["a", "b", "best of"]]
    assert sorted(video for group in groups for video in group) == sorted(texts)


def test_a_compilation_is_found_in_texts_without_spaces():
    def spoken(name: str, count: int) -> list[str]:
        return [f"{name}今天在学校里说了第{'一二三四五六七八九十'[n % 10] * (1 + n // 10)}句话" for n in range(count)]

    texts = {
        "a": spoken("张", 40),
        "best of": spoken("张", 9) + spoken("李", 40),
        "c": spoken("王", 80),
        "d": spoken("刘", 80),
    }
    assert [group for group in same_footage(texts) if len(group) > 1] == [["a", "best of"]]


def test_what_every_video_says_joins_none():
    texts = {f"v{n}": said(f"v{n}", 20) + (said("la presentadora", 6) if n < 25 else []) for n in range(60)}
    assert same_footage(texts) == [[video] for video in sorted(texts)]


def test_signers_of_one_list_of_sentences_are_not_taken_for_the_same():
    texts = {f"signer {n}": said("alguien", 30) for n in range(6)}
    assert sorted(same_footage(texts)) == [[name] for name in sorted(texts)]


@needs_lsa_t
def test_lsa_t_is_split_without_showing_a_programme_twice():
    clips = read_corpus(LSA_T).clips
    texts: dict[str, list[str]] = {}
    for clip in clips:
        texts.setdefault(clip.video, []).append(clip.text)
    together = [group for group in same_footage(texts) if len(group) > 1]
    assert [len(group) for group in together] == [5]
    assert any("programa-especial" in video for video in together[0])
