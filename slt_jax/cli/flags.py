"""The configuration on the command line: v9's flags, made from the configuration's fields."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from slt_jax.base.json_text import parse_json
from slt_jax.config import SECTIONS, Config, load_config
from slt_jax.data.corpus_folder import FOLDERS, PLACES
from slt_jax.errors import UserError, nearest, shortened, shown
from slt_jax.later_v9 import later_v9
from slt_jax.streams import MIXABLE, STREAMS, parse_mix_stream

# Keys whose flag differs from the key, or that have none (they are set in the file or by --set).
FLAGS = {("data", "mix_streams"): "--mix-stream", ("optim", "grad_clip_norm"): "--clip-grad-norm"}
EARLIER = {("data", "target_lang"): ("--target-language",)}  # flags that a key had before
# What `--root` stands for in training.
ROOT_KEYS = (*FOLDERS, "metadata_csv", "train_index", "val_index")
WITHOUT_FLAG = {("model", key) for key in ("backbone", "lora", "vocab_size", "pad_token_id", "eos_token_id")}


class Parser(argparse.ArgumentParser):
    """Its complaints are one line, without the page of usage. It takes `--flag=~/a` as a shell takes `--flag ~/a`."""

    def error(self, message: str) -> NoReturn:
        raise UserError(shortened(message, 400))

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's."""
        return super().parse_known_args([_with_home(a) for a in (sys.argv[1:] if args is None else args)], namespace)


def _with_home(argument: str) -> str:
    flag, sign, path = argument.partition("=")
    home = sign and path.startswith("~") and flag.startswith("--")
    return f"{flag}={os.path.expanduser(path)}" if home else argument


def command_parser(prog: str, description: str) -> Parser:
    """A parser that leaves out what is not given, so that flags can be told from defaults."""
    return Parser(prog=prog, description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False)


def add_config_flags(top: argparse.ArgumentParser, sections: Sequence[str] = tuple(SECTIONS)) -> None:
    """`--config`, `--set` and a flag for every key of `sections`."""
    names = ", ".join(SECTIONS)
    top.add_argument("--config", metavar="FILE", help=f"YAML or JSON with the sections {names}")
    top.add_argument("--set", metavar="KEY=VALUE", action="append", help="a dotted key; VALUE is JSON or text; repeats")
    for section in sections:
        group = top.add_argument_group(section)
        for field in dataclasses.fields(SECTIONS[section]):
            if (section, field.name) not in WITHOUT_FLAG:
                _add_flag(group, section, field)


def add_trust_flag(top: argparse.ArgumentParser) -> None:
    """`--trust-classes`, for the commands that read checkpoints."""
    top.add_argument(
        "--trust-classes",
        action="store_true",
        default=False,
        help="import the classes that a checkpoint names (module:Class), which runs their code",
    )


def add_root_flag(top: argparse.ArgumentParser, keys: Iterable[str]) -> None:
    """`--root`, which stands for the flags of `keys`; see `places_of` and `config_flags`."""
    parts = ", ".join(PLACES[key] for key in keys)
    top.add_argument("--root", metavar="DIR", help=f"a corpus of the usual layout (docs/data.md): {parts}")


def add_corpus_flags(top: argparse.ArgumentParser, keys: Iterable[str]) -> None:
    """`--root`, and a flag for each of `keys` in its place."""
    add_root_flag(top, keys)
    for key in keys:
        top.add_argument(flag_of(key), metavar="PATH", help=f"(default: {PLACES[key]} of --root)")


def add_streams_flag(top: argparse.ArgumentParser, what: str) -> None:
    """`--streams`, for the commands that read a corpus; `what` they do with these alone."""
    known = ", ".join(stream.key for stream in STREAMS)
    top.add_argument("--streams", nargs="+", metavar="STREAM", help=f"{what}, of {known} (default: all)")


def flag_of(key: str) -> str:
    return "--" + key.replace("_", "-")


def places_of(given: Mapping[str, Any], keys: Iterable[str], *, needed: bool = True) -> dict[str, str]:
    """The path of each of `keys`: as given by its own flag, else where `--root` has it.

    Raises UserError if `--root` is no directory, and for a key with neither where they are `needed`.
    """
    root = given.get("root")
    if root is not None and not os.path.isdir(root):
        raise UserError(f"--root {root}: no such directory")
    paths = {}
    for key in keys:
        if key in given:
            paths[key] = str(given[key])
        elif root is not None:
            paths[key] = str(Path(root) / PLACES[key])
        elif needed:
            raise UserError(f"{flag_of(key)} is not given, nor --root")
    return paths


