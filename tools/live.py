"""`make live`: the model of `make demo` reads its generated signer live, on a page of this machine."""

import argparse
import signal
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from slt_jax.cli import flags
from slt_jax.cli.command import choose_device, keep_compiled_programs, run
from slt_jax.errors import UserError
from slt_jax.media.settings import ExtractionSettings
from slt_jax.serve.app import Service
from slt_jax.serve.bounds import Bounds
from slt_jax.serve.server import address, listen, serve, show_log
from slt_jax.synthetic.camera import GeneratedSigner
from slt_jax.synthetic.generator import plan

CHECKPOINT = "runs/demo/run/last.pt"
FPS = 8  # slower, a sign that is held would be taken for a pause
SMOOTH = 2  # pictures for each of the generated frames
SENTENCES = 12
REST = 10  # frames between sentences
PAUSE = 0.75  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 ended, 1 the model cannot be made ready, 2 a mistake in the input."""
    return run("live", _live, argv)


def demo_signer(count: int = SENTENCES) -> GeneratedSigner:
    """The first signer of `make demo`, with sentences that its model has never seen."""
    specs, _ = plan({"train": 1000, "val": 40, "test": 40}, seed=0, level="small")
    unseen = [spec for video_id, spec in specs.items() if video_id.startswith("test") and spec.signer == 0]
    return GeneratedSigner(unseen[:count], pause=REST, smooth=SMOOTH)


def write_video(path: str | Path, pictures: Sequence[np.ndarray], fps: int) -> None:
    """Write pictures (H, W, 3) as a video that every browser plays."""
    with av.open(str(path), "w", format="webm") as file:
        stream = file.add_stream("libvpx", rate=Fraction(fps))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))


def _live(argv: Sequence[str] | None) -> int:
    top = flags.command_parser("live", "Show the model of `make demo` live, on a page of this machine.")
    top.add_argument("--checkpoint", default=CHECKPOINT, metavar="PATH", help=f"(default: {CHECKPOINT})")
    top.add_argument("--host", default="127.0.0.1", metavar="HOST", help="address to listen at (default: 127.0.0.1)")
    top.add_argument("--port", type=int, default=8000, metavar="PORT", help="(default: 8000; 0: any)")
    top.add_argument("--token", metavar="TEXT", help="needed where others reach the host")
    top.add_argument("--no-browser", action="store_true", default=False, help="open no browser")
    arguments = flags.parse(top, argv)
    token = getattr(arguments, "token", None)
    if not Path(arguments.checkpoint).is_file():
        raise UserError(f"--checkpoint {arguments.checkpoint}: is not there; run make demo first")
    from slt_jax.serve.access import check_token

    check_token(arguments.host, token)
    with listen(arguments.host, arguments.port) as listening:
        return _show(arguments, token, listening)


def _show(arguments: argparse.Namespace, token: str | None, listening: socket.socket) -> int:
    choose_device("cpu")
    keep_compiled_programs()
    from slt_jax.serve.served_model import ServedModel
    from slt_jax.serve.translate_video import read_model

    file, signer = read_model(arguments.checkpoint), demo_signer()
    settings = ExtractionSettings(**(file.defaults() | {"fps": FPS}))
    model = file.open(num_beams=1)
    served = ServedModel(model, settings, name="demo", sessions=4, chunk=2, pause=PAUSE, make_detector=signer.detector)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "signer.webm"
        write_video(video, signer.pictures, FPS * SMOOTH)
        where = f"{address(listening)}?play=sample"
        show_log()
        print(f"live: {where}", flush=True)
        if not arguments.no_browser:
            webbrowser.open(where)
        signal.signal(signal.SIGTERM, lambda *_: None)
        return serve(Service(served, Bounds(max_sessions=4), token=token, sample=video), listening)


if __name__ == "__main__":
    sys.exit(main())
