"""`slt-train`, also `python tools/train_slt_multistream_v9.py`: v9's command line."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.cli.processes import add_process_flags, begin, exit_code
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
    begin(PROG, arguments, config.data.device)
    from slt_jax.training.translation import train

    def run_it() -> None:
        train(
            config,
            merged,
            resume=getattr(arguments, "resume", None),
            overwrite=hasattr(arguments, "overwrite"),
            trust_classes=arguments.trust_classes,
        )

    return exit_code(PROG, run_it)


if __name__ == "__main__":
    sys.exit(main())
