"""`slt-convert`, also `python -m convert`: look at weights, move them between formats, check them."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slt_jax.base.console import byte_bar
from slt_jax.base.quiet import silence_absent_tpu
from slt_jax.cli import flags
from slt_jax.cli.command import keep_compiled_programs, run
from slt_jax.errors import UserError, shortened


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="slt-convert", allow_abbrev=False, description="Move weights between PyTorch v9, slt_jax and safetensors."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    inspect = commands.add_parser("inspect", help="say what a file or folder is and list its tensors")
    inspect.add_argument("source", metavar="FILE", type=Path)
    inspect.add_argument("--summary", action="store_true", help="leave out the table of tensors")

    for name, target, text in (
        ("to-torch", "DST.pt", "write v9's .pt from a .pt, a work-dir, a folder of training states or safetensors"),
        ("to-jax", "DST", "write a folder of training states, which --resume and slt_jax.load read, from a .pt"),
        ("to-safetensors", "DST", "write the weights under torch's names"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("source", metavar="SRC", type=Path)
        command.add_argument("target", metavar=target, type=Path)
        command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="type of the weights written")
        command.add_argument("--overwrite", action="store_true", help="replace what is there")
        command.add_argument(
            "--dry-run",
            action="store_true",
            help="write nothing; print the +/- diff against the model (exit code 1 if they differ)",
        )
        model = command.add_mutually_exclusive_group()
        model.add_argument(
            "--model",
            metavar="JSON",
            help="the model as an object of configuration keys, for a file without its configuration and for --dry-run",
        )
        model.add_argument("--config", metavar="FILE", help="the same from the section model of a YAML or JSON file")
        if name != "to-jax":
            command.add_argument("--prefix", default="", help="put this before every key, such as module.")
        if name == "to-torch":
            command.add_argument(
                "--layout",
                choices=("v9", "later-v9"),
                default="v9",
                help="how the optimiser's state numbers parameters: v9 all of them, later-v9 what is not frozen, "
                "the encoder's and the decoder's in a group each (default: v9)",
            )
        if name != "to-safetensors":
            state = command.add_mutually_exclusive_group()
            state.add_argument(
                "--include-optimizer",
                dest="weights_only",
                action="store_false",
                help="optimiser and scaler state too, if there is one (default)",
            )
            state.add_argument("--weights-only", action="store_true", help="leave out optimiser and scaler state")
            command.set_defaults(weights_only=False)

    _add_verify(commands)
    _add_peft(commands)
    for command in commands.choices.values():
        flags.add_trust_flag(command)
    return top


def _add_verify(commands: Any) -> None:
    verify = commands.add_parser("verify", help="compare two sets of weights, or this library with v9's own numbers")
    verify.add_argument("sources", metavar="FILE", nargs="*", type=Path, help="two files or folders of any kind")
    verify.add_argument("--case", metavar="DIR", type=Path, help="a folder with a checkpoint and what v9 computed")
    verify.add_argument("--tolerance", type=float, help="largest difference allowed (weights: 0, --case: 1e-5)")
    verify.add_argument("--rows", type=int, default=20, help="differing tensors to list (default: 20)")


def _add_peft(commands: Any) -> None:
    text = "write the decoder's adapters (model.lora) as a folder of HuggingFace's PEFT"
    to_peft = commands.add_parser("to-peft", help=text, description=text)
    text = "write a whole model with a PEFT folder's adapters on its decoder: merged, and apart for --resume"
    from_peft = commands.add_parser("from-peft", help=text, description=text)
    from_peft.add_argument(
        "adapter", metavar="FOLDER", type=Path, help="adapter_config.json, adapter_model.safetensors"
    )
    for command, target in ((to_peft, "DST"), (from_peft, "DST.pt")):
        command.add_argument(
            "source", metavar="SRC", type=Path, help="a .pt, a work-dir or a folder of training states"
        )
        command.add_argument("target", metavar=target, type=Path)
        command.add_argument("--overwrite", action="store_true", help="replace what is there")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 something differs, 2 a mistake in the input, 130 stopped by Ctrl-C."""
    return run("slt-convert", _convert, argv)


def _convert(argv: Sequence[str] | None) -> int:
    arguments = parser().parse_args(argv)
    silence_absent_tpu()
    if arguments.command == "inspect":
        return inspect_command(arguments)
    if arguments.command == "verify":
        return verify_command(arguments)
    if arguments.command in ("to-peft", "from-peft"):
        return peft_command(arguments)
    return convert_command(arguments)


def inspect_command(arguments: argparse.Namespace) -> int:
    from convert.inspect import report
    from slt_jax.training.interchange import open_weights

    for line in report(open_weights(arguments.source, arguments.trust_classes), with_keys=not arguments.summary):
        print(line)
    return 0


