"""The hard level: what it signs, says and hides from training; and the other levels, which it leaves as they were."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

import numpy as np
import pytest

from slt_jax.synthetic import hard_words as words
from slt_jax.synthetic.body import tracks
from slt_jax.synthetic.classifiers import KINDS, MANNERS, SPEEDS, WAYS, gloss_of
from slt_jax.synthetic.generator import MARKER, ClipSpec, generate, isolated, plan, render_clip
from slt_jax.synthetic.grammar import NUMERALS, PERSONS, Phrase, Sentence, conjugate
from slt_jax.synthetic.hard_clauses import Clause, clause, imperative, moving, sentence
from slt_jax.synthetic.hard_grammar import signs_in
from slt_jax.synthetic.hard_lexicon import HARD_SIGNS, articulated, hard_minimal_pairs
from slt_jax.synthetic.hard_phrases import ADJECTIVES, INTRANSITIVE, NOUNS, TIMES, TRANSITIVE, after, phrase, pronoun
from slt_jax.synthetic.lexicon import FACES, MOTIONS, ORIENTATIONS, PLACES, SHAPES
from slt_jax.synthetic.signers import SIGNERS
from slt_jax.synthetic.spelling import LETTERS, NAMES, NEW_NAMES, names_in, spelled

STREAMS = ("face", "hand_l", "hand_r", "pose")
COUNTS = {"train": 3000, "val": 100, "test": 200}


@pytest.fixture(scope="module")
def planned():
    return plan(COUNTS, 5, "hard")


def of(specs, split: str) -> list[ClipSpec]:
    return [spec for video_id, spec in specs.items() if video_id.startswith(split)]


@pytest.mark.parametrize(
    ("level", "digest", "means"),
    [
        ("small", "fe0edc4d276bbbb6590b7b2e232c5e3d7afcd08f96554f1b64741075e23817a6",
         [72.609055, 46.667496, 49.313715, 0.336731]),
        ("full", "b85a7dd33af923a4a7dae7a020d8934abb5eeb7717e116ddb4f7c6d455a97f0e",
         [64.381111, 44.775219, 54.715123, 0.33825]),
    ],
)  # fmt: skip
def test_the_other_levels_are_what_they_were(level, digest, means):
    """Their plans to the letter; of pixels and poses a sum by place, as processors differ in the last bit of a sine."""
    specs, _ = plan({"train": 300, "val": 40, "test": 40}, 7, level)
    lines = (
        f"{video_id} {s.sentence.text} {s.sentence.gloss_text} {s.frames} {s.signer} {s.seed} {s.calm}"
        for video_id, s in specs.items()
    )
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest
    clip = render_clip(specs["train_000000"], 28)
    arrays = [getattr(clip, name).astype(float).ravel() for name in STREAMS]
    assert [float((a * np.linspace(0, 1, a.size)).mean()) for a in arrays] == pytest.approx(means, abs=2e-4)


def test_three_hundred_signs_use_everything_a_hand_and_a_face_can_do(planned):
    assert len(HARD_SIGNS) == 300
    specs, _ = planned
    glosses = {gloss for spec in specs.values() for gloss in spec.sentence.glosses}
    assert set(HARD_SIGNS) | set(LETTERS) <= glosses
    shown = [sign for spec in specs.values() for sign in articulated(spec.sentence.glosses)]
    assert {shape for sign in shown for shape in (sign.right, sign.right_end)} == set(SHAPES)
    assert {sign.orientation for sign in shown} == set(ORIENTATIONS)
    assert {sign.place for sign in shown} == set(PLACES)
    assert {sign.motion for sign in shown} == set(MOTIONS)
    assert {sign.face for sign in shown} == set(FACES)
    assert {sign.path.manner for sign in shown if sign.path} == set(MANNERS)


def test_the_test_has_sentences_signers_and_names_of_its_own(planned):
    specs, texts = planned
    assert {split: len(texts[split]) for split in texts} == COUNTS
    assert not texts["train"] & texts["val"] | texts["train"] & texts["test"] | texts["val"] & texts["test"]
    signers = {split: {SIGNERS[spec.signer].name for spec in of(specs, split)} for split in COUNTS}
    assert signers["train"] == signers["val"] == {signer.name for signer in SIGNERS[:8]}
    assert signers["test"] == {signer.name for signer in SIGNERS[8:]}
    assert len(signers["test"]) == 4
    assert any(signer.left_handed for signer in SIGNERS[:8])
    assert any(signer.left_handed for signer in SIGNERS[8:])
    names = {split: [n for spec in of(specs, split) for n in names_in(spec.sentence.glosses)] for split in COUNTS}
    assert set(names["train"]) == set(NAMES)
    assert not set(names["train"] + names["val"]) & set(NEW_NAMES)
    assert 0.3 < np.mean([name in NEW_NAMES for name in names["test"]]) < 0.7


def test_sentences_are_such_as_people_write(planned):
    specs, _ = planned
    for spec in specs.values():
        text = spec.sentence.text
        assert re.fullmatch(r"¿[a-záéíóúñ ]+\?|[a-záéíóúñ ]+", text), text
        assert not re.search(r"\b(a|de) el\b|  |\bno no\b|\btambién no\b|^ | $", text), text
        assert 2 <= signs_in(spec.sentence.glosses) <= 9, text
    counts = [signs_in(spec.sentence.glosses) for spec in specs.values()]
    assert min(counts) == 2
    assert max(counts) == 9
    said = [spec.sentence.gloss_text for spec in specs.values()]
    assert np.mean(["#" in glosses for glosses in said]) > 0.2
    assert np.mean(["CL:" in glosses for glosses in said]) > 0.08


def test_the_same_arguments_give_the_same_plan():
    counts = {"train": 40, "val": 5, "test": 5}
    assert plan(counts, 5, "hard") == plan(counts, 5, "hard")
    assert plan(counts, 6, "hard")[0] != plan(counts, 5, "hard")[0]


def test_the_corpus_says_what_only_the_test_has(tmp_path):
    generate(tmp_path / "c", num_train=2, num_val=1, num_test=6, seed=1, level="hard", image_size=24, workers=0,
             progress=False)  # fmt: skip
    facts = json.loads((tmp_path / "c" / MARKER).read_text(encoding="utf-8"))
    assert set(facts["test_only"]["signers"]) <= {"ivo", "julia", "kira", "leo"}
    assert facts["test_only"]["signers"]
    assert facts["level"] == "hard"


ROLES = (
    (*PERSONS, *words.PRONOUNS), tuple(TIMES), (*NUMERALS, *words.NUMBERS, "MUCHO"), tuple(INTRANSITIVE),
    ("MI", "TU", *words.OWNERS), tuple(words.COMPARING), words.MANNERS, words.JOINING, tuple(words.DITRANSITIVE),
    ("QUIÉN", "QUÉ", "DÓNDE", "CUÁNDO", *words.ASKING),
)  # fmt: skip


def roles(gloss: str) -> set:
    """Where a gloss may stand; of two that share a role either makes a sentence."""
    if gloss in TRANSITIVE:
        return {("verb", kind) for kind in TRANSITIVE[gloss]}
    if gloss in NOUNS:
        return {NOUNS[gloss][3]}
    if gloss in ADJECTIVES:
        return {ADJECTIVES[gloss][1]}
    return {group for group in ROLES if gloss in group}


@pytest.mark.parametrize("stream", STREAMS)
def test_no_stream_can_be_done_without(stream, planned):
    """Half of the sentences hold a sign for which another would do as well, were it not for this stream."""
    told = {gloss for a, b in hard_minimal_pairs()[stream] if roles(a) & roles(b) for gloss in (a, b)}
    assert np.mean([bool(told & set(spec.sentence.glosses)) for spec in planned[0].values()]) > 0.5


@pytest.mark.parametrize("stream", STREAMS)
def test_minimal_pairs_differ_in_one_stream_only(stream):
    for a, b in hard_minimal_pairs()[stream][::16]:
        one, two = (render_clip(ClipSpec(isolated(gloss), frames=8, seed=(4,)), 24) for gloss in (a, b))
        for other in STREAMS:
            same = np.array_equal(getattr(one, other), getattr(two, other))
            assert same == (other != stream), f"{a} and {b}: {other}"


def of_glosses(*glosses: str) -> Sentence:
    return Sentence("", glosses, (frozenset(),) * len(glosses))


def strong_hand(glosses: Sequence[str], frames: int, signer: int = 0) -> np.ndarray:
    """Where the strong hand's wrist is in the picture: (T, 2)."""
    pose = tracks(of_glosses(*glosses), SIGNERS[signer], frames, (2,)).pose.reshape(-1, 13, 3)
    return pose[:, 5 if SIGNERS[signer].left_handed else 6, :2]


