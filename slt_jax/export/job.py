"""One export: build, check, and only then keep."""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from convert.checkpoint import Blueprint, Checkpoint, load_params
from convert.state_dict import to_state
from slt_jax.base.console import say
from slt_jax.base.files import replacing, write_json
from slt_jax.base.places import naming
from slt_jax.decoding.inference import Translator
from slt_jax.errors import UserError
from slt_jax.export import metadata, verify
from slt_jax.export.decoder import decoder_graphs
from slt_jax.export.encoder import encoder_graph, encoder_halves
from slt_jax.export.graph import Graph, import_onnx
from slt_jax.export.quantize import quantize_file
from slt_jax.export.stablehlo import encoder_artefact
from slt_jax.export.store import save_graphs
from slt_jax.streams import streams_of


@dataclass(frozen=True)
class ExportRequest:
    """What to export: the paths of the files to write, and how."""

    onnx: Path | None
    stablehlo: Path | None
    metadata: Path | None
    decoder: bool
    opset: int
    precision: str  # fp32 or fp16
    quantize: bool  # int8
    version: str
    halves: bool = False  # the encoder as its two halves, frames.onnx and context.onnx beside `onnx`
    place: Path | None = None  # the folder that messages name, where that of `onnx` is unfinished


HALVES = ("frames", "context")


def part_path(onnx: Path, part: str) -> Path:
    """`decoder_first.onnx` beside `encoder.onnx`."""
    name = onnx.name
    return onnx.with_name(name.replace("encoder", part) if "encoder" in name else f"{part}_{name}")


def run(checkpoint: Checkpoint, plan: Blueprint, request: ExportRequest) -> None:
    """Write what is requested. Raises UserError, or VerificationFailed if a file and the model differ."""
    if plan.config.streams:
        have = ", ".join(stream.key for stream in streams_of(plan.config))
        raise UserError(f"{checkpoint.path}: has only the streams {have}; models of all four streams are exported")
    started = time.monotonic()
    _, entries = plan.structure()
    params = load_params(checkpoint, entries)
    state = to_state(params, entries)
    translator = Translator(plan, jax.tree.map(jnp.asarray, params))
    encoder = [array for key, array in state.items() if key.startswith("encoder.")]
    say(f"{checkpoint.path}: an encoder of {sum(array.size for array in encoder) / 1e6:.1f}M parameters")

    decoder = None
    if request.decoder:
        if plan.decoder is None:
            raise UserError(f"--decoder: {checkpoint.path} holds an encoder without a decoder; leave the flag out")
        decoder = translator.structure.merge(translator.params).decoder.model.config
    record = metadata.describe(checkpoint, plan, decoder) if request.metadata else {}
    artefact = _checked_artefact(translator) if request.stablehlo else None
    differences = {}
    if request.onnx:
        differences = _export_onnx(request.onnx, translator, state, request)
    if request.stablehlo and artefact is not None:
        with replacing(request.stablehlo) as file:
            file.write(artefact)
        say(f"{request.stablehlo}: written, {len(artefact) / 1e6:.1f} MB")
    if request.metadata:
        write_json(request.metadata, record | _how(request, request.metadata.parent, differences))
        say(f"{request.metadata}: written")
    say(f"done in {time.monotonic() - started:.1f} s")