def _add_flag(group, section: str, field: dataclasses.Field) -> None:
    dest = f"{section}.{field.name}"
    flag = FLAGS.get((section, field.name), flag_of(field.name))
    default = field.default if field.default_factory is dataclasses.MISSING else None
    text = field.metadata["help"].replace("%", "%%")
    if default not in (None, False, True, "") and "default" not in text:
        text += f" (default: {default})"
    kinds = getattr(field.type, "__args__", (field.type,))
    if dest == "data.mix_streams":
        group.add_argument(
            flag,
            dest=dest,
            action="append",
            metavar="STREAM[:P]",
            help=f"permute {MIXABLE} across the batch with probability P",
        )
    elif dest == "data.tensorboard":
        group.add_argument(flag, dest=dest, nargs="?", const="", metavar="TEXT", help=text)
    elif dest in ("training.compile", "data.pin_memory"):
        group.add_argument(flag, dest=dest, action=argparse.BooleanOptionalAction, help=text)
    elif field.name.startswith("freeze_"):
        group.add_argument(
            flag,
            dest=dest,
            nargs="?",
            const=True,
            type=_json_or_text,
            metavar="WHAT",
            help=f"{text}: all of it, or a number of first blocks, a name, or a JSON list or mapping",
        )
    elif bool in kinds and type(None) not in kinds:
        group.add_argument(flag, dest=dest, action="store_true", help=text)
    elif bool in kinds:
        group.add_argument(flag, dest=dest, action=argparse.BooleanOptionalAction, help=text)
    elif dest == "data.buckets":
        group.add_argument(flag, dest=dest, nargs="+", type=int, metavar="INT", help=text)
    elif dest == "model.streams":
        group.add_argument(flag, dest=dest, nargs="+", metavar="STREAM", help=text)
    elif dest in ("model.decoder_kwargs", "data.augmentation", "training.objectives"):
        group.add_argument(flag, dest=dest, metavar="JSON", type=_json_object, help=text)
    else:
        number = next((kind for kind in (int, float) if kind in kinds), str)
        metavar = "TEXT" if number is str else number.__name__.upper()
        earlier = EARLIER.get((section, field.name), ())
        group.add_argument(flag, *earlier, dest=dest, type=number, metavar=metavar, help=text)


def _json_or_text(text: str) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError:
        return text
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _json_object(text: str) -> dict[str, Any]:
    value = _json_or_text(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a JSON object")
    return value


def config_flags(arguments: argparse.Namespace, under_root: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """The configuration flags that were given: {section: {key: value}}.

    `--root` counts as the flags of those keys `under_root` that were not given. Raises UserError for a wrong one.
    """
    flags: dict[str, dict[str, Any]] = {}
    for name, value in vars(arguments).items():
        section, dot, key = name.partition(".")
        if dot:
            flags.setdefault(section, {})[key] = value
    if hasattr(arguments, "root"):
        data = flags.setdefault("data", {})
        data |= places_of(data | {"root": arguments.root}, under_root)
    if streams := flags.get("data", {}).get("mix_streams"):
        flags["data"]["mix_streams"] = dict(parse_mix_stream(text) for text in streams)
    return flags


def configure(arguments: argparse.Namespace) -> tuple[Config, dict[str, Any]]:
    """The configuration, and what the user asked for without the defaults."""
    settings = getattr(arguments, "set", [])
    return load_config(getattr(arguments, "config", None), config_flags(arguments, ROOT_KEYS), settings)


def parse(top: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of `top` in `argv`. Raises UserError, with the nearest flag for an unknown one."""
    arguments, unknown = top.parse_known_args(argv)
    if unknown:
        flag = unknown[0].partition("=")[0]
        for name in (text.partition("=")[0] for text in unknown if text.startswith("--")):
            if later := later_v9(name):
                raise UserError(f"{shortened(name)} {later}")
        raise UserError(f"unknown argument {shortened(flag)}{nearest(flag, top._option_string_actions, listed=False)}")
    return arguments
