"""What all commands share: the device, the cache of compiled programs, and errors in one line."""

import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slt_jax.base.files import user_cache
from slt_jax.base.heap import keep_freed_memory
from slt_jax.base.interrupts import raised_again
from slt_jax.base.output import settle
from slt_jax.base.places import DISK, existing_folder, refusal
from slt_jax.base.quiet import silence_absent_tpu
from slt_jax.base.restart import start_again_where_needed
from slt_jax.base.utf8 import check_names
from slt_jax.errors import UserError, shortened


def run(prog: str, body: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    """Run `body(argv)` and return its exit code.

    A UserError, and what the system refuses (a full disk, a folder without permission), becomes one line on standard
    error and exit code 2.
    """
    if argv is None:
        start_again_where_needed()
    settle()
    # Information goes with the progress; standard error is for why a command failed.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    try:
        check_names(sys.argv[1:] if argv is None else argv)
        with raised_again():
            code = body(argv)
            sys.stdout.flush()
            return code
    except UserError as error:
        cause = error.__cause__
        told = refused(cause, argv) if isinstance(cause, OSError) and cause.errno in DISK else error
        print(f"{prog}: error: {told}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{prog}: error: {refused(error, argv)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    finally:
        if argv is None:
            gc.freeze()  # or Python looks at everything again before it ends: half a second with JAX


def refused(error: OSError, argv: Sequence[str] | None) -> str:
    """What the system refused, in one line, with the flag of the command line that leads to the place."""
    reason = error.strerror or shortened(str(error)) or type(error).__name__
    what = f"cannot be {'written' if error.errno in DISK else 'used'} ({reason})"
    if not error.filename:
        return what if error.errno in DISK else reason
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    flag, value = _flag_of(place, sys.argv[1:] if argv is None else argv)
    if not flag:
        return f"{place}: {what}"
    within = os.path.relpath(os.path.realpath(place), os.path.realpath(value))
    return f"{flag} {value}: {what}" if within == "." else f"{flag} {value}: {within} {what}"


def _flag_of(place: str, argv: Sequence[str]) -> tuple[str, str]:
    """The flag, and its value, that names a place or the nearest folder above it; empty where none does."""
    flag, found, path = "", ("", ""), Path(os.path.realpath(place))
    for word in argv:
        value = word
        if word.startswith("--"):
            flag, _, value = word.partition("=")
        if flag and value and path.is_relative_to(os.path.realpath(value)):
            found = max(found, (flag, value), key=lambda pair: len(os.path.realpath(pair[1])) if pair[1] else 0)
    return found


def choose_device(name: str) -> None:
    """Tell JAX which platform to use. Call it before JAX is used. Raises UserError if there is no such device."""
    kind, _, index = name.partition(":")
    platform = {"auto": None, "cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "tpu": "tpu"}.get(kind, "")
    if platform == "" or (index and (platform != "cuda" or not index.isdigit())):
        raise UserError(f"--device {name}: use auto, cpu, gpu, cuda, cuda:N or tpu")
    if index:
        os.environ["CUDA_VISIBLE_DEVICES"] = index
    import jax

    silence_absent_tpu()
    options: Any = jax.config  # its attributes are made at run time
    wanted = platform or options.jax_platforms
    if wanted:  # the CPU as well, after the others, because a run's first state is made there
        jax.config.update("jax_platforms", wanted if "cpu" in wanted else f"{wanted},cpu")
    try:
        # By name, because otherwise JAX would be content with the CPU.
        jax.devices(wanted.partition(",")[0] if wanted and "cpu" not in wanted else None)
    except RuntimeError:
        extra = {"cuda": "cuda", "tpu": "tpu"}.get(platform or "", "cuda")
        advice = f"install slt-jax[{extra}] or use --device cpu"
        raise UserError(f"--device {name}: JAX finds no such device; {advice}") from None
    if jax.default_backend() == "cpu":
        keep_freed_memory()


def keep_compiled_programs() -> None:
    """Keep compiled programs between runs in the user's cache, if it can be written.

    JAX's own variables choose another place.
    """
    import jax

    options: Any = jax.config
    folder = user_cache() / "xla"
    if options.jax_compilation_cache_dir is None and not refusal(existing_folder(folder)):
        jax.config.update("jax_compilation_cache_dir", str(folder))
