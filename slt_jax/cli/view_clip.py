"""`slt-view VIDEO_ID`, also `python tools/view_clip.py`: draw a clip as a contact sheet and as a film."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from slt_jax.base.files import replacing
from slt_jax.base.places import check_file
from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.data.clip_files import FRAME, ClipFiles, scan
from slt_jax.data.corpus_folder import FOLDERS, StreamFolders, by_stream, folder_keys
from slt_jax.data.stream_folders import check_streams
from slt_jax.errors import UserError, nearest
from slt_jax.pictures.clip import open_clip
from slt_jax.pictures.film import write_gif, write_mp4
from slt_jax.pictures.sheet import clip_sheet, describe
from slt_jax.streams import parse_streams

PROG = "slt-view"
KINDS = (".png", ".gif", ".mp4")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read which clip, where its streams are, and what to write."""
    top = flags.command_parser(
        PROG, "Draw a clip's face, hands and pose: a contact sheet (png) and a film (mp4, or gif without PyAV)."
    )
    top.add_argument("video_id", metavar="VIDEO_ID", help="the clip's id, as its files are named")
    flags.add_corpus_flags(top, FOLDERS)
    flags.add_streams_flag(top, "draw these only")
    top.add_argument(
        "--output", metavar="FILE", help="write only this file: .png, .gif or .mp4 (default: a .png and a film)"
    )
    top.add_argument("--fps", type=float, help="frames per second of the film (default: the pose file's, else 25)")
    top.add_argument("--columns", type=int, metavar="INT", help="frames on the sheet (default: 12)")
    return flags.parse(top, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 a mistake in the input."""
    return run(PROG, _view, argv)


def _view(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    fps, columns = getattr(arguments, "fps", None), getattr(arguments, "columns", 12)
    if fps is not None and not 0 < fps <= 1000:
        raise UserError(f"--fps {fps:g}: must be above 0 and at most 1000")
    if not 1 <= columns <= 200:
        raise UserError(f"--columns {columns}: must be 1 to 200")
    targets = _targets(arguments)
    for target in targets:
        check_file("--output", target)
    streams = parse_streams(arguments.streams) if "streams" in arguments else None
    files = _find(arguments.video_id, by_stream(flags.places_of(vars(arguments), folder_keys(streams))), streams)
    clip = open_clip(files)
    for target in targets:
        if target.suffix.lower() == ".png":
            with replacing(target) as file:
                clip_sheet(files, columns=columns).save(file, "PNG")
        else:
            rate = fps or clip.fps or 25.0
            write = write_mp4 if target.suffix.lower() == ".mp4" else write_gif
            write(target, clip, rate)
    print(f"{files.video_id}: {describe(clip)}")
    print(f"written: {', '.join(map(str, targets))}")
    return 0


def _targets(arguments: argparse.Namespace) -> list[Path]:
    if output := getattr(arguments, "output", None):
        if Path(output).suffix.lower() not in KINDS:
            raise UserError(f"--output {output}: name a file that ends in {', '.join(KINDS)}")
        return [Path(output)]
    moving = ".mp4" if importlib.util.find_spec("av") else ".gif"
    return [Path(arguments.video_id + kind) for kind in (".png", moving)]


def _find(video_id: str, folders: StreamFolders, streams: Sequence[str] | None) -> ClipFiles:
    files = scan(folders, [video_id], streams)[video_id]
    if files.pose is None and files.last_frame() < 0:
        names = [path.name for folder in folders.values() for path in Path(folder).iterdir()]
        known = {found[1] if (found := FRAME.fullmatch(name)) else name.removesuffix(".npz") for name in names}
        raise UserError(f"{video_id}: no file of this clip in the folders{nearest(video_id, known, listed=False)}")
    check_streams([files])
    return files


if __name__ == "__main__":
    sys.exit(main())
