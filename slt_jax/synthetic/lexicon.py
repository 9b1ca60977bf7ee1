"""The signs of the generated corpus: how each gloss is articulated.

A sign is what the right hand does (shape, palm orientation, place, motion), what the left hand does (nothing, the same
mirrored, or a base hand with its own shape) and what the face does. Each of the four streams shows one part of this and
no other: the hand crops show fingers and orientation, only the pose shows place and path, only the face shows mouth,
cheeks and eyes. `minimal_pairs` finds the glosses that a single stream tells apart. A model that ignores the stream
cannot get them right.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

# Finger flexion (thumb, index, middle, ring, pinky; 0 straight, 1 curled into the palm), then the
# spread of the fingers and how far the thumb stands off (both 0..1).
SHAPES: dict[str, tuple[float, ...]] = {
    "fist": (0.7, 1, 1, 1, 1, 0, 0.1),
    "thumb": (0, 1, 1, 1, 1, 0, 1),
    "flat": (0.3, 0, 0, 0, 0, 0, 0.1),
    "five": (0, 0, 0, 0, 0, 1, 1),
    "four": (0.9, 0, 0, 0, 0, 0.8, 0),
    "three": (0.9, 0, 0, 0, 1, 0.9, 0),
    "vee": (0.9, 0, 0, 1, 1, 1, 0),
    "two": (0.9, 0, 0, 1, 1, 0, 0),
    "index": (0.9, 0, 1, 1, 1, 0, 0),
    "ell": (0, 0, 1, 1, 1, 0, 1),
    "why": (0, 1, 1, 1, 0, 0.7, 1),
    "pinky": (0.9, 1, 1, 1, 0, 0.3, 0),
    "horns": (0.9, 0, 1, 1, 0, 0.4, 0),
    "claw": (0.35, 0.45, 0.45, 0.45, 0.45, 0.9, 0.9),
    "round": (0.45, 0.55, 0.55, 0.55, 0.55, 0, 0.4),
    "ring": (0.5, 0.6, 0, 0, 0, 0.7, 0.4),
    "hook": (0.9, 0.5, 1, 1, 1, 0, 0),
    # From here on, those of the hard level's letters and classifiers.
    "stone": (0, 1, 1, 1, 1, 0, 0.35),
    "blade": (1, 0, 0, 0, 0, 0, 0),
    "cee": (0.3, 0.4, 0.4, 0.4, 0.4, 0, 0.8),
    "dee": (0.6, 0, 0.62, 0.62, 0.62, 0, 0.4),
    "curled": (0.9, 0.78, 0.78, 0.78, 0.78, 0, 0),
    "trident": (0.9, 0, 0, 0, 1, 0, 0),
    "pinch": (0.45, 0.5, 1, 1, 1, 0, 0.6),
    "kay": (0.1, 0, 0.4, 1, 1, 0.6, 0.7),
    "crossed": (0.9, 0.3, 0, 1, 1, 0, 0),
    "tee": (0.2, 0.7, 0, 0, 0, 0, 0.2),
    "legs": (0.9, 0.45, 0.45, 1, 1, 0.8, 0),
}

# Orientation of the right hand: roll (in the image), pitch (fingers towards the viewer) and yaw
# (turn about the fingers' axis; 180 shows the back of the hand), in degrees.
ORIENTATIONS: dict[str, tuple[float, float, float]] = {
    "out": (0, 0, 0),
    "tilt": (40, 0, 0),
    "in": (-10, 0, 180),
    "across": (75, 0, 180),
    "down": (165, 0, 170),
    "edge": (15, 0, 60),
    "forward": (20, 50, 15),
}

# Where the hand is, in shoulder widths from the middle of the shoulders: x towards the signing
# hand's side, y downwards.
PLACES: dict[str, tuple[float, float]] = {
    "forehead": (0.12, -1.05),
    "temple": (0.5, -0.95),
    "cheek": (0.42, -0.62),
    "mouth": (0.08, -0.5),
    "shoulder": (-0.45, 0.0),
    "chest": (0.1, 0.25),
    "belly": (0.12, 0.8),
    "neutral": (0.45, 0.5),
    "side": (0.95, 0.1),
    "high": (0.85, -0.7),
    "spelling": (0.6, -0.15),  # of the hard level's names
    "space": (0.25, 0.2),  # the middle of the paths of its classifiers
}

MOTIONS = ("hold", "tap", "up", "down", "out", "cross", "circle", "zigzag", "wave", "twist", "far", "slide")

# What the face does besides being neutral; see FACE in body.py for the parameters.
FACES: dict[str, dict[str, float]] = {
    "-": {},
    "o": {"open": 0.6, "width": -0.8},
    "a": {"open": 1.0, "width": 0.3},
    "smile": {"curve": 1.0, "width": 0.7, "open": 0.1},
    "sad": {"curve": -1.0, "furrow": -0.9, "eyes": -0.4},
    "puff": {"cheeks": 1.0, "width": -0.7},
    "teeth": {"teeth": 1.0, "open": 0.4, "width": 0.8},
    "tongue": {"tongue": 1.0, "open": 0.5},
    "squint": {"eyes": -0.75, "furrow": 0.7, "width": -0.3},
    "wide": {"eyes": 0.6, "raise": 0.9},
}


@dataclass(frozen=True)
class Path:
    """Where a classifier goes, in shoulder widths from the middle of its paths, as places are counted.

    `flips`: left and right are the person's own, whichever hand is strong; else they are those of the strong hand.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    manner: str  # a key of MANNERS in classifiers.py
    flips: bool


