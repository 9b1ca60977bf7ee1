"""Names, and the letters in which a hand spells them.

The letters are those of the one-handed alphabet that most countries use in variants, Argentina too, as far as the
generated hand can show them: it cannot cross fingers or hide its thumb. Ñ, Z and J move. All are made at one place
beside the shoulder, in half the time of a sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from slt_jax.synthetic.lexicon import Sign

LETTER = "#"  # begins the gloss of a letter

# letter, hand shape, orientation, motion
_TABLE = """
A stone    out      hold
B blade    out      hold
C cee      edge     hold
D dee      out      hold
E curled   out      hold
F ring     edge     hold
G index    across   hold
H two      across   hold
I pinky    out      hold
J pinky    edge     twist
K kay      out      hold
L ell      out      hold
M trident  down     hold
N two      down     hold
Ñ two      down     wave
O round    edge     hold
P kay      forward  hold
Q pinch    down     hold
R crossed  out      hold
S fist     tilt     hold
T tee      edge     hold
U two      out      hold
V vee      out      hold
W three    out      hold
X hook     edge     hold
Y why      out      hold
Z index    out      zigzag
"""


def _letter(line: str) -> Sign:
    letter, shape, orientation, motion = line.split()
    share = 0.5 if motion == "hold" else 0.8
    return Sign(LETTER + letter, shape, shape, orientation, "spelling", motion, None, "-", share=share)


LETTERS: dict[str, Sign] = {sign.gloss: sign for sign in map(_letter, filter(None, _TABLE.splitlines()))}
if len({sign.form for sign in LETTERS.values()}) != len(LETTERS):
    raise AssertionError("two letters have the same form")

# Names without accents, which no hand spells. Those of the second table occur in no training or validation clip.
_WOMEN = """
ana carla elena gala norma olga sara valeria ximena yamila zulema beatriz camila daniela emma irene karina lorena marta
rosa teresa vanessa wanda yolanda zoe bianca cecilia dora julia laura matilde natalia nora paula silvia stella vera
viviana begoña liliana abril alma delfina eva greta brunella magdalena queta
"""
_MEN = """
bruno diego fabio hugo ignacio juan kevin lucas marcos pablo quique ramiro ulises walter alberto federico gustavo
horacio jorge omar patricio santiago alejo esteban felipe gonzalo guillermo javier luis mario miguel pedro rafael
roberto rodrigo toño xavier iñaki marcello ciro franco maxi rocco benito joaco alexis frank tadeo
"""
_NEW_WOMEN = """
alicia carmen carolina dominga estela florencia gabriela isabel juana kiara luisa marina noelia pilar renata tamara
ursula virginia wendy zaira giovanna toña anna
"""
_NEW_MEN = """
alfredo bautista carlos damiano eduardo facundo gaspar ivan jaime leandro mateo nahuel octavio pascual renzo sergio
thiago vicente axel yago ezequiel iñigo guido
"""
NAMES = dict.fromkeys(_WOMEN.split(), "f") | dict.fromkeys(_MEN.split(), "m")  # name: gender
NEW_NAMES = dict.fromkeys(_NEW_WOMEN.split(), "f") | dict.fromkeys(_NEW_MEN.split(), "m")


def spelled(name: str) -> tuple[str, ...]:
    """The glosses of a name's letters: `spelled("ana")` is `("#A", "#N", "#A")`."""
    return tuple(LETTER + letter for letter in name.upper())


def names_in(glosses: Sequence[str]) -> list[str]:
    """The names that are spelled in a sentence."""
    runs = groupby(glosses, lambda gloss: gloss.startswith(LETTER))
    return ["".join(gloss.removeprefix(LETTER) for gloss in run).lower() for spelled, run in runs if spelled]
