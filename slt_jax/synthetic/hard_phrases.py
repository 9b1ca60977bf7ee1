"""The parts of the hard level's sentences: Spanish words with their glosses, and who or what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slt_jax.synthetic import grammar, hard_words
from slt_jax.synthetic.grammar import MASS, NUMERALS, Phrase, agree
from slt_jax.synthetic.spelling import spelled

_SAME = ("paraguas",)


def plural_of(word: str) -> str:
    """`plural_of("león")` is "leones"."""
    if word in _SAME:
        return word
    if word[-1] in "aeoáé":
        return word + "s"
    if word.endswith("z"):
        return word[:-1] + "ces"
    for accented, plain in (("ó", "o"), ("í", "i"), ("á", "a")):
        if word.endswith(accented + "n"):
            word = word[:-2] + plain + "n"
    return word + "es"


# gloss: Spanish, plural, gender, kind; gloss: Spanish; gloss: Spanish, tense
NOUNS = grammar.NOUNS | {
    gloss: (gloss.lower(), plural_of(gloss.lower()), gender, kind) for gloss, (gender, kind) in hard_words.NOUNS.items()
}
ADJECTIVES = grammar.ADJECTIVES | {
    gloss: (gloss.lower(), copula) for copula, glosses in hard_words.ADJECTIVES.items() for gloss in glosses.split()
}
TIMES = {gloss: (gloss.lower(), tense) for gloss, tense in grammar.TIMES.items()} | hard_words.TIMES
TRANSITIVE = {gloss: kinds for gloss, (_, kinds) in grammar.TRANSITIVE.items()} | hard_words.TRANSITIVE
INTRANSITIVE = {
    gloss: preposition for gloss, (_, preposition) in grammar.INTRANSITIVE.items()
} | hard_words.INTRANSITIVE
_PRONOUNS = {gloss: (person, "m") for gloss, person in grammar.PERSONS.items()} | hard_words.PRONOUNS
_DROPPED = ("YO", "VOS", "NOSOTROS")  # the verb expresses them
_COUNTS = NUMERALS | {"CINCO": "cinco", "SEIS": "seis", "DIEZ": "diez"}
_OWNED = {"MI": "mi", "TU": "tu", "SU": "su", "NUESTRO": "nuestro"}
_BY_KIND: dict[str, list[str]] = {}
for _noun, _entry in NOUNS.items():
    _BY_KIND.setdefault(_entry[3], []).append(_noun)

_LOOKS = ("GRANDE", "CHICO", "LINDO", "FEO", "VIEJO")
_OF_THINGS = (*_LOOKS, "ENORME", "NUEVO", "ROJO", "BLANCO", "NEGRO", "AZUL", "VERDE", "AMARILLO", "CARO", "BARATO",
              "LARGO", "CORTO")  # fmt: skip
QUALITIES = {
    "person": hard_words.PEOPLES,
    "animal": (*_LOOKS, "BLANCO", "NEGRO", "FUERTE", "INTELIGENTE", "PELIGROSO", "FLACO"),
    "thing": _OF_THINGS,
    "text": ("LARGO", "CORTO", "LINDO", "FEO", "VIEJO", "NUEVO", "FAMOSO"),
    "vehicle": (*_LOOKS, "NUEVO", "CARO", "BARATO", "ROJO", "BLANCO", "AZUL", "VERDE", "AMARILLO", "PELIGROSO"),
    "place": (*_LOOKS, "PELIGROSO", "FAMOSO", "ENORME"),
    "fruit": ("GRANDE", "CHICO", "CARO", "BARATO", "VERDE"),
}
COLOURS = ("ROJO", "BLANCO", "NEGRO", "AZUL", "VERDE", "AMARILLO")
STATES = tuple(gloss for gloss, (_, copula) in ADJECTIVES.items() if copula == "estar")
FEELINGS = tuple(gloss for gloss in STATES if gloss not in hard_words.STATES_OF_THINGS)


@dataclass
class Chance:
    """Random choices, and the names that may be spelled: {name: gender}."""

    rng: np.random.Generator
    names: dict[str, str]

    def __post_init__(self) -> None:
        self._all = list(self.names)
        self._by_gender = {gender: [name for name in self._all if self.names[name] == gender] for gender in "mf"}

    def pick(self, items: Sequence[str]) -> str:
        """One of `items`, each as likely."""
        return items[int(self.rng.integers(len(items)))]

    def often(self, share: float) -> bool:
        """True in that share of cases."""
        return bool(self.rng.random() < share)

    def name(self, gender: str = "") -> Phrase:
        """A spelled name, of that gender if one is given."""
        name = self.pick(self._by_gender[gender] if gender else self._all)
        return Phrase(spelled(name), name, 2, self.names[name])

    def pronoun(self) -> Phrase:
        """A pronoun; Spanish leaves out those that the verb expresses."""
        return pronoun(self.pick(list(_PRONOUNS)))

    def phrase(self, kinds: Sequence[str], article: str, rich: float = 0.0) -> Phrase:
        """A noun of one of `kinds`; in the share `rich` of cases with a number or an adjective."""
        noun = self.pick(_BY_KIND[self.pick(kinds)])
        kind = NOUNS[noun][3]
        owner = self.pick(tuple(_OWNED)) if kind not in (*MASS, "place") and self.often(0.4) else ""
        number = adjective = ""
        if self.often(rich):
            if kind in MASS:
                number = "" if owner else self.pick(("MUCHO", "POCO"))
            elif kind != "place" and self.often(0.5):
                number = self.pick(tuple(_COUNTS) if owner or article == "el" else (*_COUNTS, "MUCHO", "POCO"))
            else:
                adjective = self.pick(QUALITIES[kind])
        return phrase(noun, article, owner, number, adjective)

    def someone(self, named: float = 0.45) -> Phrase:
        """A person: in the share `named` of cases by name."""
        return self.name() if self.often(named) else self.phrase(("person",), "el")

    def subject(self) -> Phrase:
        """Who does it: a pronoun or a person."""
        return self.pronoun() if self.often(0.35) else self.someone()


def pronoun(gloss: str) -> Phrase:
    """A pronoun; Spanish leaves out those that the verb expresses."""
    person, gender = _PRONOUNS[gloss]
    return Phrase((gloss,), "" if gloss in _DROPPED else gloss.lower(), person, gender, person > 2)


def phrase(noun: str, article: str = "el", owner: str = "", number: str = "", adjective: str = "") -> Phrase:
    """Signed (MI) PERRO (DOS) (GRANDE), Spanish "mis dos perros grandes"; `article` is el, un or nothing."""
    singular, plural_form, gender, kind = NOUNS[noun]
    counted = number in ("MUCHO", "POCO")
    plural = bool(number) and not (counted and kind in MASS)
    words = []
    if owner:
        words.append(_OWNED[owner] + "s" * plural if owner != "NUESTRO" else agree("nuestro", gender, plural))
    if counted:
        words.append(agree(number.lower(), gender, plural))
    elif number:
        words += ["los" if gender == "m" else "las"] * (article == "el" and not owner) + [_COUNTS[number]]
    elif not owner and article == "el":
        words.append("el" if gender == "m" or noun == "AGUA" else "la")
    elif not owner and article == "un" and kind not in MASS:
        words.append("una" if gender == "f" else "un")
    words.append(plural_form if plural else singular)
    if adjective:
        words.append(agree(ADJECTIVES[adjective][0], gender, plural))
    glosses = tuple(filter(None, (owner, noun, number, adjective)))
    return Phrase(glosses, " ".join(words), 4 if plural else 2, gender, plural, kind)


def after(preposition: str, text: str) -> str:
    """`after("a", "el banco")` is "al banco"."""
    if preposition in ("a", "de") and text.startswith("el "):
        return f"{preposition}l {text.removeprefix('el ')}"
    return f"{preposition} {text}"
