"""The table of flags and keys in docs/training.md, made from the configuration: `python -m slt_jax.cli.reference`.

A test compares it with the document, so neither can drift from the other.
"""

import dataclasses
import sys
from pathlib import Path

from slt_jax.cli.flags import FLAGS, WITHOUT_FLAG
from slt_jax.config import SECTIONS
from slt_jax.files import replacing

START, END = "<!-- flags: made by python -m slt_jax.cli.reference -->", "<!-- end of flags -->"


def flags_table() -> str:
    """Markdown: one table a section, with flag, key, default and meaning."""
    lines = []
    for section, kind in SECTIONS.items():
        lines += [f"### `{section}`", "", "| flag | key | default | meaning |", "| --- | --- | --- | --- |"]
        for field in dataclasses.fields(kind):
            name = (section, field.name)
            flag = "" if name in WITHOUT_FLAG else f"`{FLAGS.get(name, '--' + field.name.replace('_', '-'))}`"
            default = {} if field.default is dataclasses.MISSING else field.default
            shown = "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"
            meaning = field.metadata["help"].replace("|", "/")
            lines.append(f"| {flag} | `{section}.{field.name}` | {shown} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def with_table(document: str) -> str:
    """`document` with the table between its two marks."""
    before, _, rest = document.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{flags_table()}\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/training.md")
    text = with_table(path.read_text(encoding="utf-8"))
    with replacing(path) as file:
        file.write(text.encode())
