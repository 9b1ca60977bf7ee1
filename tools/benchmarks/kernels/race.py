"""Checks and times each kernel alone, then the training step with those that won; stops in time."""

import argparse
import math
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from slt_jax.errors import UserError
from tools.benchmarks.problem import add_config_flags, positive, problem
from tools.benchmarks.timing import alternate, summary, timed

if TYPE_CHECKING:
    from tools.benchmarks.kernels.choice import Choice
    from tools.benchmarks.kernels.operations import Operation

WON = 0.98  # of today's time, or less
TOLERANCE = 1e-2  # of the largest value, in bfloat16; or twice what today's way is off
Kinds = dict[str, list[tuple[float, dict[Any, float]]]]  # of each operation of a kind, seconds today and in tiles


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument("--images", type=positive, default=1536, metavar="N", help="of all streams (default: 1536)")
    top.add_argument("--tokens", type=positive, default=257, metavar="N", help="of an image (default: 257)")
    top.add_argument("--heads", type=positive, default=6, metavar="N", help="(default: 6)")
    top.add_argument("--head-dim", type=positive, default=64, metavar="N", help="(default: 64)")
    top.add_argument("--hidden", type=positive, default=1536, metavar="N", help="width within an MLP (default: 1536)")
    top.add_argument("--rounds", type=positive, default=5, metavar="N", help="turns of each (default: 5)")
    top.add_argument("--calls", type=positive, default=10, metavar="N", help="calls of each in a turn (default: 10)")
    top.add_argument("--steps", type=positive, default=3, metavar="N", help="training steps in a turn (default: 3)")
    top.add_argument(
        "--minutes", type=positive, default=5, metavar="N", help="what has not begun by then is left out (default: 5)"
    )
    top.add_argument("--kernels-only", action="store_true", default=False, help="leave the training step out")
    top.add_argument(
        "--interpret",
        action="store_true",
        default=False,
        help="without a GPU, by Pallas's interpreter: for small sizes, not for speed",
    )
    add_config_flags(top)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import jax

    from slt_jax.cli.command import choose_device
    from slt_jax.runtime.precision import use_precision

    config = problem(arguments)
    choose_device("cpu" if arguments.interpret else config.data.device)
    device = jax.devices()[0]
    if not arguments.interpret and float(getattr(device, "compute_capability", None) or 0) < 9:
        raise UserError("kernels: needs a Hopper GPU, such as an H100 or H200; --interpret checks them without one")
    use_precision("amp")
    end = time.monotonic() + 60 * arguments.minutes
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
        print(f"{device.device_kind}; jax {jax.__version__}", flush=True)
        results, kinds = _alone(arguments, end)
        best = winners(kinds, math.inf)
        won = best if arguments.interpret else winners(kinds, WON)  # an interpreter's times say nothing
        step = {}
        if not arguments.kernels_only:
            from tools.benchmarks.kernels.whole_step import race

            step = race(config, won, best, arguments, end)
    return {"device": device.device_kind, "jax": jax.__version__, "operations": results, "step": step}


def _alone(arguments: argparse.Namespace, end: float) -> tuple[dict[str, Any], Kinds]:
    """The results of each operation, and what those of each kind took."""
    from tools.benchmarks.kernels.operations import operations

    sizes = arguments.images, arguments.tokens, arguments.heads, arguments.head_dim
    results: dict[str, Any] = {}
    kinds: Kinds = {}
    for operation in operations(sizes, arguments.hidden, arguments.interpret):
        if time.monotonic() > end:
            print(f"{operation.name}: no time left", flush=True)
            continue
        results[operation.name], taken = _one(operation, arguments)
        today = taken.pop(None)
        kinds.setdefault(operation.field, []).append((today, taken))
        _report(operation.name, results[operation.name], today)
    return results, kinds


def winners(kinds: Kinds, most: float) -> dict[str, Any]:
    """Of operations of each kind, their times today and in tiles: a choice's fields for the fastest tiles.

    Only for those that take at most `most` of today's time.
    """
    best: dict[str, tuple[float, float, Any]] = {}
    for kind, found in kinds.items():
        everywhere = set.intersection(*(set(taken) for _, taken in found))
        sums = {tiles: sum(taken[tiles] for _, taken in found) for tiles in everywhere}
        if sums:
            fastest = min(sums, key=lambda tiles: sums[tiles])
            best[kind] = sum(today for today, _ in found), sums[fastest], fastest
    passes = best.pop("attention forward", None), best.pop("attention backward", None)
    chosen = {kind: tiles for kind, (today, now, tiles) in best.items() if now <= most * today}
    if passes[0] and passes[1] and passes[0][1] + passes[1][1] <= most * (passes[0][0] + passes[1][0]):
        chosen["attention"] = passes[0][2], passes[1][2]
    return chosen


