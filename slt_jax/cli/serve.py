"""`slt-serve`: a page and a service that translate signing, live and from files."""

import argparse
import dataclasses
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from slt_jax.base.output import without_news
from slt_jax.cli import flags
from slt_jax.cli.command import choose_device, keep_compiled_programs, run
from slt_jax.cli.export import OPSETS
from slt_jax.cli.extract import add_setting_flags, settings
from slt_jax.errors import UserError

TOKEN = "SLT_SERVE_TOKEN"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    from slt_jax.serve.bounds import Bounds

    top = flags.command_parser("slt-serve", "Serve a page and an API that translate signing into text.")
    top.add_argument("--checkpoint", metavar="RUN", help="a .pt, a work-dir or a folder of Orbax states")
    top.add_argument(
        "--static", type=Path, metavar="DIR", help="write the page as a folder for any web server; the model runs in "
        "the browser, and nothing is sent anywhere"
    )  # fmt: skip
    top.add_argument("--host", default="127.0.0.1", metavar="HOST", help="address to listen at (default: 127.0.0.1)")
    top.add_argument("--port", type=int, default=8000, metavar="PORT", help="its port (default: 8000; 0: any)")
    top.add_argument(
        "--token", metavar="TEXT", help=f"what users must know; needed where others reach the host (or: {TOKEN})"
    )
    top.add_argument(
        "--tokenizer", metavar="DIR", help="tokenizer folder or hub id (default: the one beside the checkpoint)"
    )
    top.add_argument(
        "--target-lang", nargs="+", metavar="LANG", help="languages to choose from, of a model that knows several"
    )
    top.add_argument("--num-beams", type=int, default=1, metavar="N", help="beams of the search (default: 1)")
    top.add_argument("--every", type=int, default=1, metavar="N", help="look at every N-th picture only (default: 1)")
    top.add_argument("--device", default="auto", metavar="NAME", help="auto (default), cpu, gpu or cuda[:N], tpu")
    flags.add_trust_flag(top)
    group = top.add_argument_group("bounds")
    for bound in dataclasses.fields(Bounds):
        group.add_argument(
            f"--{bound.name.replace('_', '-')}", type=bound.type, default=bound.default,
            metavar=bound.metadata["metavar"], help=f"{bound.metadata['help']} (default: {bound.default:g})",
        )  # fmt: skip
    add_setting_flags(top)
    return flags.parse(top, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 ended by SIGTERM or Ctrl-C, or written, 1 the model cannot be ready, 2 a mistake in the input."""
    return run("slt-serve", _serve, argv)


def _serve(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    given = vars(arguments)
    if "checkpoint" not in given:
        raise UserError("--checkpoint is not given")
    settings(arguments)  # so that a mistake in them is told before a model is loaded
    if "static" in given:
        return _write_page(arguments)
    _check_packages()
    from slt_jax.serve.access import check_token
    from slt_jax.serve.bounds import Bounds

    token = given.get("token", os.environ.get(TOKEN) or None)
    check_token(arguments.host, token)
    bounds = Bounds(**{field.name: given[field.name] for field in dataclasses.fields(Bounds)})
    from slt_jax.serve.server import address, listen, serve

    with listen(arguments.host, arguments.port) as listening, without_news():
        return serve(_service(arguments, token, bounds, address(listening)), listening)


def _check_packages() -> None:
    try:
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise UserError(f'serving needs {error.name}: pip install "slt-jax[serve]"') from None


def _open(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The model on its device, and how it wants to be shown what is extracted; what there is to note is told."""
    choose_device(arguments.device)
    keep_compiled_programs()
    from slt_jax.serve.translate_video import read_model

    given = vars(arguments)
    file = read_model(arguments.checkpoint, trust_classes=arguments.trust_classes)
    wished = settings(arguments, **file.defaults())
    for note in file.check(wished):
        print(f"slt-serve: note: {note}", file=sys.stderr)
    language = next(iter(given.get("target_lang", [])), None)
    model = file.open(num_beams=arguments.num_beams, tokenizer=given.get("tokenizer"), target_lang=language)
    return model, wished


def _name(arguments: argparse.Namespace) -> str:
    """What the model is called on the page."""
    return Path(arguments.checkpoint).absolute().name


def _write_page(arguments: argparse.Namespace) -> int:
    """Write the folder of --static."""
    given = vars(arguments)
    usual = vars(parse([]))
    kept = ("device", "trust_classes")
    own = [name for name in ("token", "face_blur", "signer_box", *usual) if name not in kept]
    if unused := [name for name in own if name in given and given[name] != usual.get(name)]:
        flag = f"--{unused[0].replace('_', '-')}"
        raise UserError(
            f"{flag}: the page of --static, which runs in the browser alone, has no such thing; leave it out"
        )
    from slt_jax.serve.static_page import check_target, write_static_page

    check_target(arguments.static)
    model, wished = _open(arguments)
    write_static_page(
        arguments.static, model, wished, name=_name(arguments), languages=given.get("target_lang", []),
        checkpoint=arguments.checkpoint, export=partial(_export, arguments),
    )  # fmt: skip
    return 0


def _export(arguments: argparse.Namespace, onnx: Path, place: Path) -> None:
    """Write the graphs of the page's model, in int8, beside `onnx`, in a folder that will be at `place`."""
    from convert.checkpoint import blueprint
    from slt_jax.export.job import ExportRequest
    from slt_jax.export.job import run as run_job
    from slt_jax.training.state_store import open_checkpoint

    checkpoint = open_checkpoint(arguments.checkpoint, arguments.trust_classes)
    request = ExportRequest(
        onnx=onnx, stablehlo=None, metadata=None, decoder=True, opset=OPSETS[0], precision="fp32", quantize=True,
        version="page", halves=True, place=place,
    )  # fmt: skip
    run_job(checkpoint, blueprint(checkpoint, trust=arguments.trust_classes), request)


def _service(arguments: argparse.Namespace, token: str | None, bounds: Any, where: str) -> Any:
    """The service with its model, which is not compiled yet; `where` is printed."""
    model, wished = _open(arguments)
    from slt_jax.serve.app import Service
    from slt_jax.serve.served_model import ServedModel
    from slt_jax.serve.server import show_log

    served = ServedModel(
        model, wished, name=_name(arguments), languages=vars(arguments).get("target_lang", []),
        sessions=bounds.max_sessions, every=arguments.every,
    )  # fmt: skip
    show_log()
    print(f"slt-serve: {where}{'#token=TOKEN' if token else ''}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: None)  # in place of the end that uvicorn would bring about after its own
    return Service(served, bounds, token=token)


if __name__ == "__main__":
    sys.exit(main())
