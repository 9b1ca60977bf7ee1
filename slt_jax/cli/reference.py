"""`python -m slt_jax.cli.reference` writes the tables of flags and keys in the English and the Spanish guide.

They are made from the configuration, the Spanish meanings from docs/es/opciones.yml. A test compares the tables with
the documents, so they cannot drift apart.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import yaml

from slt_jax.base.files import replacing
from slt_jax.cli.flags import FLAGS, WITHOUT_FLAG
from slt_jax.config import SECTIONS
from slt_jax.errors import UserError

START, END = "<!-- flags: made by python -m slt_jax.cli.reference -->", "<!-- end of flags -->"
ENGLISH, SPANISH = "flag | key | default | meaning", "parámetro | clave | valor por omisión | significado"
GUIDES = {"docs/training.md": None, "docs/es/training.md": "docs/es/opciones.yml"}  # guide: its meanings


def flags_table(meanings: Mapping[str, str] | None = None) -> str:
    """Markdown: one table per section with flag, key, default and meaning; in Spanish with `meanings` by key.

    Raises UserError for a key without a meaning, or a meaning without a key.
    """
    helps = {
        f"{section}.{field.name}": field.metadata["help"]
        for section, kind in SECTIONS.items()
        for field in dataclasses.fields(kind)
    }
    texts = helps if meanings is None else {key: text for key, text in meanings.items() if text}
    if lost := sorted(helps.keys() - texts.keys()):
        raise UserError(f"without a meaning: {', '.join(lost)}")
    if unknown := sorted(texts.keys() - helps.keys()):
        raise UserError(f"no keys of the configuration: {', '.join(unknown)}")
    header = ENGLISH if meanings is None else SPANISH
    lines = []
    for section, kind in SECTIONS.items():
        lines += [f"### `{section}`", "", f"| {header} |", "| --- | --- | --- | --- |"]
        for field in dataclasses.fields(kind):
            name = (section, field.name)
            flag = "" if name in WITHOUT_FLAG else f"`{FLAGS.get(name, '--' + field.name.replace('_', '-'))}`"
            default = {} if field.default is dataclasses.MISSING else field.default
            shown = "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"
            key = f"{section}.{field.name}"
            meaning = texts[key].replace("|", "/")
            lines.append(f"| {flag} | `{key}` | {shown} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def with_table(root: Path, guide: str) -> str:
    """The text of one of `GUIDES` under `root`, with the new tables between its two marks."""
    document = (root / guide).read_text(encoding="utf-8")
    source = GUIDES[guide]
    meanings = yaml.safe_load((root / source).read_text(encoding="utf-8")) if source else None
    before, _, rest = document.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{flags_table(meanings)}\n{END}{after}"


if __name__ == "__main__":
    for guide in GUIDES:
        text = with_table(Path(), guide)
        with replacing(Path(guide)) as file:
            file.write(text.encode())
