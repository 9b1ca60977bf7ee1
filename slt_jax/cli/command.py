"""What all commands share: the device, the cache of compiled programs, and errors in one line."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from slt_jax.base.files import user_cache
from slt_jax.base.heap import keep_freed_memory
from slt_jax.base.quiet import expect_no_tpu
from slt_jax.errors import UserError


def run(prog: str, body: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    """Run `body(argv)` and return its exit code. A UserError becomes one line on standard error and exit code 2."""
    # Information goes with the progress; standard error is for why a command failed.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    try:
        return body(argv)
    except UserError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130


def choose_device(name: str) -> None:
    """Tell JAX which platform to use. Call it before JAX is used. Raises UserError if there is no such device."""
    kind, _, index = name.partition(":")
    platform = {"auto": None, "cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "tpu": "tpu"}.get(kind, "")
    if platform == "" or (index and (platform != "cuda" or not index.isdigit())):
        raise UserError(f"--device {name}: use auto, cpu, gpu, cuda, cuda:N or tpu")
    if index:
        os.environ["CUDA_VISIBLE_DEVICES"] = index
    import jax

    if os.environ.get("TPU_SKIP_MDS_QUERY"):  # JAX looked for TPU chips and found none
        expect_no_tpu()
    options: Any = jax.config  # its attributes are made at run time
    wanted = platform or options.jax_platforms
    if wanted:  # the CPU as well, after the others, because a run's first state is made there
        jax.config.update("jax_platforms", wanted if "cpu" in wanted else f"{wanted},cpu")
    if platform == "cpu":
        keep_freed_memory()
    try:
        # By name, because otherwise JAX would be content with the CPU.
        jax.devices(wanted.partition(",")[0] if wanted and "cpu" not in wanted else None)
    except RuntimeError:
        extra = {"cuda": "cuda", "tpu": "tpu"}.get(platform or "", "cuda")
        advice = f"install slt-jax[{extra}] or use --device cpu"
        raise UserError(f"--device {name}: JAX finds no such device; {advice}") from None


def keep_compiled_programs() -> None:
    """Keep compiled programs between runs in the user's cache. JAX's own variables choose another place."""
    import jax

    options: Any = jax.config
    if options.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(user_cache() / "xla"))
