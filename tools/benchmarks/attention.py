"""Attention of a ViT block, forward and backward: ours, JAX's own, and the kernels of GPUs and TPUs, with padding."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tools.benchmarks.problem import positive
from tools.benchmarks.timing import alternate, as_text, ratios, summary, timed

TOLERANCE = {"float32": 1e-4, "amp": 3e-2}


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument("--images", type=positive, default=8, metavar="N", help="B x T (default: 8)")
    top.add_argument("--tokens", type=positive, default=257, metavar="N", help="CLS and patches (default: 257)")
    top.add_argument("--heads", type=positive, default=6, metavar="N", help="(default: 6)")
    top.add_argument("--head-dim", type=positive, default=64, metavar="N", help="(default: 64)")
    top.add_argument(
        "--pad",
        type=positive,
        nargs="*",
        default=[264, 272, 288, 320, 384],
        metavar="TOKENS",
        help="also with so many tokens, those beyond --tokens hidden (default: 264 272 288 320 384)",
    )
    top.add_argument("--precision", choices=tuple(TOLERANCE), default="amp", help="(default: amp)")
    top.add_argument("--device", default="auto", metavar="TEXT", help="auto, cpu, gpu or cuda[:N], tpu")
    top.add_argument("--rounds", type=positive, default=7, metavar="N", help="turns of each (default: 7)")
    top.add_argument("--calls", type=positive, default=3, metavar="N", help="calls timed in a turn (default: 3)")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import jax

    from slt_jax.cli.command import choose_device
    from slt_jax.runtime.precision import compute_dtype, use_precision

    choose_device(arguments.device)
    use_precision(arguments.precision)
    shape = (arguments.images, arguments.tokens, arguments.heads, arguments.head_dim)
    rng = np.random.default_rng(0)
    dtype = compute_dtype(arguments.precision)
    inputs = [jax.numpy.asarray(rng.standard_normal(shape, np.float32), dtype) for _ in range(4)]

    gradients, refused, expected = {}, {}, None
    for name, attend in implementations(jax.default_backend()).items():
        for length in (arguments.tokens, *arguments.pad):
            label = f"{name} {length}"
            call = jax.jit(partial(gradient, attend, max(length, arguments.tokens)))
            try:
                computed = [np.asarray(array, np.float32) for array in jax.block_until_ready(call(*inputs))]
            except Exception as error:  # each kernel has its own way to say which shapes it does not take
                refused[label] = " ".join(f"{type(error).__name__}: {error}".split())[:160]
                continue
            expected = expected or computed
            off = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(computed, expected, strict=True))
            if off > TOLERANCE[arguments.precision]:
                refused[label] = f"wrong by {off:.1e} of the largest value"
            else:
                gradients[label] = call

    def turn(call: Callable) -> Any:
        return timed(lambda: [jax.block_until_ready(call(*inputs)) for _ in range(arguments.calls)]) / arguments.calls

    taken = alternate({label: partial(turn, call) for label, call in gradients.items()}, arguments.rounds)
    results = {label: summary(seconds) for label, seconds in taken.items()}
    ours = results[f"ours {arguments.tokens}"]
    device = jax.devices()[0].device_kind
    print(f"{device}: {shape[0]} images of {shape[1]} tokens, {shape[2]} heads of {shape[3]}, {arguments.precision}")
    for label, times in results.items():
        print(f"  {label:12s} {as_text(times)}; of ours: {1 / ratios(ours, times)['median']:.2f} times as fast")
    for label, reason in refused.items():
        print(f"  {label:12s} does not run: {reason}")
    return {"device": device, "shape": shape, "results": results, "refused": refused}


def implementations(backend: str) -> dict[str, Callable]:
    """What this device has. Each takes query, key and value (N, T, H, D) and how many tokens are real."""
    import jax
    import jax.numpy as jnp

    from slt_jax.models.attention import attention, mask_bias

    def ours(query, key, value, real):
        keep = jnp.arange(query.shape[1]) < real
        bias = None if real == query.shape[1] else mask_bias(keep[None, None, None])
        return attention(query, key, value, bias=bias, scale=query.shape[-1] ** -0.5)

    def of_jax(implementation, query, key, value, real):
        lengths = None if real == query.shape[1] else jnp.full(len(query), real, jnp.int32)
        return jax.nn.dot_product_attention(
            query, key, value, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation=implementation
        )

    def pallas(query, key, value, real):
        from jax.experimental.pallas.ops.tpu.flash_attention import SegmentIds, flash_attention

        segments = jnp.broadcast_to((jnp.arange(query.shape[1]) >= real).astype(jnp.int32), query.shape[:2])
        heads_first = (jnp.swapaxes(array, 1, 2) for array in (query, key, value))
        mixed = flash_attention(
            *heads_first, segment_ids=SegmentIds(segments, segments), sm_scale=query.shape[-1] ** -0.5
        )
        return jnp.swapaxes(mixed, 1, 2)

    implementations: dict[str, Callable] = {"ours": ours, "xla": partial(of_jax, "xla")}
    if backend == "gpu":
        implementations["cudnn"] = partial(of_jax, "cudnn")
    if backend == "tpu":
        implementations["pallas"] = pallas
    return implementations


def gradient(attend: Callable, length: int, query, key, value, weights) -> tuple:
    """What reaches query, key and value of the sum of `weights` times what is attended to."""
    import jax
    import jax.numpy as jnp

    real = query.shape[1]

    def total(*arrays):
        padded = (jnp.pad(array, [(0, 0), (0, length - real), (0, 0), (0, 0)]) for array in arrays)
        return jnp.sum((attend(*padded, real)[:, :real] * weights).astype(jnp.float32))

    return jax.grad(total, argnums=(0, 1, 2))(query, key, value)