def test_names_are_spelled_letter_by_letter_to_the_side():
    assert len(LETTERS) == 27
    signs = articulated(("MI", *spelled("guillermo")))
    assert [sign.gloss for sign in signs[1:]] == ["#" + letter for letter in "GUILLERMO"]
    assert np.all(np.diff([sign.drift for sign in signs[1:]]) > 0)
    assert [sign.motion for sign in signs[4:6]] == ["hold", "slide"]
    assert articulated(spelled("ana"))[0].drift == 0
    assert articulated((*spelled("ana"), "MI", *spelled("eva")))[4].drift == 0
    hand = strong_hand(spelled("ana") * 3, 40)
    assert hand[30:36, 0].mean() < hand[4:10, 0].mean() - 0.05  # a right hand goes to the left of the picture
    assert of_glosses("YO", "NOMBRE", *spelled("íñigo".replace("í", "i"))).gloss_text == "YO NOMBRE #I #Ñ #I #G #O"


def test_every_name_can_be_spelled_and_every_letter_is_learned():
    assert all(name == name.lower() and spelled(name)[0] in LETTERS for name in NAMES)
    assert {letter for name in NAMES for letter in spelled(name)} == set(LETTERS)
    assert {letter for name in NEW_NAMES for letter in spelled(name)} <= set(LETTERS)
    assert not set(NAMES) & set(NEW_NAMES)


