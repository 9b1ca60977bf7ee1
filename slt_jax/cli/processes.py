"""The flags of commands that several processes run together."""

import argparse
import sys
from collections.abc import Callable

from slt_jax.cli.command import choose_device, keep_compiled_programs
from slt_jax.errors import UserError
from slt_jax.runtime.links import TIMEOUT_SECONDS, Meeting


def add_process_flags(top: argparse.ArgumentParser) -> None:
    group = top.add_argument_group("several processes", "run the same command in each; see docs/parallel.md")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="the host of process 0, and a free port on it")
    group.add_argument("--num-processes", type=int, metavar="N", help="the number of processes")
    group.add_argument("--process-id", type=int, metavar="I", help="the number of this process, from 0")
    group.add_argument(
        "--distributed", action="store_true", help="take all this from SLURM, GKE, Open MPI or the TPU slice"
    )
    group.add_argument(
        "--distributed-timeout",
        type=float,
        metavar="SECONDS",
        help=f"how long processes wait for each other at the start (default: {TIMEOUT_SECONDS:g})",
    )


def meeting(arguments: argparse.Namespace) -> Meeting | None:
    """What the flags ask for; None for a single process. Raises UserError if they contradict each other."""
    coordinator, count = getattr(arguments, "coordinator", None), getattr(arguments, "num_processes", None)
    index, timeout = getattr(arguments, "process_id", None), getattr(arguments, "distributed_timeout", None)
    detect = hasattr(arguments, "distributed")
    given = {"--coordinator": coordinator, "--num-processes": count, "--process-id": index}
    named = [flag for flag, value in given.items() if value is not None]
    if timeout is not None and timeout <= 0:
        raise UserError(f"--distributed-timeout {timeout:g}: must be above 0")
    if detect and named:
        raise UserError(f"--distributed finds out by itself what {named[0]} says; give one")
    if detect:
        return Meeting(timeout=timeout or TIMEOUT_SECONDS)
    if not named:
        if timeout is not None:
            raise UserError("--distributed-timeout is for several processes: give --coordinator or --distributed")
        return None
    if coordinator is None or count is None or index is None:
        missing = " and ".join(flag for flag in given if flag not in named)
        raise UserError(f"{named[0]} needs {missing}: each process gets all three")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator {coordinator}: expected HOST:PORT of process 0, for example node1:12321")
    if count < 1 or not 0 <= index < count:
        raise UserError(f"--process-id {index}: must be one of 0 to --num-processes - 1 (that is {count - 1})")
    return Meeting((host.strip("[]"), int(port)), count, index, timeout or TIMEOUT_SECONDS)


def begin(prog: str, arguments: argparse.Namespace, device: str) -> None:
    """Meet the other processes, if there are any, and make JAX ready on `device`."""
    where = meeting(arguments)
    if where:
        from slt_jax.runtime import hosts

        hosts.join(prog, where)
    choose_device(device)
    if where:
        hosts.introduce(prog, where)
    keep_compiled_programs()


def exit_code(prog: str, train: Callable[[], object]) -> int:
    """Train, and return 0; 1 if the run cannot go on, 128 + N if signal N ended it after saving."""
    from slt_jax.training.ledger import TrainingStopped
    from slt_jax.training.run import Interrupted

    try:
        train()
    except TrainingStopped as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(f"{prog}: {stop}: the state is saved; continue with --resume", file=sys.stderr)
        return 128 + stop.number
    return 0