def _checked_artefact(translator: Translator) -> bytes:
    artefact = encoder_artefact(translator)
    call = jax.jit(export.deserialize(bytearray(artefact)).call)

    def compute(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return jax.device_get(call(dict(batch)))

    # Each shape is compiled again; one is enough to tell that the program is the model.
    verify.accept(verify.encoder_differences(compute, translator, lengths=(3,), batches=(2,)), "artefact", "fp32")
    return artefact


def _export_onnx(
    onnx: Path, translator: Translator, state: Mapping[str, np.ndarray], request: ExportRequest
) -> dict[str, float]:
    """Write the ONNX files; {what: largest difference}."""
    target, place = onnx.parent, request.place or onnx.parent
    with naming(place / onnx.name):
        target.mkdir(parents=True, exist_ok=True)
    differences = {}
    with tempfile.TemporaryDirectory(prefix=f".{onnx.stem}.", dir=target) as temporary, naming(place / onnx.name):
        kept = folder = Path(temporary)
        names = _write_graphs(onnx, translator.blueprint, state, request, folder)
        precision = request.precision
        if request.quantize:
            # What is quantised is known to be right.
            for what, differing in _differences(translator, names, folder):
                verify.accept(differing, what, precision)
            kept, precision = folder / "int8", "int8"
            kept.mkdir()
            for name in names.values():
                quantize_file(folder / name, kept / name)
        for what, differing in _differences(translator, names, kept):
            differences[what] = verify.accept(differing, f"{what} in int8" if request.quantize else what, precision)
        for file in sorted(kept.iterdir(), key=lambda file: file.suffix == ".onnx"):  # weights before their graph
            if file.is_file():
                size = file.stat().st_size
                os.replace(file, target / file.name)
                say(f"{place / file.name}: written, {size / 1e6:.1f} MB")
    return differences


def _write_graphs(
    onnx: Path, plan: Blueprint, state: Mapping[str, np.ndarray], request: ExportRequest, folder: Path
) -> dict[str, str]:
    """Write and check the graphs as files; {what: file name}."""
    started = time.monotonic()
    options: dict[str, Any] = {"opset": request.opset, "half": request.precision == "fp16"}
    names, graphs = {"encoder": onnx.name}, {}
    if request.halves:
        names = {half: part_path(onnx, half).name for half in HALVES}
        graphs = dict(zip(names.values(), encoder_halves(plan, state, **options), strict=True))
    else:
        graphs[onnx.name] = encoder_graph(plan, state, **options)
    save_graphs(graphs, folder)
    if request.decoder and plan.decoder is not None:
        names |= {part: part_path(onnx, part).name for part in ("decoder_first", "decoder_step")}
        pair = decoder_graphs(plan.decoder, state, **options)
        decoders = dict(zip([names["decoder_first"], names["decoder_step"]], pair, strict=True))
        save_graphs(decoders, folder, shared=f"{part_path(onnx, 'decoder').name}.data")
        graphs |= decoders
    for name, graph in graphs.items():
        import_onnx().checker.check_model(str(folder / name))
        say(f"{name}: {len(graph.nodes)} nodes, {_megabytes(graph):.1f} MB of weights, opset {graph.opset}")
    say(f"built and checked in {time.monotonic() - started:.1f} s; comparing onnxruntime with JAX")
    return names


def _megabytes(graph: Graph) -> float:
    return sum(tensor.nbytes for tensor in graph.tensors.values()) / 1e6


def _differences(
    translator: Translator, names: Mapping[str, str], folder: Path
) -> Iterator[tuple[str, Iterator[verify.OutputDifference]]]:
    sessions = [verify.open_session(folder / name) for what, name in names.items() if not what.startswith("decoder")]

    def encode(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs: dict[str, np.ndarray] = {}
        for session in sessions:  # of two halves, the second goes on from the first
            outputs = verify.run_session(session, {**batch, **outputs})
        return outputs

    yield "encoder", verify.encoder_differences(encode, translator, whole=len(sessions) == 1)
    if "decoder_first" in names:
        first, step = folder / names["decoder_first"], folder / names["decoder_step"]
        yield "decoder", verify.decoder_differences(first, step, translator)


def _how(request: ExportRequest, folder: Path, differences: Mapping[str, float]) -> dict[str, Any]:
    """The part of the metadata about this export; paths as seen from `folder`, where the metadata file is."""
    files = {"onnx": request.onnx, "torchscript": None, "stablehlo": request.stablehlo}
    if request.decoder and request.onnx:
        files |= {part: part_path(request.onnx, part) for part in ("decoder_first", "decoder_step")}
    return {
        "artifact_version": request.version,
        "backends": {name: path and os.path.relpath(path, folder) for name, path in files.items()},
        "opset": request.opset if request.onnx else None,
        "precision": "int8" if request.quantize else request.precision,
        "largest_difference": {what: float(f"{value:.2e}") for what, value in differences.items()},
    }
