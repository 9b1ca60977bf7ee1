"""`slt-pretrain`, also `python tools/pretrain_dino_hands.py` and `pretrain_dino_face.py`: v9's command line."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slt_jax.cli import flags
from slt_jax.cli.command import choose_device, keep_compiled_programs, run
from slt_jax.cli.processes import add_process_flags, begin, exit_code
from slt_jax.errors import UserError
from slt_jax.runtime.links import ending_as_one

if TYPE_CHECKING:
    from slt_jax.pretraining.configuration import Place
    from slt_jax.pretraining.settings import PretrainConfig

PROG = "slt-pretrain"
TITLES = {
    "run": "run", "vit": "the ViT, where it starts from nothing", "loss": "losses", "optim": "optimiser",
    "dataset": "crops", "augmentation": "views", "checkpointing": "checkpoints", "experiment": "experiment",
}  # fmt: skip
MANY = {"train_dir": ("+", None), "global_crop_scale": (2, float), "local_crop_scale": (2, float),
        "mask_ratio_min_max": (2, float), "mean": (3, float), "std": (3, float)}  # fmt: skip


def parse(argv: Sequence[str] | None, *, sheet: bool = False) -> argparse.Namespace:
    """A flag for every key of the configuration, and those of the run itself; with `sheet`, where to draw views."""
    from slt_jax.pretraining.configuration import places

    top = flags.command_parser(
        PROG,
        "Pre-train a ViT on crops without labels, by DINO or iBOT. --set wins over flags, flags over --config. "
        "`slt-pretrain evaluate` judges a backbone by k-NN, `slt-pretrain views` draws what it is shown.",
    )
    top.add_argument("--config", metavar="FILE", help="YAML, JSON or TOML with these flags' names and values")
    top.add_argument("--set", metavar="KEY=VALUE", action="append", help="a key; VALUE is JSON or text; repeats")
    top.add_argument(
        "--resume", nargs="?", const="", metavar="PATH", help="continue a run: its output folder or a checkpoint in it"
    )
    top.add_argument("--overwrite", action="store_true", help="replace the run that the output folder holds")
    add_process_flags(top)
    groups = {section: top.add_argument_group(title) for section, title in TITLES.items()}
    for place in places():
        _add_flag(groups[place.section], place)
    if sheet:
        top.add_argument("--sheet", metavar="PNG", required=True, help="where to draw the views")
    return flags.parse(top, argv)


def _add_flag(group: Any, place: "Place") -> None:
    field, name = place.field, place.field.name
    default = field.default
    text = field.metadata["help"].replace("%", "%%")
    if default not in (None, False, True, "", ()) and "default" not in text:
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text += f" (default: {shown})"
    settings: dict[str, Any] = {"dest": f"key.{place.top}", "help": text}
    kinds = getattr(place.kind, "__args__", (place.kind,))
    if name == "shuffle":
        settings["action"] = "store_false"
    elif name == "tensorboard":
        settings |= {"nargs": "?", "const": "", "metavar": "TEXT"}
    elif bool in kinds:
        settings["action"] = argparse.BooleanOptionalAction if default is True else "store_true"
    elif name == "tags":
        settings |= {"action": "append", "metavar": "TEXT"}
    elif name in MANY:
        count, kind = MANY[name]
        settings |= {"nargs": count, "metavar": "DIR" if kind is None else "FLOAT"}
        settings |= {"type": kind} if kind else {"action": "extend"}
    else:
        number = next((kind for kind in (int, float) if kind in kinds), str)
        settings |= {"type": number, "metavar": "TEXT" if number is str else number.__name__.upper()}
    group.add_argument(place.flag, **settings)


def configure(arguments: argparse.Namespace, stream: str | None = None) -> tuple["PretrainConfig", dict[str, Any]]:
    """The configuration, and what was asked for. `stream` is a command's own default."""
    from slt_jax.pretraining.configuration import load

    given = {name.removeprefix("key."): v for name, v in vars(arguments).items() if name.startswith("key.")}
    asked = {"stream": stream} | given if stream else given
    if stream and getattr(arguments, "config", None) and "stream" not in given:
        asked.pop("stream")  # the file's wins over the command's own
    return load(getattr(arguments, "config", None), asked, getattr(arguments, "set", []))


def main(argv: Sequence[str] | None = None, stream: str | None = None) -> int:
    """Exit codes: 0 done, 1 the run failed, 2 a mistake in the input, 128 + N stopped by signal N after saving."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["evaluate"]:
        return run(f"{PROG} evaluate", _evaluate, words[1:])
    if words[:1] == ["views"]:
        return run(f"{PROG} views", lambda argv: _views(argv, stream), words[1:])
    return ending_as_one(lambda: run(PROG, lambda argv: _pretrain(argv, stream), words))


def _pretrain(argv: Sequence[str] | None, stream: str | None) -> int:
    arguments = parse(argv)
    config, merged = configure(arguments, stream)
    begin(PROG, arguments, config.run.device)
    from slt_jax.pretraining.start import pretrain

    resume, overwrite = getattr(arguments, "resume", None), hasattr(arguments, "overwrite")
    return exit_code(PROG, lambda: pretrain(config, merged, resume=resume, overwrite=overwrite))


def _views(argv: Sequence[str] | None, stream: str | None) -> int:
    arguments = parse(argv, sheet=True)
    config, _ = configure(arguments, stream)
    choose_device(config.run.device)
    keep_compiled_programs()
    from slt_jax.pretraining.start import draw_views

    draw_views(config, arguments.sheet)
    print(f"wrote {arguments.sheet}")
    return 0


def _evaluate(argv: Sequence[str] | None) -> int:
    top = flags.command_parser(f"{PROG} evaluate", "Judge a backbone by k-NN on labelled pictures, beside raw pixels.")
    top.add_argument("--backbone", metavar="SPEC", default=None, help="file::backbone.pt, torchhub::..., hf::...")
    top.add_argument("--knn-index", metavar="CSV", default=None, help="columns file, label, group and perhaps split")
    top.add_argument("--knn-images", metavar="DIR", default=None, help="their folder (default: where the CSV lies)")
    top.add_argument("--knn-k", type=int, metavar="N", default=5, help="neighbours that vote (default: 5)")
    top.add_argument("--image-size", type=int, metavar="N", default=224, help="side in pixels (default: 224)")
    top.add_argument("--batch-size", type=int, metavar="N", default=32, help="pictures at a time (default: 32)")
    top.add_argument("--sheet", metavar="PNG", default=None, help="also draw attention and neighbours here")
    top.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu, gpu or cuda[:N], tpu")
    arguments = flags.parse(top, argv)
    choose_device(arguments.device)
    keep_compiled_programs()
    from slt_jax.pretraining.judge import judge

    if arguments.knn_index is None:
        raise UserError("--knn-index is not given")
    lines = judge(
        arguments.backbone,
        arguments.knn_index,
        arguments.knn_images,
        k=arguments.knn_k,
        image_size=arguments.image_size,
        batch_size=arguments.batch_size,
        sheet=arguments.sheet,
    )
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
