"""What stands before targets: the language of each row, and a prompt."""

import numpy as np
import pytest

from slt_jax.cli import flags
from slt_jax.config import build_section, load_config
from slt_jax.data.metadata import ClipRow, read_metadata
from slt_jax.data.prompts import open_prompts
from slt_jax.data.splits import open_tokenizer
from slt_jax.data.target_language import USUAL, code_of
from slt_jax.data.text import IGNORE, RowStarts, decode, load_tokenizer, train_tokenizer
from slt_jax.decoding.translate import without_prompt
from slt_jax.errors import UserError
from tests.data.test_tokenizers import TEXT, folder, of_no_class

KINDS = ["MBartTokenizer", "MBart50Tokenizer", "M2M100Tokenizer", "none"]
ROWS = ["es", "en", "es", ""]


def opened(path, kind):
    return of_no_class(path) if kind == "none" else load_tokenizer(folder(path, kind))


def tokens_of(tokenizer, labels):
    return [tokenizer.convert_ids_to_tokens(row[row != IGNORE].tolist()) for row in labels]


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_learned_and_generated_in_its_language(tmp_path, kind):
    tokenizer = opened(tmp_path, kind)
    prompts = open_prompts(tokenizer, "mine", ROWS, target_lang="es" if kind == "M2M100Tokenizer" else "es_XX")
    targets = prompts.targets([TEXT] * 4, ROWS, 16)
    found = tokens_of(tokenizer, targets.labels)
    languages = [next(token.strip("_")[:2] for token in row if token.strip("_")[:3] in ("es", "es_", "en", "en_"))
                 for row in found]  # fmt: skip
    assert languages == ["es", "en", "es", "es"]
    assert decode(tokenizer, targets.labels) == [TEXT] * 4
    assert set(targets.lengths.tolist()) == {len(found[0])}
    last = kind in ("MBartTokenizer", "none")
    starts = prompts.starts(ROWS, last_comes_first=last)
    said = starts.first if last else starts.forced[:, 0]
    assert [tokenizer.convert_ids_to_tokens(int(id)).strip("_")[:2] for id in said] == languages
    # Afterwards the tokenizer is as it was, and says what most clips are in.
    assert "es" in "".join(tokens_of(tokenizer, open_prompts(tokenizer, "mine", [""], chosen="es" if kind ==
                           "M2M100Tokenizer" else "es_XX").targets([TEXT], [""], 16).labels)[0])  # fmt: skip


def test_the_most_usual_language_is_the_tokenizers_own(tmp_path):
    given = folder(tmp_path / "given", "MBart50Tokenizer")
    open_tokenizer(str(given), tmp_path / "kept", [TEXT], spoken=["de", "es", "es"])
    assert load_tokenizer(tmp_path / "kept").tgt_lang == "es_XX"
    with pytest.raises(UserError, match="--target-lang is not given, and the tokenizer"):
        open_tokenizer(str(given), tmp_path / "other", [TEXT], spoken=["es", ""])


@pytest.mark.parametrize(
    ("said", "code"),
    [("es", "spa_Latn"), ("ES", "spa_Latn"), ("spa", "spa_Latn"), ("spa_Latn", "spa_Latn"), ("zh", "zho_Hans"),
     ("zho_Hant", "zho_Hant"), ("zho", None), ("LSA", None), ("de", None)],
)  # fmt: skip
def test_a_language_of_two_letters_is_found_among_nllbs(said, code):
    codes = {"spa_Latn": 5, "eng_Latn": 6, "zho_Hans": 7, "zho_Hant": 8}
    assert code_of(said, codes) == code
    assert code_of("es", {"es_XX": 1, "spa_Latn": 2}) == "es_XX"


def test_the_known_codes_are_nllbs():
    """NLLB's own list; transformers keeps it in the tokenizer's module."""
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    assert not {*USUAL.values()} - {*FAIRSEQ_LANGUAGE_CODES}


def test_one_language_is_as_without_the_column(tmp_path):
    tokenizer = load_tokenizer(folder(tmp_path, "MBart50Tokenizer"))
    assert open_prompts(tokenizer, "mine", ["es"] * 2).starts(["es"], last_comes_first=True) is None
    prompts = open_prompts(tokenizer, "mine", ["LSA"] * 2, target_lang="es_XX")  # what the signs are called
    assert prompts.starts(["LSA"], last_comes_first=True) is None
    with pytest.raises(UserError, match=r"column lang says 'en', and --target-lang says es_XX; make them agree"):
        open_prompts(tokenizer, "mine", ["en"], target_lang="es_XX")
    with pytest.raises(UserError, match=r"says 'LSA', which the tokenizer mine does not know; its languages are ar_AR"):
        open_prompts(tokenizer, "mine", ["LSA", "es"], target_lang="es_XX")


