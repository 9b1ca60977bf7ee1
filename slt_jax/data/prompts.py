"""What stands before a target besides its words: its language and a prompt, which may be another one in each row.

One model so translates into several languages. The rows' column `lang` says into which.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slt_jax.data.target_language import FLAG, carries_language, code_of, frame, language_codes, set_target_language
from slt_jax.data.text import IGNORE, RowStarts, Targets, encode_targets, end_token
from slt_jax.errors import UserError, shown

LANG = "{lang}"  # in a prefix, the place of the row's language


@dataclass(frozen=True)
class Prompts:
    """The prompts of targets.

    `target_lang` is of rows that say none, `spoken` what the rows say (`ClipRow.lang`), and `named` the tokenizer in
    errors. The tokenizer has the language `default`, which it has again after each of these methods.
    """

    tokenizer: Any
    named: str
    target_lang: str | None = None
    prefix: str | None = None
    source_lang: str | None = None
    spoken: frozenset[str] = frozenset()
    default: str | None = None
    _codes: dict[str, str | None] = field(default_factory=dict, init=False)  # of the tokenizer, by what a row says

    def __post_init__(self):
        for said in (*sorted(self.spoken), *(() if self.spoken else ("",))):
            self._codes[said] = self._code(said)
            self._text(said)

    @property
    def differ(self) -> bool:
        """Whether generation must be told more than the tokenizer's own language."""
        return bool(self.prefix) or any(code != self.default for code in self._codes.values())

    def targets(self, texts: Sequence[str], spoken: Sequence[str], max_length: int) -> Targets:
        """The targets of texts, each in its row's language and after its prompt, see `encode_targets`."""
        if not self.differ:
            return encode_targets(self.tokenizer, texts, max_length)
        labels, lengths = np.full((len(texts), max_length), IGNORE, np.int32), np.zeros(len(texts), int)
        for said in dict.fromkeys(spoken):
            rows = [row for row, other in enumerate(spoken) if other == said]
            self._speak(said)
            some = encode_targets(self.tokenizer, [texts[row] for row in rows], max_length, self._ids(said))
            labels[rows, : some.labels.shape[1]] = some.labels
            lengths[rows] = some.lengths
        self._speak(None)
        longest = min(-(-min(int(lengths.max(initial=1)), max_length) // 8) * 8, max_length)
        return Targets(labels[:, :longest], lengths)

    def starts(self, spoken: Sequence[str], *, last_comes_first: bool) -> RowStarts | None:
        """How generation begins in each row, (B, ...); None where all rows begin as the decoder's configuration says.

        `last_comes_first` says that a decoder is shown a target's last token before its first, as mBART's is.
        """
        if not self.differ:
            return None
        known = {said: self._begins(said, last_comes_first) for said in dict.fromkeys(spoken)}
        self._speak(None)
        width = max(len(forced) for _, forced in known.values())
        forced = [[*known[said][1], *[-1] * (width - len(known[said][1]))] for said in spoken]
        first = np.array([known[said][0] for said in spoken], np.int32)
        return RowStarts(first, np.array(forced, np.int32).reshape(len(spoken), width))

    def _begins(self, said: str, last_comes_first: bool) -> tuple[int, list[int]]:
        """The first token that the decoder is shown (-1: its configuration's), and those that it must say."""
        self._speak(said)
        (before, after), end = frame(self.tokenizer), end_token(self.tokenizer)
        start = (after[-1] if end in after else end) if last_comes_first else -1
        prompt = list(self._ids(said))
        languages = before[:1] if before and before[0] in language_codes(self.tokenizer).values() else []
        return start, before + prompt if prompt else languages

    def _ids(self, said: str) -> tuple[int, ...]:
        text = self._text(said)
        return tuple(self.tokenizer(text_target=text, add_special_tokens=False)["input_ids"]) if text else ()

    def _text(self, said: str) -> str:
        if self.prefix is None or LANG not in self.prefix:
            return self.prefix or ""
        if not (said or self.target_lang):
            raise UserError(f"--prefix {shown(self.prefix)}: a row's column lang is empty; fill it, or give {FLAG}")
        return self.prefix.replace(LANG, said or str(self.target_lang))

    def _code(self, said: str) -> str | None:
        """The tokenizer's code of what a row says; None for a tokenizer without languages."""
        if self.default is None:
            return None
        codes = language_codes(self.tokenizer)
        asked = self.target_lang and code_of(self.target_lang, codes)
        code = code_of(said, codes) if said else asked or self.default
        if code is None and len(self.spoken) == 1 and asked:
            return asked  # the flag says what the only language is called
        if code is None or (asked and len(self.spoken) == 1 and code != asked):
            told = f"and {FLAG} says {self.target_lang}" if code else f"which the tokenizer {self.named} does not know"
            listed = "make them agree" if code else f"its languages are {', '.join(codes)}"
            raise UserError(f"the metadata's column lang says {shown(said)}, {told}; {listed}")
        return code

    def _speak(self, said: str | None) -> None:
        if self.default is not None:
            code = self.default if said is None else self._codes[said]
            set_target_language(self.tokenizer, code, self.named, source=self.source_lang)


def open_prompts(
    tokenizer: Any,
    named: str,
    spoken: Sequence[str],
    *,
    target_lang: str | None = None,
    prefix: str | None = None,
    source_lang: str | None = None,
    chosen: str | None = None,
) -> Prompts:
    """The prompts of rows that say `spoken`. The tokenizer then speaks one language: that which most rows have.

    `chosen` is the language of a tokenizer that was told it before; `target_lang` and the rows may change it. Raises
    UserError for languages that are missing, unknown or contradict each other.
    """
    carries = carries_language(tokenizer)
    language = target_lang or chosen
    if carries and not language:
        usual = Counter(said for said in spoken if said).most_common(1)
        if len([said for said in spoken if said]) == len(spoken) and usual:
            language = usual[0][0]
    if carries or not (prefix and LANG in prefix):
        set_target_language(tokenizer, language if carries else target_lang, named, source=source_lang)
    default = code_of(str(language), language_codes(tokenizer)) if carries else None
    return Prompts(tokenizer, named, target_lang, prefix, source_lang, frozenset(spoken), default)
