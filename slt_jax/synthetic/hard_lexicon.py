"""The signs that the hard level has beside those of the full one, and what the hands do for any gloss of a sentence.

The signs come in families of words that can stand in each other's place. Of a family, one sign differs from the next in
one stream only, so that none of the streams can be done without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from slt_jax.synthetic.classifiers import CLASSIFIER, classifier
from slt_jax.synthetic.lexicon import SIGNS, Sign, pairs_among, read_sign
from slt_jax.synthetic.spelling import LETTER, LETTERS

_DRIFT = 0.07  # of each letter of a name, in shoulder widths

# gloss, right hand (a>b: changes from a to b), orientation, place, motion, left hand, face
_TABLE = """
ANOCHE        four         down      high      hold    four    -
ANTEAYER      four         down      high      hold    five    -
SEMANA-PASADA pinch        down      high      hold    four    -
A-VECES       four         down      side      hold    four    -
NUNCA         four         down      high      hold    four    smile
ESTA-NOCHE    four         down      high      hold    cee     -

PRONTO        stone        down      forehead  up      -       -
DESPUÉS       cee          down      forehead  up      -       -
LUNES         stone        down      side      up      -       -
VIERNES       stone        down      forehead  up      -       teeth
DOMINGO       curled       down      forehead  up      -       -

ÉL            curled       edge      shoulder  far     -       -
ELLA          pinch        edge      shoulder  far     -       -
ELLOS         curled       edge      shoulder  zigzag  -       -

SU            legs         forward   side      far     -       -
NUESTRO       legs         forward   side      zigzag  -       -

CINCO         pinky        out       shoulder  far     cee     -
SEIS          pinky        out       shoulder  far     five    -
DIEZ          horns        out       shoulder  far     cee     -
POCO          pinky        out       shoulder  wave    cee     -

Y             why          forward   belly     wave    vee     -
PERO          why          forward   belly     wave    index   -
PORQUE        cee          forward   belly     wave    vee     -

MÁS           blade        forward   forehead  far     fist    -
MENOS         blade        forward   forehead  far     four    -
IGUAL         cee          forward   forehead  far     fist    -

BIEN          three        down      cheek     zigzag  -       -
MAL           horns        down      cheek     zigzag  -       -

POR-QUÉ       legs         forward   temple    circle  -       -
CÓMO          blade        forward   temple    circle  -       -
CUÁNTO        legs         forward   mouth     circle  -       -

NOMBRE        pinch        down      high      zigzag  -       -
DE            horns        down      high      zigzag  -       -
ESTAR         pinch        down      forehead  zigzag  -       -
TAMBIÉN       pinch        down      high      zigzag  -       puff
POR-FAVOR     stone        down      high      zigzag  -       -

HIJO          blade        edge      high      far     vee     o
HIJA          blade        edge      high      far     vee     a
SOBRINO       blade        edge      high      far     fist    o
SOBRINA       blade        edge      high      far     fist    a
PRIMO         three        edge      high      far     vee     o
PRIMA         three        edge      high      far     vee     a
NIETO         blade        edge      high      out     vee     o
NIETA         blade        edge      high      out     vee     a
HOMBRE        blade        edge      high      far     cee     o
MUJER         blade        edge      high      far     cee     a

COCINERO      cee          out       temple    wave    cee     o
COCINERA      cee          out       temple    wave    cee     a
ENFERMERO     cee          out       temple    wave    flat    o
ENFERMERA     cee          out       temple    wave    flat    a
PINTOR        curled       out       temple    wave    cee     o
PINTORA       curled       out       temple    wave    cee     a
VENDEDOR      cee          out       temple    hold    cee     o
VENDEDORA     cee          out       temple    hold    cee     a
ABOGADO       cee          out       temple    wave    index   o
ABOGADA       cee          out       temple    wave    index   a

TÍO           ring         tilt      side      cross   -       o
TÍA           ring         tilt      side      cross   -       a
NOVIO         horns        tilt      side      cross   -       o
NOVIA         horns        tilt      side      cross   -       a
VECINO        ring         tilt      side      down    -       o
VECINA        ring         tilt      side      down    -       a

ALUMNO        pinky        in        cheek     out     -       o
ALUMNA        pinky        in        cheek     out     -       a
JEFE          pinky        in        cheek     cross   -       o
JEFA          pinky        in        cheek     cross   -       a

BEBÉ          stone        down      belly     up      -       -
BOMBERO       legs         down      belly     up      -       -

CHANCHO       hook         in        forehead  cross   cee     -
PATO          hook         in        forehead  cross   flat    -
PÁJARO        why          in        forehead  cross   cee     -
PEZ           hook         in        forehead  circle  cee     -
CONEJO        hook         in        forehead  cross   cee     teeth