@dataclass(frozen=True)
class Sign:
    """One sign of a right-handed signer. `right_end` and `right` are equal unless the hand opens or closes.

    `left` is None (one-handed), "mirror" (the right hand mirrored) or a shape held as a base hand.
    """

    gloss: str
    right: str
    right_end: str
    orientation: str
    place: str
    motion: str
    left: str | None
    face: str
    share: float = 1.0  # of the time of a usual sign
    drift: float = 0.0  # from the place to the hand's own side, in shoulder widths
    path: Path | None = None  # that is gone beside the motion

    @property
    def form(self) -> tuple:
        """The articulation without the name. No two glosses share one."""
        return (self.right, self.right_end, self.orientation, self.place, self.motion, self.left, self.face)


# gloss, right hand (a>b: changes from a to b), orientation, place, motion, left hand, face
_TABLE = """
AYER       flat        in       cheek     out     -       -
MAÑANA     flat        in       cheek     circle  -       -
HOY        claw        out      neutral   down    flat    -
AHORA      claw        out      neutral   down    fist    -
SIEMPRE    why         in       cheek     circle  -       -

YO         index       across   chest     tap     -       -
VOS        index       forward  neutral   far     -       -
NOSOTROS   index       across   shoulder  circle  -       -
USTEDES    index       forward  neutral   wave    -       -
MI         flat        across   chest     tap     -       -
TU         flat        forward  neutral   far     -       -

MADRE      five        edge     mouth     tap     -       -
PADRE      five        edge     forehead  tap     -       -
HERMANO    two         across   chest     tap     two     o
HERMANA    two         across   chest     tap     two     a
AMIGO      two         across   chest     tap     hook    o
AMIGA      two         across   chest     tap     hook    a
MAESTRO    round       out      temple    out     -       o
MAESTRA    round       out      temple    out     -       a
ABUELO     claw        out      temple    out     -       o
ABUELA     claw        out      temple    out     -       a
NENE       flat        down     side      tap     -       o
NENA       flat        down     side      tap     -       a
MÉDICO     two         edge     forehead  tap     -       -

PERRO      horns       out      temple    wave    -       -
GATO       claw        edge     cheek     out     -       -
CABALLO    two         out      temple    wave    -       -
PAN        flat        across   belly     zigzag  flat    -
CARNE      flat        across   belly     zigzag  fist    -
MANZANA    hook        across   cheek     twist   -       -
AGUA       three       out      mouth     tap     -       -
LECHE      fist>five   out      neutral   down    -       -
MATE       thumb       tilt     mouth     hold    -       puff
CAFÉ       ring        tilt     mouth     hold    -       -
LIBRO      flat        in       neutral   twist   mirror  -
DIARIO     five        in       neutral   out     mirror  -
CARTA      index       across   neutral   zigzag  flat    -
LLAVE      index       across   neutral   zigzag  fist    -
AUTO       fist        in       chest     wave    mirror  -
TELÉFONO   why         tilt     cheek     hold    -       -
PELOTA     claw        tilt     chest     circle  mirror  -
FLOR       round>five  in       mouth     up      -       -
CASA       flat        tilt     forehead  down    mirror  -
ESCUELA    flat        tilt     chest     down    mirror  -
TRABAJO    fist        across   neutral   tap     fist    -
HOSPITAL   two         across   shoulder  down    -       -
PLAZA      five        across   shoulder  down    -       -
PLAYA      five        across   belly     wave    -       -

GRANDE     ell         edge     neutral   out     mirror  -
ENORME     ell         edge     neutral   out     mirror  puff
CHICO      ell         edge     neutral   hold    mirror  -
LINDO      five>round  in       cheek     circle  -       smile
FEO        five>round  in       cheek     circle  -       squint
NUEVO      round       across   chest     up      flat    -
VIEJO      round       across   chest     up      fist    -
ROJO       index       in       mouth     down    -       -
BLANCO     two         in       mouth     down    -       -
NEGRO      pinky       in       mouth     down    -       -
CANSADO    claw        across   chest     down    mirror  -
TRISTE     claw        across   chest     down    mirror  sad
CONTENTO   claw        across   chest     up      mirror  smile
ENFERMO    flat        edge     forehead  tap     -       sad

COMER      round       in       mouth     tap     -       -
TOMAR      thumb       tilt     mouth     hold    -       -
COMPRAR    ring        forward  chest     cross   flat    -
VENDER     ring        forward  chest     out     flat    -
QUERER     claw        tilt     chest     cross   -       -
VER        vee         in       temple    far     -       -
MIRAR      vee         in       temple    circle  -       -
LEER       vee         down     chest     zigzag  flat    -
ESTUDIAR   vee         down     chest     zigzag  five    -
BUSCAR     hook        in       temple    circle  -       -
PERDER     flat        forward  chest     circle  five    -
TENER      five>fist   in       belly     up      -       -
AYUDAR     thumb       out      chest     up      flat    -
LLAMAR     thumb       out      chest     up      fist    -
LIMPIAR    flat        forward  chest     circle  fist    -
IR         index       tilt     belly     out     -       -
VENIR      index       tilt     belly     cross   -       -
VIVIR      two         in       belly     circle  -       smile
TRABAJAR   fist        across   neutral   zigzag  fist    -
COCINAR    vee         across   belly     twist   mirror  -

DOS        index       tilt     neutral   tap     vee     -
TRES       index       tilt     neutral   tap     three   -
CUATRO     index       tilt     neutral   tap     four    -
MUCHO      round>five  forward  neutral   hold    mirror  -

QUIÉN      ell         tilt     mouth     twist   -       -
QUÉ        five        tilt     neutral   wave    -       -
DÓNDE      index       out      neutral   wave    -       -
CUÁNDO     five        edge     cheek     wave    -       -
"""


