"""Classifiers: a hand shape that stands for a thing, on the path that the thing takes.

The path is no sign of a lexicon but made of parts: where it leads, how (straight, in zigzag, in loops, in hops) and how
fast. A base hand may stand for what the thing comes out of or arrives at, or for the way on which it moves. A gloss
names the parts: `CL:VEHÍCULO+SUBE+ZIGZAG+RÁPIDO`.
"""

from __future__ import annotations

import numpy as np

from slt_jax.synthetic.lexicon import Path, Sign

CLASSIFIER = "CL:"  # begins the gloss of a classifier

# kind: hand shape and orientation
KINDS = {
    "VEHÍCULO": ("flat", "across"),
    "PERSONA": ("index", "out"),
    "ANIMAL": ("legs", "down"),
    "PLANO": ("flat", "down"),
    "REDONDO": ("round", "forward"),
}
# which way: infinitive, Spanish after it, start and end
WAYS = {
    "SUBE": ("subir", "", (0.0, 0.6), (0.0, -0.65)),
    "BAJA": ("bajar", "", (0.0, -0.65), (0.0, 0.6)),
    "DERECHA": ("ir", "a la derecha", (-0.65, 0.0), (0.65, 0.0)),
    "IZQUIERDA": ("ir", "a la izquierda", (0.65, 0.0), (-0.65, 0.0)),
    "SUBE-DERECHA": ("subir", "a la derecha", (-0.5, 0.5), (0.5, -0.5)),
    "SUBE-IZQUIERDA": ("subir", "a la izquierda", (0.5, 0.5), (-0.5, -0.5)),
    "BAJA-DERECHA": ("bajar", "a la derecha", (-0.5, -0.5), (0.5, 0.5)),
    "BAJA-IZQUIERDA": ("bajar", "a la izquierda", (0.5, -0.5), (-0.5, 0.5)),
    "SALE": ("salir", "de", (-0.35, 0.35), (0.65, -0.2)),  # of what the base hand stands for
    "LLEGA": ("llegar", "a", (0.65, -0.2), (-0.35, 0.35)),
}
TO_BASE = ("SALE", "LLEGA")
MANNERS = {"": "", "ZIGZAG": "en zigzag", "VUELTAS": "dando vueltas", "SALTOS": "a los saltos"}
# speed: Spanish, and how many usual signs the path takes; further apart than two signers' timing is
SPEEDS = {"": ("", 1.6), "RÁPIDO": ("rápido", 0.9), "DESPACIO": ("despacio", 2.9)}
# what the base hand stands for: hand shape
BASES = {"CASA": "fist", "ESCUELA": "fist", "BANCO": "fist", "FARMACIA": "fist", "ÁRBOL": "five", "PARQUE": "five",
         "RÍO": "four", "MONTAÑA": "claw", "CAJA": "round"}  # fmt: skip
ROADS = {"CALLE": "flat", "PUENTE": "blade"}


def gloss_of(kind: str, way: str, manner: str, speed: str, base: str) -> str:
    """The gloss of a classifier; `base` is the noun that the other hand stands for, or nothing."""
    return CLASSIFIER + "+".join(filter(None, (kind, way, manner, speed, base)))


def classifier(gloss: str) -> Sign:
    """What the hands do for a gloss that `gloss_of` made."""
    kind, way, *rest = gloss.removeprefix(CLASSIFIER).split("+")
    shape, orientation = KINDS[kind]
    *_, start, end = WAYS[way]
    manner = next((part for part in rest if part in MANNERS), "")
    share = next((SPEEDS[part][1] for part in rest if part in SPEEDS), SPEEDS[""][1])
    base = next(((BASES | ROADS)[part] for part in rest if part in BASES or part in ROADS), None)
    path = Path(start, end, manner, flips=way not in TO_BASE)
    return Sign(gloss, shape, shape, orientation, "space", "hold", base, "-", share=share, path=path)


def along(path: Path, phase: np.ndarray, left_handed: bool) -> np.ndarray:
    """Where a classifier is at phase 0..1 of its path: (T, 2), x to the strong hand's side, y down, shoulder widths."""
    start, end = np.array(path.start), np.array(path.end)
    way = (end - start) / np.linalg.norm(end - start)
    across = np.array([way[1], -way[0]])
    turn = 2 * np.pi * phase
    if path.manner == "ZIGZAG":
        off = 0.2 * (2 * np.abs((3 * phase) % 2 - 1) - 1)[:, None] * across
    elif path.manner == "VUELTAS":
        off = 0.2 * (np.sin(1.5 * turn)[:, None] * across + (np.cos(1.5 * turn) - 1)[:, None] * way)
    elif path.manner == "SALTOS":
        off = np.outer(np.abs(np.sin(turn)), [0.0, -0.3])  # up, whichever way it goes
    else:
        off = np.zeros((len(phase), 2))
    place = start + phase[:, None] * (end - start) + off
    return place * [-1, 1] if left_handed and path.flips else place