RATÓN         ell          edge      side      hold    -       -
LEÓN          curled       edge      side      hold    -       -
ELEFANTE      ell          edge      side      circle  -       -
VACA          ell          edge      side      hold    -       teeth

OVEJA         stone        tilt      shoulder  down    flat    -
GALLINA       stone        tilt      shoulder  down    five    -
TORTUGA       four         tilt      shoulder  down    flat    -
ARAÑA         stone        tilt      cheek     down    flat    -

QUESO         vee          forward   belly     out     four    -
ARROZ         vee          forward   belly     out     ell     -
POLLO         three        forward   belly     out     four    -
PESCADO       vee          forward   shoulder  out     four    -
CHOCOLATE     vee          forward   belly     out     four    squint

SOPA          thumb        across    shoulder  up      -       -
PIZZA         fist         across    shoulder  up      -       -
ENSALADA      thumb        across    shoulder  hold    -       -

HUEVO         legs         tilt      mouth     cross   fist    -
BANANA        legs         tilt      mouth     cross   flat    -
NARANJA       pinch        tilt      mouth     cross   fist    -
EMPANADA      legs         tilt      mouth     zigzag  fist    -
PAPA          legs         tilt      mouth     cross   fist    squint

TÉ            why          forward   cheek     zigzag  index   -
VINO          why          forward   cheek     zigzag  vee     -
JUGO          three        forward   cheek     zigzag  index   -
CERVEZA       why          forward   shoulder  zigzag  index   -

CUENTO        hook         edge      belly     up      five    -
POEMA         hook         edge      belly     up      fist    -
MENSAJE       four         edge      belly     up      five    -
REVISTA       hook         edge      belly     down    five    -

VASO          fist         out       mouth     circle  five    -
PLATO         fist         out       mouth     circle  cee     -
RELOJ         thumb        out       mouth     circle  five    -
PARAGUAS      fist         out       forehead  circle  five    -
ZAPATO        fist         out       mouth     circle  five    puff
VESTIDO       fist         out       mouth     circle  flat    -

LÁPIZ         three        in        side      cross   five    -
REGALO        three        in        side      cross   cee     -
ÁRBOL         curled       in        side      cross   five    -
PAPEL         three        in        shoulder  cross   five    -
MESA          three        in        side      cross   five    squint

SILLA         round        forward   high      hold    -       -
PUERTA        thumb        forward   high      hold    -       -
VENTANA       round        forward   high      tap     -       -
COMPUTADORA   round        forward   high      hold    -       wide

BICICLETA     ell          tilt      forehead  up      fist    -
CAMISA        ell          tilt      forehead  up      four    -
CAJA          horns        tilt      forehead  up      fist    -
VALIJA        ell          tilt      shoulder  up      fist    -
FOTO          ell          tilt      forehead  up      fist    sad
HOJA          ell          tilt      forehead  up      cee     -

COLECTIVO     curled       edge      shoulder  down    flat    -
TREN          curled       edge      shoulder  down    index   -
AVIÓN         four         edge      shoulder  down    flat    -
BARCO         curled       edge      shoulder  out     flat    -
CAMIÓN        curled       edge      shoulder  down    flat    wide
MOTO          curled       edge      shoulder  down    fist    -

PARQUE        pinch        across    neutral   tap     cee     -
RÍO           pinch        across    neutral   tap     flat    -
MERCADO       horns        across    neutral   tap     cee     -
BANCO         pinch        across    neutral   out     cee     -
CINE          pinch        across    neutral   tap     cee     squint
RESTAURANTE   pinch        across    neutral   tap     fist    -

CAMPO         ring         down      cheek     zigzag  -       -
PUENTE        why          down      cheek     zigzag  -       -
JARDÍN        ring         down      belly     zigzag  -       -
CALLE         ring         down      cheek     zigzag  -       tongue
MONTAÑA       stone        down      cheek     zigzag  -       -

FARMACIA      pinky        in        temple    far     fist    -
ESTACIÓN      pinky        in        temple    far     ell     -
CIUDAD        four         in        temple    far     fist    -
BIBLIOTECA    pinky        in        temple    circle  fist    -
COCINA        pinky        in        temple    far     fist    sad

ALTO          thumb        across    mouth     cross   vee     -
BAJO          thumb        across    mouth     cross   five    -
FLACO         why          across    mouth     cross   vee     -
CARO          thumb        across    mouth     out     vee     -
BARATO        thumb        across    mouth     cross   vee     tongue

AZUL          vee          forward   belly     wave    -       -
VERDE         horns        forward   belly     wave    -       -
AMARILLO      vee          forward   belly     circle  -       -
LARGO         vee          forward   belly     wave    -       smile
CORTO         stone        forward   belly     wave    -       -