def read_sign(line: str) -> Sign:
    """The sign of a line of a table. Raises AssertionError for a word that no table above has."""
    gloss, right, orientation, place, motion, left, face = line.split()
    start, _, end = right.partition(">")
    sign = Sign(gloss, start, end or start, orientation, place, motion, None if left == "-" else left, face)
    known = {sign.right, sign.right_end} <= SHAPES.keys() and orientation in ORIENTATIONS and place in PLACES
    if not (known and motion in MOTIONS and face in FACES and (left in ("-", "mirror") or left in SHAPES)):
        raise AssertionError(f"a word of this sign is not defined: {line!r}")
    return sign


SIGNS: dict[str, Sign] = {sign.gloss: sign for sign in map(read_sign, filter(None, _TABLE.splitlines()))}
if len({sign.form for sign in SIGNS.values()}) != len(SIGNS):
    raise AssertionError("two glosses have the same articulation")


@cache
def minimal_pairs() -> dict[str, list[tuple[str, str]]]:
    """Those among the signs of the levels small and full; see `pairs_among`."""
    return pairs_among(SIGNS.values())


def pairs_among(signs: Iterable[Sign]) -> dict[str, list[tuple[str, str]]]:
    """Pairs of glosses that exactly one stream tells apart: {"face" | "hand_l" | "hand_r" | "pose": pairs}.

    Of a mirrored sign the left hand shows all that the right one does, so only one-handed signs and signs
    with a base hand can differ in a single hand. A twist shows in the crop and in the knuckles of the
    pose, so a pair with a twist on one side is never minimal.
    """
    pairs: dict[str, list[tuple[str, str]]] = {"face": [], "hand_l": [], "hand_r": [], "pose": []}
    for a, b in combinations(signs, 2):
        if replace(b, gloss=a.gloss, face=a.face) == a:
            pairs["face"].append((a.gloss, b.gloss))
        elif replace(b, gloss=a.gloss, left=a.left) == a and not {a.left, b.left} & {None, "mirror"}:
            pairs["hand_l"].append((a.gloss, b.gloss))
        elif replace(b, gloss=a.gloss, right=a.right, right_end=a.right_end) == a and a.left != "mirror":
            pairs["hand_r"].append((a.gloss, b.gloss))
        elif replace(b, gloss=a.gloss, place=a.place, motion=a.motion) == a and "twist" not in (a.motion, b.motion):
            pairs["pose"].append((a.gloss, b.gloss))
    return pairs
