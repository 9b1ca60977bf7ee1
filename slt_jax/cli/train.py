"""`slt-train`, also `python tools/train_slt_multistream_v9.py`: v9's command line."""

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from slt_jax.config import SECTIONS, Config, load_config, nearest
from slt_jax.errors import UserError

# Keys whose flag differs from the key, or that have none (they are set in the file or by --set).
FLAGS = {
    ("data", "pin_memory"): "--no-pin-memory",
    ("data", "mix_streams"): "--mix-stream",
    ("optim", "grad_clip_norm"): "--clip-grad-norm",
}
WITHOUT_FLAG = {("model", "backbone"), ("model", "vocab_size"), ("model", "pad_token_id"), ("model", "eos_token_id")}


class Parser(argparse.ArgumentParser):
    """Its complaints are one line, without the page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parser() -> argparse.ArgumentParser:
    """Every configuration key as a flag, plus what steers the run itself."""
    top = Parser(
        prog="slt-train", argument_default=argparse.SUPPRESS, allow_abbrev=False,
        description="Train the multi-stream sign-language translator. --set wins over flags, flags over --config.",
    )
    top.add_argument("--config", metavar="FILE", help="YAML or JSON with the sections data, model, optim, training")
    top.add_argument("--set", metavar="KEY=VALUE", action="append", help="a dotted key; VALUE is JSON or text; repeats")
    top.add_argument("--resume", nargs="?", const="", metavar="PATH",
                     help="continue a run: a work-dir or a .pt (default: the work-dir's newest state)")
    top.add_argument("--overwrite", action="store_true", help="replace the run that the work-dir holds")
    for section, kind in SECTIONS.items():
        group = top.add_argument_group(section)
        for field in dataclasses.fields(kind):
            if (section, field.name) not in WITHOUT_FLAG:
                _add_flag(group, section, field)
    return top


def _add_flag(group, section: str, field: dataclasses.Field) -> None:
    dest = f"{section}.{field.name}"
    flag = FLAGS.get((section, field.name), "--" + field.name.replace("_", "-"))
    default = field.default if field.default_factory is dataclasses.MISSING else None
    text = field.metadata["help"].replace("%", "%%")
    if default not in (None, False, True, "") and "default" not in text:
        text += f" (default: {default})"
    kinds = getattr(field.type, "__args__", (field.type,))
    if flag == "--no-pin-memory":
        group.add_argument(flag, dest=dest, action="store_false", help=text)
    elif dest == "data.mix_streams":
        group.add_argument(flag, dest=dest, action="append", metavar="STREAM[:P]",
                           help="permute face, hand-left, hand-right or pose across the batch with probability P")
    elif dest == "training.compile":
        group.add_argument(flag, dest=dest, action=argparse.BooleanOptionalAction, help=text)
    elif field.name.startswith("freeze_"):
        group.add_argument(flag, dest=dest, nargs="?", const=True, type=_json_or_text, metavar="WHAT",
                           help=f"{text}: all of it, or a number of first blocks, a name, or a JSON list or mapping")
    elif bool in kinds and type(None) not in kinds:
        group.add_argument(flag, dest=dest, action="store_true", help=text)
    elif bool in kinds:
        group.add_argument(flag, dest=dest, action=argparse.BooleanOptionalAction, help=text)
    elif dest == "model.decoder_kwargs":
        group.add_argument(flag, dest=dest, metavar="JSON", type=_json_object, help=text)
    else:
        number = next((kind for kind in (int, float) if kind in kinds), str)
        metavar = "TEXT" if number is str else number.__name__.upper()
        group.add_argument(flag, dest=dest, type=number, metavar=metavar, help=text)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


def configure(arguments: argparse.Namespace) -> tuple[Config, dict[str, Any]]:
    """The configuration, and what the user asked for without the defaults."""
    given = dict(vars(arguments))
    file, settings = given.pop("config", None), given.pop("set", [])
    flags: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        section, dot, key = name.partition(".")
        if dot:
            flags.setdefault(section, {})[key] = value
    if streams := flags.get("data", {}).get("mix_streams"):
        from slt_jax.data.augment import parse_mix_stream

        flags["data"]["mix_streams"] = dict(parse_mix_stream(text) for text in streams)
    if "resume" in given and flags.get("training", {}).get("init_checkpoint"):
        raise UserError("--resume and --init-checkpoint exclude each other; give one")
    return load_config(file, flags, settings)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of `parser`. Raises UserError, with the nearest flag for an unknown one."""
    top = parser()
    arguments, unknown = top.parse_known_args(argv)
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise UserError(f"unknown argument {flag}{nearest(flag, top._option_string_actions, listed=False)}")
    return arguments


def choose_device(name: str) -> None:
    """Tell JAX which platform to use; must come before its first use. Raises UserError where there is none such."""
    kind, _, index = name.partition(":")
    platform = {"auto": None, "cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "tpu": "tpu"}.get(kind, "")
    if platform == "" or (index and (platform != "cuda" or not index.isdigit())):
        raise UserError(f"--device {name}: use auto, cpu, gpu, cuda, cuda:N or tpu")
    if index:
        os.environ["CUDA_VISIBLE_DEVICES"] = index
    import jax

    if platform:
        jax.config.update("jax_platforms", platform)
    try:
        jax.devices()
    except RuntimeError:
        extra = {"cuda": "cuda", "tpu": "tpu"}.get(platform or "", "cuda")
        advice = f"install slt-jax[{extra}] or use --device cpu"
        raise UserError(f"--device {name}: JAX finds no such device; {advice}") from None


def keep_compiled_programs() -> None:
    """Compiled programs are kept between runs in the user's cache; JAX's own variables choose another place."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "slt_jax", "xla"))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the run failed, 2 a mistake in the input, 128 + N stopped by signal N after saving."""
    # What there is to know goes with the progress; standard error is for the reason of a bad end.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    try:
        arguments = parse(argv)
        config, merged = configure(arguments)
        choose_device(config.data.device)
        keep_compiled_programs()
        from slt_jax.training.ledger import TrainingStopped
        from slt_jax.training.loop import Interrupted, train

        try:
            train(config, merged, resume=getattr(arguments, "resume", None), overwrite=hasattr(arguments, "overwrite"))
        except TrainingStopped as error:
            print(f"slt-train: {error}", file=sys.stderr)
            return 1
        except Interrupted as stop:
            print(f"slt-train: {stop}: the state is saved; continue with --resume", file=sys.stderr)
            return 128 + stop.number
    except UserError as error:
        print(f"slt-train: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