FUERTE        hook         out       side      out     index   -
INTELIGENTE   hook         out       side      out     cee     -
SIMPÁTICO     stone        out       side      out     index   -
PELIGROSO     hook         out       forehead  out     index   -
FAMOSO        hook         out       side      out     index   puff

LIMPIO        two          edge      high      hold    index   -
SUCIO         two          edge      high      hold    vee     -
ROTO          legs         edge      high      hold    index   -
ENOJADO       two          edge      high      circle  index   -
ASUSTADO      two          edge      high      hold    index   smile

PREOCUPADO    five         down      cheek     down    mirror  -
OCUPADO       five         down      side      down    mirror  -

ESCRIBIR      four         tilt      chest     tap     cee     -
ABRIR         four         tilt      chest     tap     fist    -
CERRAR        why          tilt      chest     tap     cee     -

ROMPER        legs         across    forehead  hold    index   -
USAR          legs         across    forehead  hold    flat    -
PINTAR        ring         across    forehead  hold    index   -
DIBUJAR       legs         across    side      hold    index   -
LAVAR         legs         across    forehead  hold    index   sad
ARREGLAR      legs         across    forehead  hold    fist    -

GUARDAR       three        in        cheek     far     fist    -
ENCONTRAR     three        in        cheek     far     cee     -
ROBAR         fist         in        cheek     far     fist    -
LLEVAR        three        in        chest     far     fist    -
TRAER         three        in        cheek     far     fist    puff
OLVIDAR       three        in        cheek     far     ell     -

ABRAZAR       horns        forward   side      up      five    -
BESAR         horns        forward   side      up      fist    -
VISITAR       claw         forward   side      up      five    -
SALUDAR       horns        forward   side      circle  five    -

CUIDAR        round>five   down      belly     wave    -       -
ESPERAR       ring         down      belly     wave    -       -
CONOCER       round>five   down      belly     circle  -       -

CORTAR        pinch        down      temple    down    four    -
PREFERIR      pinch        down      temple    down    vee     -
PROBAR        claw         down      temple    down    four    -
PREPARAR      pinch        down      temple    cross   four    -
NECESITAR     pinch        down      temple    down    four    puff

DAR           why          out       mouth     tap     cee     -
REGALAR       why          out       mouth     tap     four    -
MOSTRAR       stone        out       mouth     tap     cee     -
PRESTAR       why          out       neutral   tap     cee     -

MANDAR        four         tilt      shoulder  wave    -       -
DEVOLVER      cee          tilt      shoulder  wave    -       -
PEDIR         four         tilt      shoulder  out     -       -

CORRER        stone        forward   neutral   zigzag  flat    -
CAMINAR       stone        forward   neutral   zigzag  index   -
JUGAR         pinky        forward   neutral   zigzag  flat    -
DORMIR        stone        forward   cheek     zigzag  flat    -
BAILAR        stone        forward   neutral   zigzag  flat    sad

LLEGAR        blade        tilt      chest     cross   -       -
SALIR         curled       tilt      chest     cross   -       -
VIAJAR        blade        tilt      high      cross   -       -
VOLVER        blade        tilt      chest     cross   -       squint
"""

HARD_SIGNS: dict[str, Sign] = SIGNS | {sign.gloss: sign for sign in map(read_sign, filter(None, _TABLE.splitlines()))}
if len({sign.form for sign in HARD_SIGNS.values()}) != len(HARD_SIGNS):
    raise AssertionError("two glosses have the same articulation")


@cache
def hard_minimal_pairs() -> dict[str, list[tuple[str, str]]]:
    """Pairs among the 300 signs that exactly one stream tells apart; see `pairs_among`."""
    return pairs_among(HARD_SIGNS.values())


def articulated(glosses: Sequence[str]) -> list[Sign]:
    """What the hands do for each gloss: a sign, a letter of a name, or a classifier on its path.

    The letters of a name drift to the side. The second of two equal ones slides there.
    """
    signs: list[Sign] = []
    for number, gloss in enumerate(glosses):
        if gloss.startswith(CLASSIFIER):
            signs.append(classifier(gloss))
        elif gloss.startswith(LETTER):
            sign, before = LETTERS[gloss], signs[-1] if signs else None
            if before is not None and before.gloss.startswith(LETTER):
                sign = replace(sign, drift=before.drift + _DRIFT)
                if glosses[number - 1] == gloss:
                    sign = replace(sign, motion="slide")
            signs.append(sign)
        else:
            signs.append(HARD_SIGNS[gloss])
    return signs


def time_of(glosses: Sequence[str]) -> float:
    """How long a sentence takes, counted in usual signs."""
    return sum(sign.share for sign in articulated(glosses))