@pytest.mark.parametrize("signer", [0, 6])  # the second is left-handed
def test_right_is_the_person_s_own_whichever_hand_shows_it(signer):
    for way, sign in (("DERECHA", -1), ("IZQUIERDA", 1)):  # a person's right is the left of the picture
        x = strong_hand([gloss_of("PERSONA", way, "", "", "")], 16, signer)[:, 0]
        assert np.sign(x[11] - x[4]) == sign
    y = strong_hand([gloss_of("PERSONA", "SUBE", "", "", "")], 16, signer)[:, 1]
    assert y[11] < y[4] - 0.1


def test_a_path_is_made_of_parts():
    plain, fast, slow = (articulated([gloss_of("ANIMAL", "BAJA", "", speed, "")])[0] for speed in SPEEDS)
    assert fast.share < plain.share < slow.share
    said = gloss_of("VEHÍCULO", "SALE", "ZIGZAG", "RÁPIDO", "CASA")
    assert articulated([said])[0].left == "fist"
    assert of_glosses("AUTO", said).gloss_text == "AUTO CL:VEHÍCULO +SALE +ZIGZAG +RÁPIDO +CASA"
    poses = []
    for kind in KINDS:
        for way in WAYS:
            for manner in MANNERS:
                base = "CASA" if way in ("SALE", "LLEGA") else ""
                (sign,) = articulated([gloss_of(kind, way, manner, "", base)])
                poses.append((sign.right, sign.orientation, sign.path))
    assert len(set(poses)) == len(KINDS) * len(WAYS) * len(MANNERS)


def test_a_command_shows_on_the_face_alone():
    plain, told = (
        render_clip(ClipSpec(Sentence("", ("PUERTA", "CERRAR"), (frozenset(marks),) * 2), 10, seed=(4,)), 24)
        for marks in ((), ("imp",))
    )
    assert np.array_equal(plain.hand_r, told.hand_r)
    assert not np.array_equal(plain.face, told.face)


