"""YAML as people write it: what it would read otherwise than they mean is an error that names the line."""

import itertools
import re
from pathlib import Path
from typing import Any

import yaml

from slt_jax.base.json_text import DEEPEST, MOST_DIGITS
from slt_jax.errors import UserError, shortened, shown

LARGEST = 1 << 16  # bytes of a file
EXPANDED = 1 << 20  # characters with all aliases written out
TAG = "tag:yaml.org,2002:"


def read_yaml(path: str | Path, flag: str) -> Any:
    """The value in a YAML (or JSON) file: mappings, lists, text, numbers, true, false and null.

    Raises UserError that names `flag`, the file and, where one is at fault, the line: for what is not YAML, a key that
    is there twice, numbers such as 0224 and 1:30 that YAML does not read in decimal, dates, and all that is endless.
    """
    where = f"{flag} {shortened(str(path), 200)}"
    try:
        with open(Path(path).expanduser(), "rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UserError(f"{where}: is larger than {LARGEST >> 10} kB; a configuration is not")
        return _Loader(content.decode()).whole()
    except _Refused as error:
        raise UserError(f"{where}: {error}") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = shortened(error.problem or error.context or "", 120)
        raise UserError(f"{where}: {line}is not YAML or JSON ({problem})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: is not YAML or JSON ({shortened(str(error), 120)})") from None


class _Refused(Exception):
    """Why a document is not taken, without the file's name."""


class _Loader(yaml.SafeLoader):
    """PyYAML's nodes, measured before anything is made of them."""

    def __init__(self, text: str):
        super().__init__(text)
        self.open = 0  # nodes that are being read
        self.sizes: dict[int, tuple[int, int]] = {}  # of read nodes, by id: characters and depth

    def whole(self) -> Any:
        node = self.get_single_node()
        return None if node is None else self.value(node)

    # --- reading ------------------------------------------------------------------------------------------------------

    def compose_node(self, parent, index):
        line = self.peek_event().start_mark.line + 1
        self.open += 1
        if self.open > DEEPEST:
            raise _Refused(f"line {line}: is nested more than {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self.open -= 1
        if id(node) not in self.sizes:
            if node.end_mark is None:
                raise _Refused(f"line {line}: an alias (*) stands inside of what it names")
            self.sizes[id(node)] = self.measured(node)
        size, depth = self.sizes[id(node)]
        if size > EXPANDED or depth > DEEPEST:
            raise _Refused(f"line {line}: its aliases (*) make it too large; write out what is meant")
        return node

    def measured(self, node: yaml.Node) -> tuple[int, int]:
        """Characters and depth of a node whose parts are measured."""
        if isinstance(node, yaml.ScalarNode):
            return len(node.value) + 1, 1
        parts = itertools.chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
        sizes = [self.sizes[id(part)] for part in parts]
        return 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                first, line = lines.setdefault((key.tag, key.value), 0), _line(key)
                if first:
                    both = f"line {line}" if first == line else f"lines {first} and {line}"
                    raise _Refused(f"{shown(key.value)} is there twice, in {both}; keep one")
                lines[key.tag, key.value] = line
        return node

    # --- what the nodes mean ------------------------------------------------------------------------------------------

    def value(self, node: yaml.Node) -> Any:
        kind = node.tag.removeprefix(TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            self.flatten_mapping(node)
            return {self.key(key): self.value(value) for key, value in node.value}
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(part) for part in node.value]
        if isinstance(node, yaml.ScalarNode) and kind in ("str", "int", "float", "bool", "null"):
            return self.scalar(node, kind)
        if kind == "timestamp":
            raise _Refused(f"line {_line(node)}: YAML reads {shortened(node.value)} as a date; put it in quotes")
        raise _Refused(f"line {_line(node)}: {shown(node.tag)} has no place here; put texts in quotes")

    def key(self, node: yaml.Node) -> Any:
        key = self.value(node)
        if type(key) not in (str, int):
            raise _Refused(f"line {_line(node)}: YAML reads a key as {shown(key)}; put it in quotes")
        return key

    def scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        text, line = node.value, _line(node)
        if len(text) > {"int": MOST_DIGITS, "float": 10 * MOST_DIGITS}.get(kind, LARGEST):
            raise _Refused(f"line {line}: {shortened(text, 40)} is a number of {len(text)} characters")
        try:
            value = getattr(self, f"construct_yaml_{kind}")(node)
        except (ValueError, LookupError, OverflowError):
            raise _Refused(f"line {line}: {shown(text)} is not of the kind {shown(node.tag)}") from None
        octal = kind == "int" and re.fullmatch(r"[-+]?0[0-9_]+", text) and int(text.replace("_", "")) != value
        if octal or (kind in ("int", "float") and ":" in text):
            raise _Refused(
                f"line {line}: YAML reads {text} as {value}; write the number you mean without "
                f"{'the zero in front' if octal else 'colons'}, or put it in quotes if it is a text"
            )
        return value


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
