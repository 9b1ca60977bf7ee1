"""The check of every ONNX file before it is kept: onnxruntime's numbers against the JAX forward pass's.

Cases of several lengths and batch sizes with random inputs and masks. JAX computes all cases in one batch, padded to
the longest, so that it compiles once; onnxruntime gets each in its own shape.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax import Array

from slt_jax.base.console import say
from slt_jax.decoding.inference import Translator
from slt_jax.errors import UserError
from slt_jax.export.encoder import encoder_inputs
from slt_jax.models.decoders import shift_right
from slt_jax.streams import BY_NAME, STREAMS

LIMITS = {"fp32": 1e-4, "fp16": 5e-2, "int8": np.inf}
LENGTHS, BATCHES = (1, 3, 5), (1, 2)
TOKENS = 5  # that the decoder is checked with


class VerificationFailed(Exception):
    """An exported file that does not compute what the model computes."""


@dataclass(frozen=True)
class OutputDifference:
    """The largest difference of a case at its real frames, against values beyond 1 as a part of the largest."""

    batch: int
    frames: int
    largest: dict[str, float]

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {value:.1e}" for name, value in self.largest.items())
        return f"B {self.batch}, T {self.frames}: largest difference {shown}"


@dataclass(frozen=True)
class VerificationCase:
    """`rows` of the padded batch, cut to `frames`."""

    rows: slice
    frames: int

    def cut(self, array: np.ndarray | Array) -> np.ndarray:
        """The part of an array of outputs that shows real frames."""
        return np.asarray(array)[self.rows, : self.frames]


def open_session(path: Path):
    """An onnxruntime session on the CPU. Raises UserError if onnxruntime is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError('checking ONNX needs the package onnxruntime: pip install "slt-jax[export]"') from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_session(session, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{output: array}; inputs that the session does not have are left out."""
    wanted = {value.name: inputs[value.name] for value in session.get_inputs()}
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, wanted), strict=True))


def make_cases(longest: int, lengths=LENGTHS, batches=BATCHES) -> tuple[list[VerificationCase], np.ndarray]:
    """The cases, of at most `longest` frames, and `pad_mask` (rows, T): in the last of two rows frames are missing.

    Where T is 1 that row has no real frame at all.
    """
    rng = np.random.default_rng(0)
    lengths = sorted({min(length, longest) for length in lengths})
    cases: list[VerificationCase] = []
    real: list[int] = []
    for batch in batches:
        for frames in lengths:
            cases.append(VerificationCase(slice(len(real), len(real) + batch), frames))
            real += [frames] * (batch - 1) + [frames if batch == 1 else int(rng.integers(frames))]
    return cases, np.arange(lengths[-1]) < np.array(real)[:, None]


def random_batch(translator: Translator, pad_mask: np.ndarray) -> dict[str, np.ndarray]:
    """Normal numbers and random masks, named and shaped as the encoder's inputs."""
    rng = np.random.default_rng(1)
    batch = {"pad_mask": pad_mask}
    for name, (dtype, shape) in encoder_inputs(translator.blueprint).items():
        if name not in batch:
            values = rng.standard_normal((*pad_mask.shape, *shape[2:]), np.float32)
            batch[name] = values > 0.7 if dtype is np.bool_ else values
    return batch


def encoder_differences(
    run: Callable[[dict], Mapping], translator: Translator, lengths=LENGTHS, batches=BATCHES, *, whole: bool = True
) -> Iterator[OutputDifference]:
    """`run` maps the encoder's inputs to its outputs; to the encoded frames alone if not `whole`."""
    cases, pad_mask = make_cases(translator.config.sequence_length, lengths, batches)
    batch = random_batch(translator, pad_mask)
    stages = translator.stages(batch)
    expected = {"encoded": stages.encoded}
    expected |= {stream.head: stages.projected[stream.name] for stream in STREAMS if whole}
    left, right = (batch[mask] for mask in BY_NAME["hand_l"].hiding_masks)
    missing = left | right
    for case in cases:
        outputs = run({name: case.cut(array) for name, array in batch.items()})
        flags = {"hand_mask": missing, "padding_mask": ~pad_mask} if whole else {}
        real, largest = case.cut(pad_mask), {}
        for name, values in (expected | flags).items():
            where = np.ones_like(real) if name in flags else real
            largest[name] = _largest(outputs[name], case.cut(values), where)
        told = {"encoded": largest.pop("encoded")} | ({"other outputs": max(largest.values())} if largest else {})
        yield OutputDifference(real.shape[0], case.frames, told)


def decoder_differences(first: Path, step: Path, translator: Translator) -> Iterator[OutputDifference]:
    """Logits of random tokens, one at a time, against those of all at once."""
    rng = np.random.default_rng(2)
    cases, pad_mask = make_cases(translator.config.sequence_length)
    settings = translator.blueprint.decoder
    assert settings is not None
    encoded = rng.standard_normal((*pad_mask.shape, settings["d_model"]), np.float32)
    labels = rng.integers(0, settings["vocab_size"], (len(pad_mask), TOKENS))
    ids, expected = map(np.asarray, _logits(translator.structure, translator.params, encoded, pad_mask, labels))
    sessions = open_session(first), open_session(step)
    for case in cases:
        inputs = {"encoded": case.cut(encoded), "pad_mask": case.cut(pad_mask)}
        seen, largest = np.any(inputs["pad_mask"], axis=1), 0.0
        for position in range(TOKENS):
            inputs["input_ids"] = ids[case.rows, position : position + 1].astype(np.int64)
            outputs = run_session(sessions[position > 0], inputs)
            largest = max(largest, _largest(outputs["logits"], expected[case.rows, position], seen))
            inputs |= {name.replace("present.", "past."): array for name, array in outputs.items()}
        yield OutputDifference(len(seen), case.frames, {"logits": largest})


@partial(jax.jit, static_argnums=0)
def _logits(structure, params, encoded, pad_mask, labels):
    with jax.default_matmul_precision("highest"):
        decoder = structure.merge(params).decoder.model
        ids = shift_right(decoder, labels)
        return ids, decoder(encoded, pad_mask, ids)


def _largest(actual: np.ndarray, expected: np.ndarray, where: np.ndarray) -> float:
    """The largest difference where `where`; infinite if any number anywhere is not finite."""
    if not np.isfinite(actual).all():
        return np.inf
    actual, expected = np.asarray(actual)[where], np.asarray(expected)[where].astype(np.float32)
    size = max(1.0, np.abs(expected).max(initial=0.0))
    return float(np.abs(actual - expected).max(initial=0.0) / size)


def accept(differences: Iterator[OutputDifference], what: str, precision: str) -> float:
    """Print every difference; the largest of all. Raises VerificationFailed if one is beyond the limit."""
    largest: list[float] = []
    for difference in differences:
        say(f"{what}: {difference}")
        largest += difference.largest.values()
    worst, limit = max(largest), LIMITS[precision]
    if not worst <= limit or not np.isfinite(worst):
        raise VerificationFailed(
            f"the {what} differs from the model by {worst:.1e}, more than the {limit:g} allowed in {precision}; "
            f"nothing is kept"
        )
    return worst