@pytest.mark.parametrize(
    ("made", "text", "glosses"),
    [
        (
            sentence(Clause(("YO", "NOMBRE", *spelled("bruno")), "me llamo bruno")),
            "me llamo bruno",
            "YO NOMBRE #B #R #U #N #O",
        ),
        (
            sentence(moving(phrase("AUTO"), "VEHÍCULO", "SUBE", speed="RÁPIDO")),
            "el auto sube rápido",
            "AUTO CL:VEHÍCULO +SUBE +RÁPIDO",
        ),
        (
            sentence(moving(phrase("PELOTA"), "REDONDO", "LLEGA", manner="SALTOS", base="BANCO", time="AYER")),
            "ayer la pelota llegó al banco a los saltos",
            "AYER BANCO PELOTA CL:REDONDO +LLEGA +SALTOS +BANCO",
        ),
        (
            sentence(
                clause(pronoun("ELLA"), "DAR", "dar", said="un libro al médico", signed=("MÉDICO", "LIBRO"),
                       clitic="le", time="DOMINGO", negated=True)
            ),
            "el domingo ella no le va a dar un libro al médico",
            "DOMINGO ELLA MÉDICO^neg LIBRO^neg DAR^neg",
        ),
        (
            sentence(
                clause(pronoun("YO"), "COMPRAR", "comprar", said="pan", signed=("PAN",)),
                clause(Phrase((), "", 0), "CANSADO", "estar", said="cansado"),
                joined="PORQUE",
            ),
            "compro pan porque estoy cansado",
            "YO PAN COMPRAR PORQUE CANSADO",
        ),
        (
            sentence(
                clause(pronoun("VOS"), "IR", "ir", said="al cine", signed=("CINE",), time="NUNCA"),
                clause(Phrase(spelled("irene"), "irene", 2), "BAILAR", "bailar"),
                joined="Y",
            ),
            "nunca vas al cine e irene baila",
            "NUNCA VOS CINE IR Y #I #R #E #N #E BAILAR",
        ),
        (
            sentence(clause(phrase("MADRE", owner="NUESTRO"), "ESCRIBIR", "escribir", said=phrase("CARTA", "un").text,
                            signed=("CARTA",), place="PARQUE", also=True)),
            "nuestra madre también escribe una carta en el parque",
            "PARQUE NUESTRO MADRE TAMBIÉN CARTA ESCRIBIR",
        ),
    ],
)  # fmt: skip
def test_spanish_beside_signs(made, text, glosses):
    assert made.text == text
    assert made.gloss_text == glosses


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (phrase("LEÓN", "el", number="TRES", owner="SU"), "sus tres leones"),
        (phrase("LÁPIZ", "un", number="MUCHO"), "muchos lápices"),
        (phrase("ARROZ", "un", number="POCO"), "poco arroz"),
        (phrase("CAMIÓN", "el", number="CINCO"), "los cinco camiones"),
        (phrase("PÁJARO", "un", adjective="AZUL", number="DOS"), "dos pájaros azules"),
        (phrase("FOTO", owner="NUESTRO", number="DIEZ"), "nuestras diez fotos"),
        (phrase("ARAÑA", "un", adjective="PELIGROSO"), "una araña peligrosa"),
        (phrase("AGUA"), "el agua"),
        (phrase("PARAGUAS", "un", number="SEIS"), "seis paraguas"),
    ],
)
def test_words_agree(made, text):
    assert made.text == text


def test_verbs_and_commands():
    past = {"traer": "trajeron", "dormir": "durmieron", "pedir": "pidieron", "dar": "dieron", "conocer": "conocían"}
    for infinitive, form in past.items():
        assert conjugate(infinitive, "past", 4) == form
    present = {"jugar": "juego", "volver": "vuelvo", "cerrar": "cierro", "conocer": "conozco", "traer": "traigo"}
    for infinitive, form in present.items():
        assert conjugate(infinitive, "present", 0) == form
    for infinitive, form in {"cerrar": "cerrá", "traer": "traé", "abrir": "abrí", "ir": "andá", "leer": "leé"}.items():
        assert imperative(infinitive) == form
    assert [after("de", "el río"), after("a", "ellos"), after("por", "el puente")] == [
        "del río",
        "a ellos",
        "por el puente",
    ]