def convert_command(arguments: argparse.Namespace) -> int:
    import ml_dtypes  # noqa: F401  (gives NumPy bfloat16 by name)
    import numpy as np

    from convert.target import check_target_file, model_differences, to_safetensors, to_torch
    from slt_jax.models.trust import trusting
    from slt_jax.training.interchange import check_target_folder, notes_for_v9, open_weights, to_states

    model, target = model_section(arguments), arguments.target
    trust = trusting(model, arguments.trust_classes)
    source = open_weights(arguments.source, trust)
    if arguments.dry_run:
        lines = model_differences(source, model, trust)
        for line in lines:
            print(line)
        print(f"{source.path} ({source.kind}) {'differs from' if lines else 'fits'} the model; nothing is written")
        return 1 if lines else 0
    check = check_target_folder if arguments.command == "to-jax" else check_target_file
    check(target, overwrite=arguments.overwrite)
    dtype = np.dtype(arguments.dtype) if arguments.dtype else None
    if arguments.command == "to-jax":
        with byte_bar(f"reading {source.path.name}") as progress:
            only = arguments.weights_only
            to_states(source, target, model=model, dtype=dtype, weights_only=only, progress=progress, trust=trust)
        print(f"{target}: written; --resume {target} continues it, slt_jax.load reads it")
        return 0
    if arguments.command == "to-safetensors":
        with byte_bar(target.name) as progress:
            ties = to_safetensors(source, target, dtype=dtype, prefix=arguments.prefix, progress=progress)
        left_out = f"; {len(ties)} tied tensors are stored once; the metadata names them" if ties else ""
        print(f"{target}: written, {len(source.tensors) - len(ties)} tensors{left_out}")
        return 0
    if arguments.weights_only and arguments.layout != "v9":
        raise UserError("--layout is about the optimiser's state, which --weights-only leaves out; give one")
    notes = notes_for_v9(source, trust)
    with byte_bar(target.name) as progress:
        to_torch(
            source,
            target,
            dtype=dtype,
            prefix=arguments.prefix,
            weights_only=arguments.weights_only,
            layout=arguments.layout,
            model=model,
            trust=trust,
            progress=progress,
        )
    print(f"{target}: written, {len(source.tensors)} tensors")
    for note in notes:
        print(f"note: {note}")
    return 0


def peft_command(arguments: argparse.Namespace) -> int:
    from convert.peft import CONFIG, from_peft, to_peft
    from convert.target import check_target_file
    from slt_jax.base.places import check_folder
    from slt_jax.training.interchange import open_weights

    target = arguments.target
    if arguments.command == "from-peft":
        check_target_file(target, overwrite=arguments.overwrite)
    elif target.exists() and not (arguments.overwrite or (target.is_dir() and not any(target.iterdir()))):
        raise UserError(f"{target}: exists; --overwrite replaces it")
    elif target.exists() and (not target.is_dir() or any(target.iterdir())) and not (target / CONFIG).exists():
        raise UserError(f"{target}: is no PEFT adapter, so it is not removed; name another place")
    else:
        check_folder("", target)
    source = open_weights(arguments.source, arguments.trust_classes)
    if arguments.command == "to-peft":
        lines = to_peft(source, target)
    else:
        with byte_bar(target.name) as progress:
            trust = arguments.trust_classes
            lines = from_peft(arguments.adapter, source, target, trust=trust, progress=progress)
    for line in lines:
        print(line)
    return 0


def model_section(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The model that --model or --config describes."""
    from slt_jax.base.json_text import parse_json
    from slt_jax.config import read_config_file

    if arguments.config:
        return read_config_file(arguments.config).get("model", {})
    if arguments.model is None:
        return None
    try:
        section = parse_json(arguments.model)
    except json.JSONDecodeError:
        section = None
    except UserError as error:
        raise UserError(f"--model: {error}") from None
    if not isinstance(section, dict):
        raise UserError(f"--model {shortened(arguments.model)}: is not a JSON object of model keys")
    return section


def verify_command(arguments: argparse.Namespace) -> int:
    if arguments.case:
        if arguments.sources:
            raise UserError("verify takes --case DIR or two files, not both")
        tolerance = 1e-5 if arguments.tolerance is None else arguments.tolerance
        return verify_case_command(arguments.case, tolerance, arguments.trust_classes)
    if len(arguments.sources) != 2:
        raise UserError("verify takes two files or folders, or --case DIR")
    from convert.inspect import table
    from convert.verify import compare
    from slt_jax.training.interchange import open_weights

    first, second = (open_weights(path, arguments.trust_classes) for path in arguments.sources)
    tolerance = arguments.tolerance or 0.0
    with byte_bar("verify") as progress:
        result = compare(first, second, progress)
    if result.prefix:
        print(f"compared as a part: {result.prefix}*")
    for line in result.mismatches:
        print(line)
    ranked = sorted((t for t in result.tensors if t.largest != 0), key=lambda t: -t.relative)
    if ranked:
        rows = [[t.key, f"{t.largest:.3e}", f"{t.relative:.3e}"] for t in ranked[: arguments.rows]]
        for line in table(["key", "largest", "relative"], rows):
            print(line)
        if len(ranked) > arguments.rows:
            print(f"... and {len(ranked) - arguments.rows} more")
    worst = max(result.tensors, key=lambda t: (t.largest != t.largest, t.largest), default=None)
    where = f"; largest difference {worst.largest:.3e} in {worst.key}" if worst and ranked else ""
    count, odd = len(result.tensors), len(result.mismatches)
    print(f"{count} tensors compared, {count - len(ranked)} identical{where}; {odd} without a match")
    return 0 if result.tensors and result.equal(tolerance) else 1


def verify_case_command(folder: Path, tolerance: float, trust_classes: bool) -> int:
    from slt_jax.evaluation.v9_case import read_case, verify_case

    case = read_case(folder, trust_classes)
    keep_compiled_programs()
    print(f"{'quantity':<20}{'relative error':<16}")
    failed = []
    for row in verify_case(case):
        shown = "-" if row.error is None else f"{row.error:.2e}"
        bad = row.error is not None and not row.error <= tolerance
        print(f"{row.name:<20}{shown:<16}{'FAIL ' if bad else ''}{row.remark}".rstrip(), flush=True)
        if bad:
            failed.append(row.name)
    print(f"{folder}: {'beyond' if failed else 'all within'} {tolerance:g}{': ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
