"""Clauses of the hard level, and the sentences that are made of them: signed order beside Spanish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slt_jax.synthetic.classifiers import MANNERS, SPEEDS, TO_BASE, WAYS, gloss_of
from slt_jax.synthetic.grammar import Phrase, Sentence, conjugate
from slt_jax.synthetic.hard_phrases import TIMES, after, phrase


@dataclass(frozen=True)
class Clause:
    """A clause: glosses in signed order, those among them that are denied, and Spanish."""

    glosses: tuple[str, ...]
    text: str
    denied: frozenset[int] = frozenset()  # places in `glosses`


def clause(
    subject: Phrase,
    verb: str,
    infinitive: str,
    *,
    said: str = "",
    signed: Sequence[str] = (),
    time: str = "",
    tense: str = "",
    place: str = "",
    clitic: str = "",
    manner: str = "",
    also: bool = False,
    negated: bool = False,
) -> Clause:
    """Join the parts: `said` follows the verb, `signed` stands before it; `place` is the noun of where it happens.

    `tense` is that of `time` unless it is given.
    """
    adverb, of_time = TIMES.get(time, ("", "present"))
    early = adverb if time != "NUNCA" else ""
    spanish = [
        early,
        subject.text,
        "también" if also else "",
        adverb if not early else "",
        "no" if negated else "",
        clitic,
        conjugate(infinitive, tense or of_time, subject.person),
        manner.lower(),
        said,
        f"en {phrase(place).text}" if place else "",
    ]
    head = [time, place, *subject.glosses, "TAMBIÉN" if also else ""]
    glosses = [*filter(None, head), *signed, verb, *filter(None, [manner])]
    first = len([*filter(None, head)])
    denied = frozenset(range(first, len(glosses))) if negated else frozenset()
    return Clause(tuple(glosses), " ".join(filter(None, spanish)), denied)


def sentence(
    *clauses: Clause, joined: str = "", question: str = "", command: bool = False, polite: bool = False
) -> Sentence:
    """The sentence of one clause, or of two that are `joined` by a sign. A question is "yn" or "wh"."""
    mark = frozenset({question, "imp" if command else ""} - {""})
    glosses: list[str] = []
    marks: list[frozenset[str]] = []
    for number, one in enumerate(clauses):
        if number:
            glosses.append(joined)
            marks.append(mark)
        glosses += one.glosses
        marks += [mark | {"neg"} if place in one.denied else mark for place in range(len(one.glosses))]
    texts = [one.text for one in clauses]
    if joined:
        spanish = "e" if joined == "Y" and texts[1].startswith(("i", "hi")) else joined.lower()
        texts.insert(1, spanish)
    if polite:
        glosses, marks, texts = [*glosses, "POR-FAVOR"], [*marks, mark], [*texts, "por favor"]
    text = " ".join(texts)
    return Sentence(f"¿{text}?" if question else text, tuple(glosses), tuple(marks))


def moving(subject: Phrase, kind: str, way: str, *, manner: str = "", speed: str = "", base: str = "", time: str = "",
           negated: bool = False) -> Clause:  # fmt: skip
    """What moves, and a classifier that shows the way. `base`: the noun that the other hand stands for."""
    infinitive, said, *_ = WAYS[way]
    where = phrase(base).text if base else ""
    said = after(said, where) if way in TO_BASE else " ".join(filter(None, [said, f"por {where}" if where else ""]))
    said = " ".join(filter(None, [said, SPEEDS[speed][0], MANNERS[manner]]))
    told = Phrase((*([base] if base else []), *subject.glosses), subject.text, subject.person, subject.gender)
    return clause(told, gloss_of(kind, way, manner, speed, base), infinitive, said=said, time=time, negated=negated)


def imperative(infinitive: str) -> str:
    """What is said to one person: `imperative("cerrar")` is "cerrá"."""
    return "andá" if infinitive == "ir" else infinitive[:-2] + {"a": "á", "e": "é", "i": "í"}[infinitive[-2]]
