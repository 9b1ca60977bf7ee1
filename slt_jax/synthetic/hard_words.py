"""The words that the hard level has beside those of the full one: 210 glosses with their Spanish.

A table's row has the gloss, and what cannot be told from it. The Spanish of a gloss is the gloss in lower case unless
its table says another. Their forms are in hard_lexicon.py.
"""

from __future__ import annotations

PRONOUNS = {"ÉL": (2, "m"), "ELLA": (2, "f"), "ELLOS": (4, "m")}  # index into a conjugation, gender
OWNERS = ("SU", "NUESTRO")
NUMBERS = ("CINCO", "SEIS", "DIEZ", "POCO")
JOINING = ("Y", "PERO", "PORQUE")
COMPARING = {"MÁS": ("más", "que"), "MENOS": ("menos", "que"), "IGUAL": ("tan", "como")}
MANNERS = ("BIEN", "MAL")
ASKING = ("POR-QUÉ", "CÓMO", "CUÁNTO")
LINKING = ("NOMBRE", "DE", "ESTAR", "TAMBIÉN", "POR-FAVOR")

# gloss: Spanish, tense
TIMES = {
    "ANOCHE": ("anoche", "past"),
    "ANTEAYER": ("anteayer", "past"),
    "SEMANA-PASADA": ("la semana pasada", "past"),
    "A-VECES": ("a veces", "present"),
    "NUNCA": ("nunca", "present"),
    "ESTA-NOCHE": ("esta noche", "future"),
    "PRONTO": ("pronto", "future"),
    "DESPUÉS": ("después", "future"),
    "LUNES": ("el lunes", "future"),
    "VIERNES": ("el viernes", "future"),
    "DOMINGO": ("el domingo", "future"),
}

# kind: nouns, masculine and feminine
_NOUNS = {
    "person": (
        "HIJO TÍO PRIMO VECINO NOVIO ALUMNO SOBRINO NIETO COCINERO ENFERMERO ABOGADO JEFE HOMBRE BEBÉ BOMBERO PINTOR "
        "VENDEDOR",
        "HIJA TÍA PRIMA VECINA NOVIA ALUMNA SOBRINA NIETA COCINERA ENFERMERA ABOGADA JEFA MUJER PINTORA VENDEDORA",
    ),
    "animal": ("CHANCHO PATO PÁJARO PEZ CONEJO RATÓN LEÓN ELEFANTE", "VACA OVEJA GALLINA TORTUGA ARAÑA"),
    "food": ("QUESO ARROZ POLLO PESCADO CHOCOLATE", "SOPA PIZZA ENSALADA"),
    "fruit": ("HUEVO", "BANANA NARANJA EMPANADA PAPA"),
    "drink": ("TÉ VINO JUGO", "CERVEZA"),
    "text": ("CUENTO POEMA MENSAJE", "REVISTA"),
    "thing": (
        "VASO PLATO RELOJ PARAGUAS ZAPATO VESTIDO LÁPIZ REGALO ÁRBOL PAPEL",
        "MESA SILLA PUERTA VENTANA COMPUTADORA BICICLETA CAMISA CAJA VALIJA FOTO HOJA",
    ),
    "vehicle": ("COLECTIVO TREN AVIÓN BARCO CAMIÓN", "MOTO"),
    "place": (
        "PARQUE RÍO MERCADO BANCO CINE RESTAURANTE CAMPO PUENTE JARDÍN",
        "CALLE MONTAÑA FARMACIA ESTACIÓN CIUDAD BIBLIOTECA COCINA",
    ),
}
NOUNS = {
    noun: (gender, kind)
    for kind, both in _NOUNS.items()
    for gender, nouns in zip("mf", both, strict=True)
    for noun in nouns.split()
}

ADJECTIVES = {
    "ser": "ALTO BAJO FLACO CARO BARATO AZUL VERDE AMARILLO LARGO CORTO FUERTE INTELIGENTE SIMPÁTICO PELIGROSO FAMOSO",
    "estar": "LIMPIO SUCIO ROTO ENOJADO ASUSTADO PREOCUPADO OCUPADO",
}
PEOPLES = ("ALTO", "BAJO", "FLACO", "FUERTE", "INTELIGENTE", "SIMPÁTICO", "FAMOSO", "GRANDE", "LINDO", "VIEJO")
STATES_OF_THINGS = ("LIMPIO", "SUCIO", "ROTO")

_THINGS = ("text", "thing", "fruit", "vehicle")
# gloss: kinds of object. The infinitive is the gloss.
TRANSITIVE = {
    "ESCRIBIR": ("text",),
    "ABRIR": ("box",),
    "CERRAR": ("box",),
    "ROMPER": ("thing",),
    "USAR": ("thing", "vehicle"),
    "PINTAR": ("thing", "animal"),
    "DIBUJAR": ("thing", "animal", "person", "vehicle"),
    "LAVAR": ("thing", "vehicle", "fruit"),
    "CORTAR": ("food", "fruit"),
    "GUARDAR": _THINGS,
    "OLVIDAR": ("text", "thing"),
    "ENCONTRAR": (*_THINGS, "animal", "person"),
    "ROBAR": _THINGS,
    "LLEVAR": (*_THINGS, "food", "drink"),
    "TRAER": (*_THINGS, "food", "drink"),
    "ESPERAR": ("person", "vehicle"),
    "CONOCER": ("person", "place"),
    "ABRAZAR": ("person", "animal"),
    "BESAR": ("person",),
    "VISITAR": ("person",),
    "SALUDAR": ("person",),
    "CUIDAR": ("person", "animal"),
    "NECESITAR": (*_THINGS, "drink"),
    "PREFERIR": ("food", "fruit", "drink"),
    "PROBAR": ("food", "drink", "fruit"),
    "PREPARAR": ("food", "drink"),
    "ARREGLAR": ("thing", "vehicle"),
}
BOXES = ("PUERTA", "VENTANA", "CAJA", "VALIJA", "REGALO", "PARAGUAS", "LIBRO", "CARTA")  # what opens and closes

_GIVEN = ("thing", "fruit", "text")
DITRANSITIVE = {
    "DAR": _GIVEN,
    "REGALAR": ("thing", "animal", "text"),
    "MOSTRAR": (*_GIVEN, "animal"),
    "PRESTAR": ("thing", "text", "vehicle"),
    "MANDAR": _GIVEN,
    "DEVOLVER": ("thing", "text"),
    "PEDIR": (*_GIVEN, "drink"),
}
# gloss: preposition before the place
INTRANSITIVE = {
    "CORRER": "por",
    "CAMINAR": "por",
    "JUGAR": "en",
    "DORMIR": "en",
    "BAILAR": "en",
    "LLEGAR": "a",
    "SALIR": "de",
    "VIAJAR": "a",
    "VOLVER": "de",
}