def test_the_source_has_a_name_of_its_own(tmp_path):
    given = folder(tmp_path / "given", "MBart50Tokenizer")
    open_tokenizer(str(given), tmp_path / "kept", [TEXT], language="es_XX", source_lang="de_DE")
    kept = load_tokenizer(tmp_path / "kept")
    assert (kept.src_lang, kept.tgt_lang) == ("de_DE", "es_XX")
    with pytest.raises(UserError, match=r"--source-lang 'xx_XX': the tokenizer .* has no such language"):
        open_tokenizer(str(given), tmp_path / "other", [TEXT], language="es_XX", source_lang="xx_XX")
    with pytest.raises(UserError, match=r"--source-lang de: the tokenizer .* puts no language into texts"):
        open_tokenizer(str(folder(tmp_path / "t5", "T5Tokenizer")), tmp_path / "other", [TEXT], source_lang="de")


@pytest.mark.parametrize("kind", ["T5Tokenizer", "ours", "MBart50Tokenizer"])
def test_a_prefix_stands_before_every_text(tmp_path, kind):
    tokenizer = train_tokenizer([TEXT], tmp_path, 300) if kind == "ours" else load_tokenizer(folder(tmp_path, kind))
    prompts = open_prompts(tokenizer, "mine", ["es", "en"], prefix="{lang} : ")
    targets = prompts.targets([TEXT, "agua"], ["es", "en"], 32)
    starts = prompts.starts(["es", "en"], last_comes_first=False)
    for row, forced in zip(targets.labels, starts.forced, strict=True):
        known = forced[forced >= 0]
        np.testing.assert_array_equal(row[: len(known)], known)
    generated = np.concatenate([np.full((2, 1), tokenizer.pad_token_id), targets.labels], axis=1)
    assert decode(tokenizer, without_prompt(generated, starts)) == [TEXT, "agua"]
    assert "es" in decode(tokenizer, targets.labels)[0] != TEXT


def test_what_a_prefix_lacks_is_said(tmp_path):
    tokenizer = load_tokenizer(folder(tmp_path, "T5Tokenizer"))
    with pytest.raises(UserError, match=r"--prefix '\{lang\}: ': a row's column lang is empty; fill it, or"):
        open_prompts(tokenizer, "mine", ["es", ""], prefix="{lang}: ")
    prompts = open_prompts(tokenizer, "mine", ["en", ""], prefix="{lang} ", target_lang="es")
    assert decode(tokenizer, prompts.targets(["a"], [""], 16).labels) == ["es a"]
    with pytest.raises(UserError, match="--prefix has 2 tokens, and no text fits beside it; raise --max-target-length"):
        open_prompts(tokenizer, "mine", [""], prefix="mi casa").targets([TEXT], [""], 3)
    long = open_prompts(tokenizer, "mine", [""], prefix="mi casa").targets([TEXT], [""], 5)
    assert tokens_of(tokenizer, long.labels) == [["▁mi", "▁casa", "▁mi", "▁casa", "</s>"]]
    assert long.lengths.tolist() == [7]


def test_only_what_was_to_be_said_is_hidden():
    tokens = np.array([[0, 5, 6, 7, 8], [0, 5, 9, 9, 1]])
    rows = RowStarts(np.array([-1, -1]), np.array([[5, 6], [5, -1]]))
    assert without_prompt(tokens, rows).tolist() == [[0, -100, -100, 7, 8], [0, -100, 9, 9, 1]]
    wide = RowStarts(np.array([-1]), np.array([[5, 6, 7, 8, 9, 9]]))  # a search may be shorter
    assert without_prompt(tokens[:1], wide).tolist() == [[0, -100, -100, -100, -100]]


def test_the_column_is_read_and_the_keys_are_renamed(tmp_path):
    (tmp_path / "meta.csv").write_text("id,text,Lang\na,hola,es\nb,hello,\n")
    assert [clip.lang for clip in read_metadata(tmp_path / "meta.csv").values()] == ["es", ""]
    assert ClipRow("a", "").lang == ""
    assert build_section("data", {"target_language": "es_XX"}).target_lang == "es_XX"
    (tmp_path / "old.yml").write_text("data: {target_language: de_DE}\n")
    top = flags.command_parser("x", "")
    flags.add_config_flags(top)
    for argv, wanted in (
        ([], "de_DE"), (["--target-language", "es_XX"], "es_XX"), (["--target-lang", "fr_XX"], "fr_XX"),
        (["--set", "data.target_language=it_IT"], "it_IT"),
    ):  # fmt: skip
        arguments = flags.parse(top, argv)
        config, _ = load_config(tmp_path / "old.yml", flags.config_flags(arguments), getattr(arguments, "set", []))
        assert config.data.target_lang == wanted
