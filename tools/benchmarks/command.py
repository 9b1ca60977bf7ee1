"""The command line of `tools/benchmark.py`: one module of this folder a subcommand."""

import importlib
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from slt_jax.base.files import write_json
from slt_jax.base.places import check_file
from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.errors import UserError, nearest
from tools.benchmarks.problem import positive

COMMANDS = (
    "data",
    "packs",
    "step",
    "features",
    "generate",
    "memory",
    "growth",
    "compile",
    "attention",
    "kernels",
    "learning",
    "options",
    "curve",
    "pretraining",
    "live_camera",
    "live_service",
    "live",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 a mistake in the input."""
    return run("benchmark", _benchmark, argv)


def _benchmark(argv: Sequence[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print("usage: benchmark COMMAND [--help]\n")
        for command in COMMANDS:
            print(f"  {command:12s} {_purpose(_module(command))}")
        return 0
    if name not in COMMANDS:
        raise UserError(f"unknown command {name}{nearest(name, COMMANDS)}")
    module = _module(name)
    top = flags.command_parser(f"benchmark {name}", _purpose(module))
    top.add_argument("--json", metavar="FILE", default=None, help="also write the results there")
    top.add_argument(
        "--threads",
        type=positive,
        default=None,
        metavar="N",
        help="use the first N of the cores (default: all that this process may use)",
    )
    module.add_flags(top)
    arguments = flags.parse(top, argv[1:])
    check_file("--json", arguments.json)
    machine = description()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: arguments.threads])  # also of the processes that it starts
    try:
        results = module.measure(arguments)
    finally:
        os.sched_setaffinity(0, cores)
    if arguments.json:
        command = shlex.join(["python", "tools/benchmark.py", *argv])
        write_json(arguments.json, {"benchmark": name, "command": command, "machine": machine} | results)
    return 0


def _module(command: str):
    return importlib.import_module(f"tools.benchmarks.{command}")


def _purpose(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n")[0]


def description() -> dict[str, Any]:
    """The machine, when, and how busy it was before."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
