"""`slt-train`, also `python tools/train_slt_multistream_v9.py`: v9's command line."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from slt_jax.cli import flags
from slt_jax.cli.command import choose_device, keep_compiled_programs, run
from slt_jax.cli.processes import add_process_flags, meeting
from slt_jax.config import Config
from slt_jax.errors import UserError
from slt_jax.runtime.links import ending_as_one

PROG = "slt-train"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read every configuration key as a flag, and the flags of the run itself."""
    top = flags.command_parser(
        PROG, "Train the multi-stream sign-language translator. --set wins over flags, flags over --config."
    )
    top.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="continue a run: a work-dir or a .pt (default: the work-dir's newest state)",
    )
    top.add_argument("--overwrite", action="store_true", help="replace the run that the work-dir holds")
    flags.add_trust_flag(top)
    flags.add_root_flag(top, flags.ROOT_KEYS)
    add_process_flags(top)
    flags.add_config_flags(top)
    return flags.parse(top, argv)


def configure(arguments: argparse.Namespace) -> tuple[Config, dict[str, Any]]:
    """The configuration, and what the user asked for without the defaults."""
    config, merged = flags.configure(arguments)
    if hasattr(arguments, "resume") and hasattr(arguments, "training.init_checkpoint"):
        raise UserError("--resume and --init-checkpoint exclude each other; give one")
    return config, merged


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the run failed, 2 a mistake in the input, 128 + N stopped by signal N after saving."""
    return ending_as_one(lambda: run(PROG, _train, argv))


def _train(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    config, merged = configure(arguments)
    where = meeting(arguments)
    if where:
        from slt_jax.runtime import hosts

        hosts.join(PROG, where)
    choose_device(config.data.device)
    if where:
        hosts.introduce(PROG, where)
    keep_compiled_programs()
    from slt_jax.training.ledger import TrainingStopped
    from slt_jax.training.run import Interrupted
    from slt_jax.training.translation import train

    try:
        train(
            config,
            merged,
            resume=getattr(arguments, "resume", None),
            overwrite=hasattr(arguments, "overwrite"),
            trust_classes=arguments.trust_classes,
        )
    except TrainingStopped as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(f"{PROG}: {stop}: the state is saved; continue with --resume", file=sys.stderr)
        return 128 + stop.number
    return 0


if __name__ == "__main__":
    sys.exit(main())
