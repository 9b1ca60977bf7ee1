"""Sentences of the generated corpus: glosses in signed order with marks on the face, and the Spanish text.

The signed order is time, subject, object (with numeral and adjective after it), verb, question word. Negation and
questions are not signs of their own: the head shakes, the brows rise or knit. Spanish needs articles, agreement,
persons, tenses and `no`, and drops the pronoun, so words do not line up.
The Spanish is Rioplatense (vos tenés, mañana vas a tomar mate).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from slt_jax.synthetic.classifiers import CLASSIFIER
from slt_jax.synthetic.spelling import LETTER

PERSONS = {"YO": 0, "VOS": 1, "NOSOTROS": 3, "USTEDES": 4}  # index into a conjugation; 2 = third person singular
TIMES = {"AYER": "past", "HOY": "present", "AHORA": "present", "SIEMPRE": "present", "MAÑANA": "future"}
NUMERALS = {"DOS": "dos", "TRES": "tres", "CUATRO": "cuatro"}

# gloss: Spanish, plural, gender, kind
NOUNS: dict[str, tuple[str, str, str, str]] = {
    "MADRE": ("madre", "madres", "f", "person"),
    "PADRE": ("padre", "padres", "m", "person"),
    "HERMANO": ("hermano", "hermanos", "m", "person"),
    "HERMANA": ("hermana", "hermanas", "f", "person"),
    "AMIGO": ("amigo", "amigos", "m", "person"),
    "AMIGA": ("amiga", "amigas", "f", "person"),
    "MAESTRO": ("maestro", "maestros", "m", "person"),
    "MAESTRA": ("maestra", "maestras", "f", "person"),
    "ABUELO": ("abuelo", "abuelos", "m", "person"),
    "ABUELA": ("abuela", "abuelas", "f", "person"),
    "NENE": ("nene", "nenes", "m", "person"),
    "NENA": ("nena", "nenas", "f", "person"),
    "MÉDICO": ("médico", "médicos", "m", "person"),
    "PERRO": ("perro", "perros", "m", "animal"),
    "GATO": ("gato", "gatos", "m", "animal"),
    "CABALLO": ("caballo", "caballos", "m", "animal"),
    "PAN": ("pan", "panes", "m", "food"),
    "CARNE": ("carne", "carnes", "f", "food"),
    "MANZANA": ("manzana", "manzanas", "f", "fruit"),
    "AGUA": ("agua", "aguas", "f", "drink"),
    "LECHE": ("leche", "leches", "f", "drink"),
    "MATE": ("mate", "mates", "m", "drink"),
    "CAFÉ": ("café", "cafés", "m", "drink"),
    "LIBRO": ("libro", "libros", "m", "text"),
    "DIARIO": ("diario", "diarios", "m", "text"),
    "CARTA": ("carta", "cartas", "f", "text"),
    "LLAVE": ("llave", "llaves", "f", "thing"),
    "AUTO": ("auto", "autos", "m", "thing"),
    "TELÉFONO": ("teléfono", "teléfonos", "m", "thing"),
    "PELOTA": ("pelota", "pelotas", "f", "thing"),
    "FLOR": ("flor", "flores", "f", "thing"),
    "CASA": ("casa", "casas", "f", "place"),
    "ESCUELA": ("escuela", "escuelas", "f", "place"),
    "TRABAJO": ("trabajo", "trabajos", "m", "place"),
    "HOSPITAL": ("hospital", "hospitales", "m", "place"),
    "PLAZA": ("plaza", "plazas", "f", "place"),
    "PLAYA": ("playa", "playas", "f", "place"),
}
MASS = ("food", "drink")  # without article or numeral as an object: "tomo mate"

# gloss: Spanish (masculine singular), copula
ADJECTIVES = {
    "GRANDE": ("grande", "ser"),
    "ENORME": ("enorme", "ser"),
    "CHICO": ("chico", "ser"),
    "LINDO": ("lindo", "ser"),
    "FEO": ("feo", "ser"),
    "NUEVO": ("nuevo", "ser"),
    "VIEJO": ("viejo", "ser"),
    "ROJO": ("rojo", "ser"),
    "BLANCO": ("blanco", "ser"),
    "NEGRO": ("negro", "ser"),
    "CANSADO": ("cansado", "estar"),
    "TRISTE": ("triste", "estar"),
    "CONTENTO": ("contento", "estar"),
    "ENFERMO": ("enfermo", "estar"),
}

_THINGS = ("text", "thing", "fruit")
# gloss: infinitive, kinds of object
TRANSITIVE = {
    "COMER": ("comer", ("food", "fruit")),
    "TOMAR": ("tomar", ("drink",)),
    "COMPRAR": ("comprar", (*_THINGS, "food", "drink")),
    "VENDER": ("vender", (*_THINGS, "food", "animal")),
    "QUERER": ("querer", (*_THINGS, "food", "drink")),
    "VER": ("ver", ("thing", "animal", "person")),
    "MIRAR": ("mirar", ("thing", "animal", "person")),
    "LEER": ("leer", ("text",)),
    "BUSCAR": ("buscar", (*_THINGS, "animal", "person")),
    "PERDER": ("perder", _THINGS),
    "TENER": ("tener", (*_THINGS, "animal", "drink")),
    "AYUDAR": ("ayudar", ("person",)),
    "LLAMAR": ("llamar", ("person",)),
    "LIMPIAR": ("limpiar", ("thing",)),
    "COCINAR": ("cocinar", ("food",)),
}
# gloss: infinitive, preposition before the place
INTRANSITIVE = {
    "IR": ("ir", "a"),
    "VENIR": ("venir", "de"),
    "VIVIR": ("vivir", "en"),
    "TRABAJAR": ("trabajar", "en"),
    "ESTUDIAR": ("estudiar", "en"),
}

# infinitive: {tense: the five forms}; tenses not given are regular
_IRREGULAR = {
    "querer": {"present": "quiero querés quiere queremos quieren"},
    "tener": {"present": "tengo tenés tiene tenemos tienen"},
    "perder": {"present": "pierdo perdés pierde perdemos pierden"},
    "ver": {"present": "veo ves ve vemos ven", "past": "vi viste vio vimos vieron"},
    "leer": {"past": "leí leíste leyó leímos leyeron"},
    "buscar": {"past": "busqué buscaste buscó buscamos buscaron"},
    "ir": {"present": "voy vas va vamos van", "past": "fui fuiste fue fuimos fueron"},
    "venir": {"present": "vengo venís viene venimos vienen", "past": "vine viniste vino vinimos vinieron"},
    "ser": {"present": "soy sos es somos son", "past": "era eras era éramos eran"},
    "estar": {"present": "estoy estás está estamos están"},
    # Of the hard level.
    "abrazar": {"past": "abracé abrazaste abrazó abrazamos abrazaron"},
    "cerrar": {"present": "cierro cerrás cierra cerramos cierran"},
    "conocer": {"present": "conozco conocés conoce conocemos conocen"},
    "dar": {"present": "doy das da damos dan", "past": "di diste dio dimos dieron"},
    "devolver": {"present": "devuelvo devolvés devuelve devolvemos devuelven"},
    "dormir": {"present": "duermo dormís duerme dormimos duermen", "past": "dormí dormiste durmió dormimos durmieron"},
    "encontrar": {"present": "encuentro encontrás encuentra encontramos encuentran"},
    "jugar": {"present": "juego jugás juega jugamos juegan", "past": "jugué jugaste jugó jugamos jugaron"},
    "llegar": {"past": "llegué llegaste llegó llegamos llegaron"},
    "mostrar": {"present": "muestro mostrás muestra mostramos muestran"},
    "pedir": {"present": "pido pedís pide pedimos piden", "past": "pedí pediste pidió pedimos pidieron"},
    "preferir": {
        "present": "prefiero preferís prefiere preferimos prefieren",
        "past": "preferí preferiste prefirió preferimos prefirieron",
    },
    "probar": {"present": "pruebo probás prueba probamos prueban"},
    "salir": {"present": "salgo salís sale salimos salen"},
    "traer": {"present": "traigo traés trae traemos traen", "past": "traje trajiste trajo trajimos trajeron"},
    "volver": {"present": "vuelvo volvés vuelve volvemos vuelven"},
}
_IMPERFECT = {"querer", "tener", "vivir", "estar", "necesitar", "conocer"}  # states, whose past is the imperfect
_ENDINGS = {
    ("present", "ar"): "o ás a amos an",
    ("present", "er"): "o és e emos en",
    ("present", "ir"): "o ís e imos en",
    ("past", "ar"): "é aste ó amos aron",
    ("past", "er"): "í iste ió imos ieron",
    ("past", "ir"): "í iste ió imos ieron",
    ("imperfect", "ar"): "aba abas aba ábamos aban",
    ("imperfect", "er"): "ía ías ía íamos ían",
    ("imperfect", "ir"): "ía ías ía íamos ían",
}


def conjugate(infinitive: str, tense: str, person: int) -> str:
    """`conjugate("tomar", "present", 1)` is "tomás"; the future is `ir a` with the infinitive."""
    if tense == "future":
        return f"{conjugate('ir', 'present', person)} a {infinitive}"
    if tense in _IRREGULAR.get(infinitive, {}):
        return _IRREGULAR[infinitive][tense].split()[person]
    if tense == "past" and infinitive in _IMPERFECT:
        tense = "imperfect"
    return infinitive[:-2] + _ENDINGS[tense, infinitive[-2:]].split()[person]


@dataclass(frozen=True)
class Sentence:
    """Spanish text, the glosses in signed order and, for each, the marks on head and face ("neg", "yn", "wh")."""

    text: str
    glosses: tuple[str, ...]
    marks: tuple[frozenset[str], ...]

    @property
    def gloss_text(self) -> str:
        """One line for the metadata, such as `PAN QUERER^neg`.

        The letters of a name and the parts of a classifier are words of their own without marks, such as `#A #N #A
        CL:PERSONA +SUBE +RÁPIDO`: one that reads them has few to learn, and new names and paths hold none that is new.
        """
        return " ".join(
            gloss.replace("+", " +") if gloss.startswith((LETTER, CLASSIFIER)) else "^".join((gloss, *sorted(marks)))
            for gloss, marks in zip(self.glosses, self.marks, strict=True)
        )


@dataclass(frozen=True)
class Phrase:
    """A noun phrase or pronoun: its glosses, its Spanish, and what verbs and adjectives agree with."""

    glosses: tuple[str, ...]
    text: str
    person: int
    gender: str = "m"
    plural: bool = False
    kind: str = "person"


def agree(adjective: str, gender: str, plural: bool) -> str:
    """`agree("rojo", "f", True)` is "rojas"."""
    word = adjective[:-1] + "a" if adjective.endswith("o") and gender == "f" else adjective
    return word + ("es" if word.endswith("l") else "s") if plural else word


def noun_phrase(noun: str, role: str, owner: str = "", number: str = "", adjective: str = "") -> Phrase:
    """Signed (MI) PERRO (DOS) (GRANDE), Spanish "mis dos perros grandes". `role` is subject, object or place."""
    singular, plural_form, gender, kind = NOUNS[noun]
    plural = bool(number)
    if number == "MUCHO":
        plural = kind not in MASS
        determiner = agree("mucho", gender, plural)
    elif number:
        determiner = NUMERALS[number]
    elif owner or (role == "object" and kind in MASS):
        determiner = ""
    elif role == "object" and kind != "person":
        determiner = "una" if gender == "f" else "un"
    else:
        determiner = "el" if gender == "m" or noun == "AGUA" else "la"
    possessive = {"MI": "mi", "TU": "tu", "": ""}[owner] + ("s" if owner and plural else "")
    agreed = agree(ADJECTIVES[adjective][0], gender, plural) if adjective else ""
    words = (possessive, determiner, plural_form if plural else singular, agreed)
    glosses = tuple(filter(None, (owner, noun, number, adjective)))
    return Phrase(glosses, " ".join(filter(None, words)), 4 if plural else 2, gender, plural, kind)


def pronoun(gloss: str) -> Phrase:
    """A pronoun. Spanish keeps only `ustedes`; the verb expresses the others."""
    person = PERSONS[gloss]
    return Phrase((gloss,), "ustedes" if gloss == "USTEDES" else "", person, plural=person > 2)


def _contract(preposition: str, phrase: str) -> str:
    return f"{preposition} {phrase}".replace("a el ", "al ").replace("de el ", "del ")


def clause(
    subject: Phrase,
    verb: str,
    *,
    complement: Phrase | None = None,
    time: str = "",
    question: str = "",
    wh: str = "",
    negated: bool = False,
) -> Sentence:
    """Join a subject, a verb (or an adjective, which gets a copula) and its complements.

    `question` is "", "yn" or "wh"; with "wh", `wh` is the sign at the end and the Spanish word at the front.
    """
    tense = TIMES.get(time, "present")
    rest = complement.text if complement else ""
    if verb in ADJECTIVES:
        adjective, copula = ADJECTIVES[verb]
        form = conjugate(copula, tense, subject.person)
        rest = agree(adjective, subject.gender, subject.plural)
    elif verb in TRANSITIVE:
        form = conjugate(TRANSITIVE[verb][0], tense, subject.person)
        if complement and complement.kind == "person" and verb != "TENER":
            rest = _contract("a", rest)  # the personal a
    else:
        infinitive, preposition = INTRANSITIVE[verb]
        form = conjugate(infinitive, tense, subject.person)
        rest = _contract(preposition, rest) if complement else ""
    form = f"no {form}" if negated else form
    if wh:
        asked = {"QUIÉN": "quién", "QUÉ": "qué", "CUÁNDO": "cuándo"}.get(wh)
        asked = asked or {"IR": "adónde", "VENIR": "de dónde"}.get(verb, "dónde")
        words = [asked, form, rest, subject.text, time.lower()]
    else:
        words = [time.lower(), subject.text, form, rest]
    text = " ".join(filter(None, words))
    signed = [time, *(() if wh == "QUIÉN" else subject.glosses), *(complement.glosses if complement else ()), verb, wh]
    glosses = tuple(filter(None, signed))
    # The head shakes from object to verb. In a question, the brows are held from the first sign to the last.
    denied = {verb, *(complement.glosses if complement else ())} if negated else set()
    marks = [{question} - {""} | ({"neg"} if gloss in denied else set()) for gloss in glosses]
    return Sentence(f"¿{text}?" if question else text, glosses, tuple(map(frozenset, marks)))


def _random_phrase(rng: np.random.Generator, role: str, kinds: tuple[str, ...], rich: bool = True) -> Phrase:
    noun = _pick(rng, [n for n, entry in NOUNS.items() if entry[3] in kinds])
    kind = NOUNS[noun][3]
    owner = _pick(rng, ["", "MI", "TU"]) if kind not in MASS and role != "place" and rng.random() < 0.7 else ""
    number = adjective = ""
    if rich and role != "place":
        if rng.random() < 0.3 and not (owner and kind in MASS):
            numbers = ["MUCHO"] if kind in MASS else [*NUMERALS] if owner else [*NUMERALS, "MUCHO"]
            number = _pick(rng, numbers)
        elif kind not in MASS and kind != "person" and rng.random() < 0.4:
            adjective = _pick(rng, [a for a, entry in ADJECTIVES.items() if entry[1] == "ser"])
    return noun_phrase(noun, role, owner, number, adjective)


def _pick(rng: np.random.Generator, items):
    return items[int(rng.integers(len(items)))]


def _random_full(rng: np.random.Generator) -> Sentence:
    time = _pick(rng, list(TIMES)) if rng.random() < 0.45 else ""
    negated = rng.random() < 0.2 and time != "SIEMPRE"  # Spanish would use nunca
    question = "yn" if rng.random() < 0.2 else ""
    if rng.random() < 0.45:
        subject = pronoun(_pick(rng, list(PERSONS)))
    else:
        subject = _random_phrase(rng, "subject", ("person",), rich=False)
    draw = rng.random()
    if draw < 0.45:
        verb = _pick(rng, list(TRANSITIVE))
        complement = _random_phrase(rng, "object", TRANSITIVE[verb][1])
        return clause(subject, verb, complement=complement, time=time, question=question, negated=negated)
    if draw < 0.6:
        complement = _random_phrase(rng, "place", ("place",))
        verb = _pick(rng, list(INTRANSITIVE))
        return clause(subject, verb, complement=complement, time=time, question=question, negated=negated)
    if draw < 0.72:
        adjective = _pick(rng, [a for a, entry in ADJECTIVES.items() if entry[1] == "estar"])
        return clause(subject, adjective, time=time, question=question, negated=negated)
    if draw < 0.82:
        subject = _random_phrase(rng, "subject", ("animal", "text", "thing", "place"), rich=False)
        adjective = _pick(rng, [a for a, entry in ADJECTIVES.items() if entry[1] == "ser"])
        return clause(subject, adjective, question=question, negated=negated)
    if draw < 0.87:
        verb = _pick(rng, list(TRANSITIVE))
        someone = Phrase((), "", 2)
        complement = _random_phrase(rng, "object", TRANSITIVE[verb][1])
        return clause(someone, verb, complement=complement, time=time, question="wh", wh="QUIÉN")
    if draw < 0.92:
        verb = _pick(rng, [v for v, entry in TRANSITIVE.items() if entry[1] != ("person",)])
        return clause(subject, verb, time=time, question="wh", wh="QUÉ")
    if draw < 0.96:
        return clause(subject, _pick(rng, list(INTRANSITIVE)), time=time, question="wh", wh="DÓNDE")
    verb = _pick(rng, list(INTRANSITIVE))
    complement = _random_phrase(rng, "place", ("place",))
    return clause(subject, verb, complement=complement, question="wh", wh="CUÁNDO")


# The demo's vocabulary: 4 subjects x 4 objects x 4 verbs, each as statement, negation or question: 192 sentences.
_SMALL_SUBJECTS, _SMALL_OBJECTS = ("YO", "VOS", "MADRE", "PADRE"), ("MATE", "AGUA", "PAN", "CARNE")
_SMALL_VERBS = ("QUERER", "TENER", "COMPRAR", "VENDER")


@cache
def small_sentences() -> tuple[Sentence, ...]:
    """All sentences of the small level, in a fixed order."""
    return tuple(
        clause(
            pronoun(who) if who in PERSONS else noun_phrase(who, "subject"),
            verb,
            complement=noun_phrase(what, "object"),
            **form,
        )
        for who in _SMALL_SUBJECTS
        for what in _SMALL_OBJECTS
        for verb in _SMALL_VERBS
        for form in ({}, {"negated": True}, {"question": "yn"})
    )


def sample_sentences(rng: np.random.Generator, count: int, level: str) -> list[Sentence]:
    """Up to `count` sentences with different texts, shuffled; fewer only if the grammar has no more."""
    if level == "small":
        everything = small_sentences()
        return [everything[i] for i in rng.permutation(len(everything))[:count]]
    sentences: dict[str, Sentence] = {}
    for _ in range(20 * count + 1000):
        if len(sentences) >= count:
            break
        sentence = _random_full(rng)
        if 3 <= len(sentence.text.split()) <= 8:
            sentences.setdefault(sentence.text, sentence)
    return list(sentences.values())
