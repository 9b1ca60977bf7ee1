"""Sentences of the hard level: two to nine signs, of which one may be a spelled name and one a classifier on its path.

The signed order is time, place, subject, recipient, object, verb, manner, question word; two clauses stand beside each
other with PERO, PORQUE or Y between them. Beside negation and the two kinds of questions, a command shows on the face.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from slt_jax.synthetic import hard_words as words
from slt_jax.synthetic.classifiers import BASES, MANNERS, ROADS, SPEEDS, TO_BASE, WAYS
from slt_jax.synthetic.grammar import MASS, Phrase, Sentence, agree, conjugate
from slt_jax.synthetic.hard_clauses import Clause, clause, imperative, moving, sentence
from slt_jax.synthetic.hard_lexicon import time_of
from slt_jax.synthetic.hard_phrases import (
    ADJECTIVES,
    COLOURS,
    FEELINGS,
    INTRANSITIVE,
    NOUNS,
    QUALITIES,
    TIMES,
    TRANSITIVE,
    Chance,
    after,
    phrase,
    pronoun,
)
from slt_jax.synthetic.spelling import LETTER, NAMES, NEW_NAMES

SIGNS_LEAST, SIGNS_MOST = 2, 9  # a name counts as one
_WORDS_MOST, _TIME_MOST = 15, 10.5  # words of a text; how many usual signs a clip has time for
_CLITICS = ("me", "te", "le", "nos", "les")
_DONE_WELL = ("BAILAR", "COCINAR", "DORMIR", "ESCRIBIR", "ESTUDIAR", "JUGAR", "PINTAR", "DIBUJAR", "TRABAJAR", "LEER")
_OBEYED = ("ABRIR", "CERRAR", "LAVAR", "GUARDAR", "TRAER", "LLEVAR", "AYUDAR", "LLAMAR", "ESPERAR", "CUIDAR", "LIMPIAR",
           "BUSCAR", "LEER", "COMPRAR", "PREPARAR", "CORTAR", "ARREGLAR", "MIRAR", "SALUDAR")  # fmt: skip
_PLACES = tuple(noun for noun, entry in NOUNS.items() if entry[3] == "place")
_ROOMY = tuple(noun for noun in _PLACES if noun not in ("CALLE", "PUENTE", "RÍO"))  # something happens in them
_SPOKEN_TO = {"YO": ("VOS",), "NOSOTROS": ("VOS",), "VOS": ("YO", "NOSOTROS"), "USTEDES": ("YO", "NOSOTROS")}
_MOVING = {
    "VEHÍCULO": ("AUTO", "COLECTIVO", "TREN", "AVIÓN", "BARCO", "CAMIÓN", "MOTO", "BICICLETA"),
    "ANIMAL": ("PERRO", "GATO", "CABALLO", "CONEJO", "RATÓN", "LEÓN", "PÁJARO", "PATO", "GALLINA", "ARAÑA"),
    "PLANO": ("HOJA", "PAPEL", "CARTA", "DIARIO", "FOTO"),
    "REDONDO": ("PELOTA", "NARANJA", "MANZANA"),
}


def _time(c: Chance, share: float = 0.35) -> str:
    return c.pick(list(TIMES)) if c.often(share) else ""


def _no(c: Chance, time: str, share: float = 0.18) -> bool:
    return time not in ("SIEMPRE", "NUNCA", "A-VECES") and c.often(share)


def _also_or_not(c: Chance, time: str) -> dict[str, bool]:
    negated = _no(c, time)
    return {"negated": negated, "also": not negated and c.often(0.1)}


def _object(c: Chance, verb: str, rich: float, article: str = "un", named: float = 0.3) -> Phrase:
    """What a verb may be done to."""
    kinds = TRANSITIVE.get(verb) or words.DITRANSITIVE[verb]
    kind = c.pick(kinds)
    if kind == "box":
        return phrase(c.pick(words.BOXES), article)
    if kind == "person":
        return c.name() if c.often(named) else c.phrase(("person",), "el", 0.1)
    if kind == "place":
        return c.phrase(("place",), "el")
    return c.phrase((kind,), article, rich)


def _object_text(verb: str, thing: Phrase) -> str:
    return after("a", thing.text) if thing.kind == "person" and verb != "TENER" else thing.text


def _transitive(c: Chance, subject: Phrase | None = None, short: bool = False, **more) -> Clause:
    verb = c.pick(list(TRANSITIVE))
    who = subject or c.subject()
    thing = _object(c, verb, 0.0 if short else 0.5, named=0.0 if _named(who) else 0.45)
    if not short:
        time = _time(c)
        place = c.pick(_ROOMY) if c.often(0.15) else ""
        more = {"time": time, "place": place} | _also_or_not(c, time)
    return clause(who, verb, verb.lower(), said=_object_text(verb, thing), signed=thing.glosses, **more)


def _named(phrase: Phrase) -> bool:
    return bool(phrase.glosses) and phrase.glosses[-1].startswith(LETTER)


def _intransitive(c: Chance, subject: Phrase | None = None, short: bool = False, **more) -> Clause:
    verb = c.pick((*INTRANSITIVE, "ESTAR"))
    preposition = INTRANSITIVE.get(verb, "en")
    where = phrase(c.pick(_ROOMY if preposition == "en" else _PLACES))
    if not short:
        time = _time(c, 0.45)
        more = {"time": time} | _also_or_not(c, time)
    who = subject or c.subject()
    return clause(who, verb, verb.lower(), said=after(preposition, where.text), signed=where.glosses, **more)


def _well(c: Chance) -> Clause:
    verb, time = c.pick(_DONE_WELL), _time(c, 0.3)
    return clause(c.subject(), verb, verb.lower(), manner=c.pick(words.MANNERS), time=time, negated=_no(c, time))


def _feeling(c: Chance, subject: Phrase | None = None, shown: bool = True, short: bool = False, **more) -> Clause:
    """Somebody is tired, or a thing broken. `shown`: the subject is told."""
    if not short:
        time = _time(c)
        more = {"time": time} | _also_or_not(c, time)
    if subject is None and not short and c.often(0.3):
        subject = c.phrase(("thing",), "el")
    who = subject or c.subject()
    adjective = c.pick(FEELINGS if who.kind == "person" else words.STATES_OF_THINGS)
    said = agree(ADJECTIVES[adjective][0], who.gender, who.plural)
    told = who if shown else Phrase((), "", who.person, who.gender, who.plural, who.kind)
    return clause(told, adjective, "estar", said=said, **more)


def _quality(c: Chance) -> Clause:
    who = c.subject() if c.often(0.4) else c.phrase(("animal", "thing", "vehicle", "place", "text"), "el")
    adjective = c.pick(QUALITIES[who.kind])
    said = agree(ADJECTIVES[adjective][0], who.gender, who.plural)
    return clause(who, adjective, "ser", said=said, negated=c.often(0.15))


def _comparison(c: Chance) -> Clause:
    kind = c.pick(("person", "animal", "thing", "vehicle"))
    one = c.someone(0.4) if kind == "person" else c.phrase((kind,), "el")
    other = c.someone(0.0 if _named(one) else 0.4) if kind == "person" else c.phrase((kind,), "el")
    sign = c.pick(tuple(words.COMPARING))
    more, than = words.COMPARING[sign]
    adjective = c.pick([a for a in QUALITIES[kind] if a not in COLOURS and a != "ENORME"])
    said = f"{more} {agree(ADJECTIVES[adjective][0], one.gender, one.plural)} {than} {other.text}"
    return clause(one, adjective, "ser", said=said, signed=(*other.glosses, sign), negated=c.often(0.1))


def _owning(c: Chance) -> Clause:
    """Whose something is."""
    thing = c.phrase(("thing", "vehicle", "animal", "text"), "el", 0.3)
    while len(thing.glosses) > 1 and thing.glosses[0] in ("MI", "TU", "SU", "NUESTRO"):
        thing = c.phrase(("thing", "vehicle", "animal", "text"), "el", 0.3)
    owner = c.someone(0.6)
    return clause(thing, "DE", "ser", said=after("de", owner.text), signed=owner.glosses, negated=c.often(0.15))


def _naming(c: Chance) -> Clause:
    if c.often(0.4):
        who = pronoun(c.pick(("YO", "VOS", "ÉL", "ELLA")))
        gender = who.gender if who.glosses[0] in ("ÉL", "ELLA") else ""
    else:
        who = c.phrase(("person", "animal"), "el")
        gender = who.gender
    name = c.name(gender)
    clitic = "se" if who.person == 2 else _CLITICS[who.person]
    return Clause(
        (*who.glosses, "NOMBRE", *name.glosses),
        " ".join(filter(None, [who.text, clitic, conjugate("llamar", "present", who.person), name.text])),
    )


def _giving(c: Chance) -> Clause:
    verb, time = c.pick(tuple(words.DITRANSITIVE)), _time(c, 0.25)
    who = c.subject()
    thing = _object(c, verb, 0.2)
    negated = _no(c, time)
    if c.often(0.4):
        to = pronoun(c.pick(_SPOKEN_TO.get(who.glosses[0], ("YO", "VOS", "NOSOTROS"))))
        said = thing.text
    else:
        to = c.someone(0.0 if _named(who) else 0.5)
        said = f"{thing.text} {after('a', to.text)}"
    return clause(who, verb, verb.lower(), said=said, signed=(*to.glosses, *thing.glosses), clitic=_CLITICS[to.person],
                  time=time, negated=negated)  # fmt: skip


def _moving(c: Chance) -> Clause:
    kind = c.pick(("PERSONA", *_MOVING))
    subject = c.someone(0.4) if kind == "PERSONA" else phrase(c.pick(_MOVING[kind]))
    if kind != "PERSONA" and c.often(0.3):
        adjective = c.pick([a for a in QUALITIES[NOUNS[subject.glosses[0]][3]] if a != "FAMOSO"])
        subject = phrase(subject.glosses[0], adjective=adjective)
    way, time = c.pick(tuple(WAYS)), _time(c, 0.2)
    base = c.pick(tuple(BASES)) if way in TO_BASE else c.pick(tuple(ROADS)) if c.often(0.2) else ""
    return moving(
        subject, kind, way, manner=c.pick(tuple(MANNERS)) if c.often(0.5) else "",
        speed=c.pick(tuple(SPEEDS)) if c.often(0.6) else "", base=base, time=time, negated=_no(c, time, 0.1),
    )  # fmt: skip


def _command(c: Chance) -> Sentence:
    polite = c.often(0.4)
    if c.often(0.35):
        verb = c.pick(("DAR", "MOSTRAR", "PRESTAR", "MANDAR", "DEVOLVER"))
        thing = _object(c, verb, 0.2, article="el")
        to = pronoun(c.pick(("YO", "NOSOTROS"))) if c.often(0.5) else c.someone(0.5)
        # The stress stays where it is, and so the accent is no longer written.
        said = [verb.lower()[:-1] + _CLITICS[to.person], thing.text, after("a", to.text) if to.text else ""]
        glosses = (*to.glosses, *thing.glosses, verb)
    elif c.often(0.3):
        verb = c.pick(("IR", "SALIR", "CORRER", "CAMINAR", "JUGAR", "DORMIR", "BAILAR", "TRABAJAR", "ESTUDIAR"))
        where = phrase(c.pick(_ROOMY))
        said = [imperative(verb.lower()), after(INTRANSITIVE[verb], where.text)]
        glosses = (*where.glosses, verb)
    else:
        verb = c.pick(_OBEYED)
        thing = _object(c, verb, 0.3, article="el", named=0.5)
        said, glosses = [imperative(verb.lower()), _object_text(verb, thing)], (*thing.glosses, verb)
    return sentence(Clause(glosses, " ".join(filter(None, said))), command=True, polite=polite)


def _asked(glosses: Sequence[str], *said: str) -> Sentence:
    return sentence(Clause(tuple(filter(None, glosses)), " ".join(filter(None, said))), question="wh")


def _wh(c: Chance) -> Sentence:
    sign = c.pick(("QUIÉN", "QUÉ", "DÓNDE", "CUÁNDO", "POR-QUÉ", "CÓMO", "CUÁNTO", "DE"))
    time = _time(c, 0.3) if sign != "CUÁNDO" else ""
    time = "" if time == "NUNCA" else time
    when, tense = TIMES.get(time, ("", "present"))
    who = c.subject()
    if sign == "CÓMO":
        who = c.phrase(("person",), "el")
        if c.often(0.5):
            return _asked(
                (*who.glosses, "NOMBRE", sign), "cómo", "se", conjugate("llamar", "present", who.person), who.text
            )
        return _asked((*who.glosses, "ESTAR", sign), "cómo", conjugate("estar", "present", who.person), who.text)
    if sign == "DE":
        thing = phrase(c.pick([n for n, e in NOUNS.items() if e[3] in ("thing", "vehicle", "animal")]))
        return _asked((*thing.glosses, sign, "QUIÉN"), "de quién es", thing.text)
    if sign == "DÓNDE":
        verb = c.pick((*INTRANSITIVE, "ESTAR"))
        asked = {"a": "adónde", "de": "de dónde", "por": "por dónde"}.get(INTRANSITIVE.get(verb, ""), "dónde")
        return _asked(
            (time, *who.glosses, verb, sign), asked, conjugate(verb.lower(), tense, who.person), who.text, when
        )
    if sign == "CUÁNDO":
        verb = c.pick(tuple(INTRANSITIVE))
        where = phrase(c.pick(_PLACES))
        form = conjugate(verb.lower(), "present", who.person)
        return _asked((*who.glosses, *where.glosses, verb, sign), "cuándo", form, who.text,
                      after(INTRANSITIVE[verb], where.text))  # fmt: skip
    verb = c.pick([v for v, kinds in TRANSITIVE.items() if sign != "QUÉ" or not {"person", "box"} & set(kinds)])
    form = conjugate(verb.lower(), tense, 2 if sign == "QUIÉN" else who.person)
    if sign == "QUÉ":
        return _asked((time, *who.glosses, verb, sign), "qué", form, who.text, when)
    if sign == "CUÁNTO":
        return _how_many(c, who, time)
    thing = _object(c, verb, 0.2, named=0.0 if _named(who) else 0.45)
    if sign == "QUIÉN":
        return _asked((time, *thing.glosses, verb, sign), "quién", form, _object_text(verb, thing), when)
    no = "no" if c.often(0.3) and time not in ("SIEMPRE", "A-VECES") else ""
    said = ("por qué", no, form, _object_text(verb, thing), who.text, when)
    glosses = (*filter(None, [time]), *who.glosses, *thing.glosses, verb, sign)
    denied = range(len(glosses) - len(thing.glosses) - 2, len(glosses) - 1) if no else ()
    return sentence(Clause(glosses, " ".join(filter(None, said)), frozenset(denied)), question="wh")


def _how_many(c: Chance, who: Phrase, time: str) -> Sentence:
    verb = c.pick(("TENER", "COMPRAR", "VENDER", "NECESITAR", "TRAER", "LLEVAR"))
    noun = c.pick([n for n, e in NOUNS.items() if e[3] in TRANSITIVE[verb] and e[3] != "person"])
    singular, plural, gender, kind = NOUNS[noun]
    asked = f"{agree('cuánto', gender, kind not in MASS)} {singular if kind in MASS else plural}"
    when, tense = TIMES.get(time, ("", "present"))
    form = conjugate(verb.lower(), tense, who.person)
    return _asked((time, *who.glosses, noun, verb, "CUÁNTO"), asked, form, who.text, when)


def _two(c: Chance) -> Sentence:
    """Two short clauses of the same tense, the second of the same person or of another."""
    time = _time(c, 0.3)
    tense = TIMES.get(time, ("", "present"))[1]
    joined, who = c.pick(words.JOINING), c.subject()
    one = c.pick(("transitive", "intransitive"))
    negated = _no(c, time, 0.25)
    first = (_transitive if one == "transitive" else _intransitive)(c, who, short=True, time=time, negated=negated)
    if joined == "PORQUE" and c.often(0.75):
        second = _feeling(c, who, shown=False, short=True, tense=tense, negated=c.often(0.15))
    else:
        same = c.often(0.4)
        other = Phrase((), "", who.person, who.gender, who.plural) if same else c.subject()
        second = (_transitive if c.often(0.6) else _intransitive)(
            c, other, short=True, tense=tense, negated=c.often(0.15)
        )
    return sentence(first, second, joined=joined)


# How often each is made: in what share of draws it or one before it is.
_KINDS = (
    (0.18, _transitive),
    (0.25, _intransitive),
    (0.28, _well),
    (0.34, _feeling),
    (0.39, _quality),
    (0.45, _comparison),
    (0.49, _owning),
    (0.55, _naming),
    (0.64, _giving),
    (0.76, _moving),
    (0.81, _command),
    (0.88, _wh),
    (1.0, _two),
)


def _one(c: Chance) -> Sentence:
    draw = c.rng.random()
    made = next(make for share, make in _KINDS if draw < share)(c)
    if isinstance(made, Sentence):
        return made
    return sentence(made, question="yn" if c.often(0.15) else "")


def signs_in(glosses: Sequence[str]) -> int:
    """How many signs: the letters of a name are one."""
    return sum(
        not g.startswith(LETTER) or not b.startswith(LETTER) for b, g in zip(("", *glosses), glosses, strict=False)
    )


def sample_hard(rng: np.random.Generator, counts: Mapping[str, int]) -> dict[str, list[Sentence]]:
    """Sentences for each split, all with different texts. Half of the names in `test`, and no others, are new ones."""
    seen: set[str] = set()
    parts: dict[str, list[Sentence]] = {}
    for split in ("test", "val", "train"):
        known, new = Chance(rng, NAMES), Chance(rng, NEW_NAMES)
        part = parts[split] = []
        for _ in range(20 * counts[split] + 1000):
            if len(part) >= counts[split]:
                break
            one = _one(new if split == "test" and known.often(0.5) else known)
            if one.text in seen or not _fits(one):
                continue
            seen.add(one.text)
            part.append(one)
    return parts


def _fits(one: Sentence) -> bool:
    return (
        SIGNS_LEAST <= signs_in(one.glosses) <= SIGNS_MOST
        and len(one.text.split()) <= _WORDS_MOST
        and time_of(one.glosses) <= _TIME_MOST
    )
