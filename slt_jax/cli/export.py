"""`slt-export`, also `python tools/export_onnx_encoder_v9.py`: v9's command line."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slt_jax.base.places import check_file
from slt_jax.cli import flags
from slt_jax.cli.command import choose_device, keep_compiled_programs, run
from slt_jax.errors import UserError

OPSETS = range(17, 24)
# Settings that do not change how a trained model evaluates, so that a checkpoint and a flag may differ.
TRAINING_ONLY = ("freeze_", "local_files_only", "projector_dropout", "fusion_dropout", "temporal_dropout",
                 "decoder_dropout")  # fmt: skip


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    top = flags.command_parser(
        "slt-export",
        "Write the encoder (and the decoder) of a checkpoint as ONNX. Every file is compared with the model in JAX and "
        "kept only if it computes the same.",
    )
    top.add_argument("--checkpoint", metavar="PATH", required=True, help="a .pt, a work-dir or a folder of states")
    top.add_argument("--onnx", metavar="FILE", type=Path, default=None, help="write the encoder here")
    top.add_argument(
        "--artifact-dir",
        metavar="DIR",
        type=Path,
        default=None,
        help="write encoder_VERSION.onnx and encoder_VERSION.json here, unless another path is given",
    )
    top.add_argument("--version", metavar="TEXT", default="v1", help="what these files are called (default: v1)")
    top.add_argument(
        "--metadata",
        metavar="FILE",
        type=Path,
        default=None,
        help="write the description of inputs and outputs here (default: beside the encoder, as .json)",
    )
    top.add_argument("--opset", metavar="INT", type=int, default=17, help="ONNX opset, 17 to 23 (default: 17)")
    top.add_argument(
        "--precision",
        choices=("fp32", "fp16"),
        default="fp32",
        help="fp16: matrix products and their weights in float16",
    )
    top.add_argument("--quantize", choices=("int8",), default=None, help="matrix products in 8 bits")
    top.add_argument(
        "--decoder",
        action="store_true",
        default=False,
        help="also write the decoder, for text without JAX (tools/translate_onnx.py)",
    )
    top.add_argument(
        "--stablehlo",
        metavar="FILE",
        nargs="?",
        const="",
        default=None,
        help="write the encoder as a jax.export artefact (default: in --artifact-dir)",
    )
    top.add_argument("--torchscript", metavar="FILE", nargs="?", const="FILE", default=None, help="says how to get it")
    top.add_argument(
        "--device",
        metavar="NAME",
        default="cpu",
        help="where the model computes what the files are compared with: auto, cpu (default), gpu or cuda[:N], tpu",
    )
    flags.add_trust_flag(top)
    flags.add_config_flags(top, ["model"])
    return flags.parse(top, argv)


def targets(arguments: argparse.Namespace) -> dict[str, Path | None]:
    """The files to write. Raises UserError that names the flag."""
    if arguments.torchscript is not None:
        raise UserError(
            f"--torchscript: needs torch; v9's own tools/export_onnx_encoder_v9.py writes it: in v9's folder, "
            f"python tools/export_onnx_encoder_v9.py --checkpoint {arguments.checkpoint} --torchscript "
            f"{arguments.torchscript} with v9's flags of the model (slt-convert to-torch makes a .pt)"
        )
    folder, name = arguments.artifact_dir, f"encoder_{arguments.version}"
    onnx, stablehlo, metadata = arguments.onnx, arguments.stablehlo, arguments.metadata
    if folder is not None:
        onnx = onnx or folder / f"{name}.onnx"
    if stablehlo == "":
        if folder is None:
            raise UserError("--stablehlo: name a file, or a folder with --artifact-dir")
        stablehlo = folder / f"{name}.stablehlo"
    if onnx is None and stablehlo is None:
        raise UserError("nothing to write: give --onnx FILE, --artifact-dir DIR or --stablehlo FILE")
    if onnx is None and (arguments.decoder or arguments.quantize or arguments.precision != "fp32"):
        raise UserError("--decoder, --quantize and --precision are about ONNX: give --onnx FILE too")
    if metadata is None and folder is not None:
        metadata = folder / f"{name}.json"
    if metadata is None and onnx is not None:
        metadata = onnx.with_suffix(".json")
    for flag, path, suffix in (("--onnx", onnx, ".onnx"), ("--metadata", metadata, ".json")):
        if path is not None and path.suffix != suffix:
            raise UserError(f"{flag} {path}: the name must end in {suffix}")
    for flag, path in (("--onnx", onnx), ("--metadata", metadata), ("--stablehlo", stablehlo)):
        check_file(flag if folder is None else "--artifact-dir", path)
    return {"onnx": onnx, "stablehlo": None if stablehlo is None else Path(stablehlo), "metadata": metadata}


def model_settings(given: Mapping[str, Any], saved: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """The settings that the checkpoint itself does not have. Raises UserError if it has other values."""
    described = {key: value for key, value in given.items() if not key.startswith(TRAINING_ONLY)}
    for key, value in described.items():
        if saved.get(key) is not None and saved[key] != value:
            flag = f"model.{key}" if ("model", key) in flags.WITHOUT_FLAG else f"--{key.replace('_', '-')}"
            raise UserError(f"{flag} is {value!r}, but {path} was trained with {saved[key]!r}; leave it out")
    return {key: value for key, value in described.items() if saved.get(key) is None} or None


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 a file does not compute what the model does, 2 a mistake in the input."""
    return run("slt-export", _export, argv)


def _export(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    files = targets(arguments)
    if arguments.opset not in OPSETS:
        raise UserError(f"--opset {arguments.opset}: choose {OPSETS[0]} to {OPSETS[-1]}")
    if arguments.quantize and arguments.precision != "fp32":
        raise UserError("--quantize int8 and --precision fp16 exclude each other; give one")
    config, merged = flags.configure(arguments)
    choose_device(arguments.device)
    keep_compiled_programs()
    from convert.checkpoint import blueprint
    from slt_jax.export.job import ExportRequest
    from slt_jax.export.job import run as run_job
    from slt_jax.export.verify import VerificationFailed
    from slt_jax.models.trust import trusting
    from slt_jax.training.start import notes_on
    from slt_jax.training.state_store import open_checkpoint

    given = {key: getattr(config.model, key) for key in merged.get("model", {})}
    trust = trusting(given, arguments.trust_classes)
    checkpoint = open_checkpoint(arguments.checkpoint, trust)
    for note in notes_on(checkpoint):
        print(f"slt-export: note: {note}", file=sys.stderr)
    plan = blueprint(checkpoint, model_settings(given, checkpoint.model_fields, checkpoint.path), trust=trust)
    request = ExportRequest(
        onnx=files["onnx"],
        stablehlo=files["stablehlo"],
        metadata=files["metadata"],
        decoder=arguments.decoder,
        opset=arguments.opset,
        precision=arguments.precision,
        quantize=arguments.quantize is not None,
        version=arguments.version,
    )
    try:
        run_job(checkpoint, plan, request)
    except VerificationFailed as error:
        print(f"slt-export: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
