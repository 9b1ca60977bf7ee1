"""`slt-translate`, also `python tools/translate_video.py`: from a video file to text."""

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from slt_jax.base.files import replacing
from slt_jax.base.places import check_file
from slt_jax.cli import flags
from slt_jax.cli.command import choose_device, keep_compiled_programs, run
from slt_jax.cli.extract import add_setting_flags, settings
from slt_jax.decoding.results import Segment
from slt_jax.errors import UserError
from slt_jax.media.detect import Detector
from slt_jax.media.pool import Worker, started
from slt_jax.media.video import facts


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    top = flags.command_parser("slt-translate", "Translate a video of signing into text.")
    top.add_argument("video", help="the video file")
    add_model_flags(top)
    top.add_argument(
        "--window",
        type=float,
        metavar="SECONDS",
        help="translate windows of this length (default: as long as the model takes, cut at pauses)",
    )
    top.add_argument("--json", action="store_true", help="print one JSON object with the segments")
    top.add_argument("--srt", metavar="FILE", help="also write subtitles")
    add_setting_flags(top)
    return flags.parse(top, argv)


def add_model_flags(top: argparse.ArgumentParser) -> None:
    """Add the flags of a model that translates videos, and of where it runs."""
    top.add_argument("--checkpoint", metavar="PATH", help="a .pt, a work-dir or a folder of Orbax states")
    top.add_argument(
        "--tokenizer", metavar="DIR", help="tokenizer folder or hub id (default: the one beside the checkpoint)"
    )
    top.add_argument(
        "--target-lang", metavar="LANG", help="language of the text, of a model that knows several (default: the usual)"
    )
    top.add_argument("--num-beams", type=int, metavar="N", help="beams of the search (default: 4)")
    top.add_argument("--device", metavar="NAME", help="auto (default), cpu, gpu or cuda[:N], tpu")
    flags.add_trust_flag(top)


def read_model(arguments: argparse.Namespace):
    """The model that the flags of `add_model_flags` name, for the device that they choose."""
    given = vars(arguments)
    choose_device(given.get("device", "auto"))
    keep_compiled_programs()
    from slt_jax.serve import translate_video

    return translate_video.read_model(given["checkpoint"], trust_classes=arguments.trust_classes)


def open_model(arguments: argparse.Namespace, file):
    """The model of `read_model` with its weights and its tokenizer, as the same flags say."""
    given = vars(arguments)
    return file.open(
        num_beams=given.get("num_beams", 4), tokenizer=given.get("tokenizer"), target_lang=given.get("target_lang")
    )


def check_written(flag: str, place: Path) -> None:
    """Raise UserError if a file of text cannot be written to `place`, whose folder must be there."""
    check_file(flag, place)
    if not place.absolute().parent.is_dir():
        raise UserError(f"{flag} {place}: its folder does not exist")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 a mistake in the input or a video that cannot be used, 130 stopped by Ctrl-C."""
    return run("slt-translate", _translate, argv)


def _translate(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    given = vars(arguments)
    if "checkpoint" not in given:
        raise UserError("--checkpoint is not given")
    window = given.get("window")
    if window is not None and not 0 < window < 86400:
        raise UserError(f"--window {window:g}: must be above 0 seconds")
    subtitles = Path(given["srt"]) if "srt" in given else None
    if subtitles is not None:
        check_written("--srt", subtitles)
    known = settings(arguments)  # so that errors in it and in the video are reported before a model is loaded
    facts(given["video"])
    segments = []
    try:
        with started(partial(Detector, known.min_confidence)) as worker:  # its imports take as long as JAX's
            for segment in _segments(arguments, window, worker):
                segments.append(segment)
                if "json" not in given and segment.text:
                    print(segment.text, flush=True)
    except KeyboardInterrupt:
        print("slt-translate: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    if "json" in given:
        text = " ".join(segment.text for segment in segments if segment.text)
        answer = {"video": given["video"], "text": text, "segments": [dataclasses.asdict(s) for s in segments]}
        print(json.dumps(answer, ensure_ascii=False, indent=2))
    if subtitles is not None:
        from slt_jax.serve.translate_video import srt

        with replacing(subtitles) as file:
            file.write(srt(segments).encode())
    return 0


def _segments(arguments: argparse.Namespace, window: float | None, worker: Worker) -> Iterator[Segment]:
    """The segments of the video. The model is loaded, and its programs are compiled, beside the extraction."""
    file = read_model(arguments)
    from slt_jax.serve.translate_video import extraction

    wished = settings(arguments, **file.defaults())
    for note in file.check(wished):
        print(f"slt-translate: note: {note}", file=sys.stderr)
    with extraction(arguments.video, wished, worker, progress=sys.stderr.isatty()) as streams:
        model = open_model(arguments, file)
        model.compile()
        yield from model.segments(*streams(), window=window)


if __name__ == "__main__":
    sys.exit(main())