def _one(operation: "Operation", arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[Any, float]]:
    """The results of an operation, and the median seconds of today's way (None) and of each kernel that agrees."""
    import jax

    calls, off, refused = _agreeing(operation, arguments.interpret)

    def work(call: Callable) -> None:
        for _ in range(arguments.calls):
            last = call()
        jax.block_until_ready(last)

    turns = {_label(tiles): partial(timed, partial(work, call)) for tiles, call in calls.items()}
    taken = alternate(turns, arguments.rounds + 1)  # the first turn is not counted
    seconds = {tiles: summary([one / arguments.calls for one in taken[_label(tiles)][1:]]) for tiles in calls}
    table = {_label(tiles): {"seconds": times, "off": off[tiles]} for tiles, times in seconds.items()}
    return {"variants": table, "refused": refused}, {tiles: times["median"] for tiles, times in seconds.items()}


def _agreeing(operation: "Operation", interpret: bool) -> tuple[dict[Any, Callable], dict[Any, float], dict[str, str]]:
    """What computes the same as float32, by how much it is off, and why the others are refused."""
    import jax

    from tools.benchmarks.kernels.choice import Choice
    from tools.benchmarks.kernels.operations import difference, exactly, in_float32

    plain = Choice(interpret=interpret)
    expected = exactly(partial(jax.jit(operation.run(plain)), *(operation.exact or in_float32(operation.inputs))))
    calls: dict[Any, Callable] = {}
    off: dict[Any, float] = {}
    refused: dict[str, str] = {}
    for tiles, call in _compiled(operation, plain).items():
        found = call if isinstance(call, str) else _tried(lambda call=call: difference(call(), expected))
        if tiles is not None and not isinstance(found, str) and not found <= max(TOLERANCE, 2 * off[None]):
            found = f"wrong by {found:.1e} of the largest value"
        if tiles is None and isinstance(found, str):
            raise UserError(f"{operation.name}: today's way does not run here: {found}")
        if isinstance(found, str):
            refused[_label(tiles)] = found
        else:
            calls[tiles], off[tiles] = call, found
    return calls, off, refused


def _compiled(operation: "Operation", plain: "Choice") -> dict[Any, Any]:
    """Today's way (None) and the kernel in all its tiles, or why it does not run in some."""
    import jax

    options: Any = None if plain.interpret else {"xla_gpu_enable_triton_gemm": False}  # as training compiles

    def compiled(tiles: Any) -> Callable:
        choice = plain if tiles is None else replace(plain, **operation.choose(tiles))
        inputs = operation.inputs if tiles is not None or operation.today is None else operation.today
        program = jax.jit(operation.run(choice)).lower(*inputs).compile(compiler_options=options)
        return partial(program, *inputs)

    today = _tried(compiled, None)  # alone: XLA times ways to compute products while it compiles
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(partial(_tried, compiled), operation.tiles)
        return {None: today} | dict(zip(operation.tiles, found, strict=True))


def _tried(run: Callable, *given: Any) -> Any:
    """What `run` gives, or why it fails: for too little shared memory, among other reasons."""
    try:
        return run(*given)
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _label(tiles: Any) -> str:
    if isinstance(tiles, tuple):
        return f"queries {tiles[0]}; keys {tiles[1]}"
    return "today" if tiles is None else str(tiles)


def _report(name: str, result: dict[str, Any], today: float) -> None:
    print(f"{name}: today {1e3 * today:.3f} ms", flush=True)
    for label, one in sorted(result["variants"].items(), key=lambda item: item[1]["seconds"]["median"]):
        median = one["seconds"]["median"]
        print(f"  {1e3 * median:8.3f} ms  {today / median:5.2f} x  off {one['off']:.1e}  {label}", flush=True)
    for label, reason in result["refused"].items():
        print(f"  {label}: {reason}", flush=True)
