"""The language of the targets, for tokenizers of many languages: mBART, NLLB, M2M100 and their like.

They put a language before or after each text, and take English where nobody says otherwise.
"""

import json
import re
from typing import Any

from slt_jax.errors import UserError, nearest, shown

CODE = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]{1,3}|__[A-Za-z_]{2,12}__")  # es_XX, spa_Latn, __es__
FLAG = "--target-lang"
# What NLLB calls languages that have a code of two letters, in the script in which each is usually written (the likely
# subtags of Unicode's CLDR).
USUAL = {
    "ar": "arb_Arab", "bg": "bul_Cyrl", "bn": "ben_Beng", "ca": "cat_Latn", "cs": "ces_Latn", "da": "dan_Latn",
    "de": "deu_Latn", "el": "ell_Grek", "en": "eng_Latn", "es": "spa_Latn", "et": "est_Latn", "eu": "eus_Latn",
    "fa": "pes_Arab", "fi": "fin_Latn", "fr": "fra_Latn", "ga": "gle_Latn", "gl": "glg_Latn", "gu": "guj_Gujr",
    "he": "heb_Hebr", "hi": "hin_Deva", "hr": "hrv_Latn", "hu": "hun_Latn", "id": "ind_Latn", "is": "isl_Latn",
    "it": "ita_Latn", "ja": "jpn_Jpan", "kk": "kaz_Cyrl", "kn": "kan_Knda", "ko": "kor_Hang", "lt": "lit_Latn",
    "lv": "lvs_Latn", "ml": "mal_Mlym", "mr": "mar_Deva", "nb": "nob_Latn", "ne": "npi_Deva", "nl": "nld_Latn",
    "nn": "nno_Latn", "pa": "pan_Guru", "pl": "pol_Latn", "pt": "por_Latn", "ro": "ron_Latn", "ru": "rus_Cyrl",
    "si": "sin_Sinh", "sk": "slk_Latn", "sl": "slv_Latn", "sr": "srp_Cyrl", "sv": "swe_Latn", "sw": "swh_Latn",
    "ta": "tam_Taml", "te": "tel_Telu", "th": "tha_Thai", "tr": "tur_Latn", "uk": "ukr_Cyrl", "ur": "urd_Arab",
    "vi": "vie_Latn", "zh": "zho_Hans",
}  # fmt: skip


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after every target."""
    if getattr(tokenizer, "src_lang", None) and getattr(tokenizer, "tgt_lang", None) is None:
        tokenizer.tgt_lang = tokenizer.src_lang  # M2M100 has none before somebody says so
    bare, full = (tokenizer(text_target="a", add_special_tokens=special)["input_ids"] for special in (False, True))
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    return [], []


def language_codes(tokenizer: Any) -> dict[str, int]:
    """The ids of the languages that a tokenizer knows, by their codes. Any object that decodes may have none."""
    codes = {code: int(id) for code, id in (getattr(tokenizer, "lang_code_to_id", None) or {}).items()}
    if not codes and hasattr(tokenizer, "get_added_vocab"):
        tokens = {*map(str, tokenizer.all_special_tokens), *tokenizer.get_added_vocab()}
        codes = {token: tokenizer.convert_tokens_to_ids(token) for token in sorted(tokens) if CODE.fullmatch(token)}
    return {code: id for code, id in codes.items() if id != getattr(tokenizer, "unk_token_id", None)}


def carries_language(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a language into targets."""
    return bool({id for side in frame(tokenizer) for id in side} & {*language_codes(tokenizer).values()})


def code_of(language: str, codes: dict[str, int]) -> str | None:
    """The code that a tokenizer with these `codes` has for a language: itself, `__es__`, the only `es_..`, NLLB's."""
    whole = (name for name in (language, f"__{language}__", language.strip("_")) if name in codes)
    parts = [name for name in codes if name.partition("_")[0].lower() == language.lower()]
    usual = USUAL.get(language.lower(), "")
    return next(whole, parts[0] if len(parts) == 1 else usual if usual in codes else None)


def set_target_language(tokenizer: Any, language: str | None, named: str, *, source: str | None = None) -> None:
    """Let the targets carry `language`, if they carry one at all. `named` is the tokenizer in errors.

    `source` is what the tokenizer calls its source, else the same. Raises UserError if a language is due and none or an
    unknown one is given, or if one is given and none is due.
    """
    codes = language_codes(tokenizer)
    framing = {id for side in frame(tokenizer) for id in side}
    due = framing & {*codes.values()}
    if not due and tokenizer.unk_token_id in framing:
        code = getattr(tokenizer, "src_lang", None)
        raise UserError(f"--tokenizer {named}: its language {code} is not in its vocabulary; its files are incomplete")
    for flag, given in ((FLAG, language), ("--source-lang", source)):
        if not due and given:
            raise UserError(f"{flag} {given}: the tokenizer {named} puts no language into texts; leave it out")
    if not due:
        return
    if not language:
        listed = ", ".join(codes)
        raise UserError(f"{FLAG} is not given, and the tokenizer {named} puts a language into texts; one of {listed}")
    code = _known(FLAG, language, codes, named)
    if hasattr(tokenizer, "src_lang"):
        tokenizer.tgt_lang = code  # before the other, which renews what is put around texts
        tokenizer.src_lang = _known("--source-lang", source, codes, named) if source else code
    elif source:
        raise UserError(f"--source-lang {source}: the tokenizer {named} knows no source; leave it out")
    else:
        _replace(tokenizer, due, code)
    if codes[code] not in {id for side in frame(tokenizer) for id in side}:
        raise UserError(f"{FLAG} {language}: the tokenizer {named} cannot be told its language; use one of its class")


def _known(flag: str, language: str, codes: dict[str, int], named: str) -> str:
    code = code_of(language, codes)
    if code is None:
        raise UserError(
            f"{flag} {shown(language)}: the tokenizer {named} has no such language{nearest(language, codes)}"
        )
    return code


def _replace(tokenizer: Any, due: set[int], code: str) -> None:
    """Another language in what a tokenizer of no particular class puts around texts."""
    from tokenizers import Tokenizer

    state = json.loads(tokenizer._tokenizer.to_str())
    text = json.dumps(state["post_processor"])
    for id in due:
        text = text.replace(json.dumps(tokenizer.convert_ids_to_tokens(id)), json.dumps(code))
        text = re.sub(rf"(?<=\[){id}(?=\])", str(tokenizer.convert_tokens_to_ids(code)), text)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state | {"post_processor": json.loads(text)}))


def generation_starts(tokenizer: Any, end: int, *, last_comes_first: bool) -> dict[str, int]:
    """How generation must begin to go on as targets did: `decoder_start_token_id`, `forced_bos_token_id`.

    Targets end in `end`, put there by us if not by the tokenizer. `last_comes_first` says that a decoder is shown a
    target's last token before its first, as mBART's is.
    """
    before, after = frame(tokenizer)
    starts = {}
    if last_comes_first:
        starts["decoder_start_token_id"] = after[-1] if end in after else end
    if before and before[0] in language_codes(tokenizer).values():
        starts["forced_bos_token_id"] = before[0]
    return starts
