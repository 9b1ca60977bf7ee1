"""`slt-live`: text while somebody signs to a camera."""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from slt_jax.base.output import without_news
from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.cli.extract import add_setting_flags, settings
from slt_jax.cli.subtitles import Files, Screen, nth
from slt_jax.cli.translate_video import add_model_flags, check_written, open_model, read_model
from slt_jax.errors import UserError
from slt_jax.media.camera import source_of

ALONE_SECONDS = 5.0  # without anybody in the picture
FILES = ("srt", "vtt", "text")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    top = flags.command_parser("slt-live", "Translate signing into text while somebody signs to a camera.")
    top.add_argument("source", help="the number of a camera or its device, a video file, or an RTSP or HTTP address")
    add_model_flags(top)
    top.add_argument(
        "--realtime", action="store_true", help="play a video file as if it were live; what comes too fast is dropped"
    )
    top.add_argument("--srt", metavar="FILE", help="also write subtitles, anew after each sentence")
    top.add_argument("--vtt", metavar="FILE", help="the same as WebVTT")
    top.add_argument("--text", metavar="FILE", help="keep the last two lines in a text file, for OBS to show")
    add_setting_flags(top)
    return flags.parse(top, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 the source has ended or Ctrl-C or SIGTERM stopped it, 2 a mistake in the input, or it failed."""
    return run("slt-live", _live, argv)


def _live(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    given = vars(arguments)
    if "checkpoint" not in given:
        raise UserError("--checkpoint is not given")
    places = {name: Path(given[name]) for name in FILES if name in given}
    for name, place in places.items():
        check_written(f"--{name}", place)
    if len({place.resolve() for place in places.values()}) < len(places):
        raise UserError(f"{', '.join(f'--{name} {place}' for name, place in places.items())}: name different files")
    settings(arguments)  # so that errors in it and in the source are reported before a model is loaded
    source = source_of(given["source"], realtime="realtime" in given)
    source.facts  # noqa: B018 - which opens it
    file = read_model(arguments)
    from slt_jax.runtime.signals import StopSignal
    from slt_jax.serve.from_camera import LiveTranslation
    from slt_jax.serve.translate_video import srt, vtt

    wished = settings(arguments, **file.defaults())
    for note in file.check(wished):
        _say(f"note: {note}")
    live = LiveTranslation(open_model(arguments, file), source, wished)
    if sys.stderr.isatty():
        _say("ready; Ctrl-C ends it")
    written = {places[name]: made for name, made in (("srt", srt), ("vtt", vtt)) if name in places}
    files, screen = Files(written, places.get("text")), Screen(sys.stdout)
    with StopSignal() as stop, without_news():
        try:
            told = _show(live, stop, screen, files)
        finally:
            screen.clear()
    _say(told)
    if not live.met and not stop:
        raise UserError(f"{source.name}: nobody is found in it; --signer-box says where to look")
    return 0


def _show(live, stop, screen: Screen, files: Files) -> str:
    """Show the text as it comes. Returns how it kept up, in words."""
    began, pace, every = time.monotonic(), None, 1
    lags, sum_of_lags, longest = 0, 0.0, 0.0
    seen: float | None = None  # when somebody was, or that nobody is was told
    for caption in live.captions(lambda: stop):
        files.show(caption.update)
        screen.show(caption.update, caption.pace)
        now, pace = caption.update.time, caption.pace
        if pace.lag is not None:
            lags, sum_of_lags, longest = lags + 1, sum_of_lags + pace.lag, max(longest, pace.lag)
        if caption.anybody or seen is None:
            seen = now
        elif now - seen >= ALONE_SECONDS:
            screen.clear()
            _say(f"note: nobody is seen for {ALONE_SECONDS:.0f} s; --signer-box says where to look")
            seen = math.inf
        if pace.every != every:
            every = pace.every
            screen.clear()
            _say(f"note: {pace.dropped} pictures were dropped; the signer is now looked for in {nth(every)} only")
    if pace is None:
        return "no picture came"
    seconds = max(time.monotonic() - began, 1e-9)
    lag = f"; lag {sum_of_lags / lags:.2f} s, at most {longest:.2f} s" if lags else ""
    return f"{pace.frames} frames, {pace.frames / seconds:.1f} a second, {pace.dropped} pictures dropped{lag}"


def _say(line: str) -> None:
    print(f"slt-live: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
