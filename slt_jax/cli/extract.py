"""`slt-extract`, also `python tools/extract_rois_v2.py`: from videos to the streams that training reads."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.data.ids import check_id
from slt_jax.data.landmarks import BY_NUMBER, SETS, WITH_HANDS, names
from slt_jax.errors import UserError, nearest
from slt_jax.media.jobs import find_videos
from slt_jax.media.machines import merge_records, parse_part
from slt_jax.media.settings import POSES, ExtractionSettings
from slt_jax.streams import STREAMS


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read v9's flags; its two positional arguments are also flags."""
    top = flags.command_parser(
        "slt-extract", "Cut videos of signing into face, hands and pose: the streams that slt-train reads."
    )
    folders = ", ".join(stream.name for stream in STREAMS)
    top.add_argument("videos_dir", nargs="?", help="a video, or a folder of videos (subfolders too)")
    top.add_argument("out_root", nargs="?", help=f"folder for {folders} and metadata.jsonl")
    top.add_argument("--videos", metavar="DIR", help="the same as the first argument")
    top.add_argument("--output", metavar="DIR", help="the same as the second")
    top.add_argument("--metadata", metavar="PATH", help="the record of all clips (default: OUTPUT/metadata.jsonl)")
    top.add_argument(
        "--shard", metavar="I/N", help="make only part I of N (from 0 on); auto: of a SLURM job array (docs/video.md)"
    )
    top.add_argument("--merge", action="store_true", help="only put the records of all shards into one")
    elsewhere = top.add_argument_group("poses from elsewhere")
    elsewhere.add_argument(
        "--poses", metavar="DIR", help="convert .pose files, OpenPose's JSON, arrays (docs/video.md)"
    )
    elsewhere.add_argument(
        "--parts", nargs="+", metavar="PART", help="of arrays: pose left_hand right_hand face, in order"
    )
    elsewhere.add_argument("--numbers", metavar="LETTERS", help="of arrays: xyzv, xyz, xyc, ... of each landmark")
    elsewhere.add_argument("--picture-size", type=_size, metavar="WxH", help="of the videos, in pixels")
    top.add_argument("--workers", type=int, metavar="N", help="processes (default: 1; 0: this one)")
    top.add_argument(
        "--resume", action="store_true", help="keep clips that are complete and were made with these settings"
    )
    top.add_argument("--overwrite", action="store_true", help="make clips again that are already there")
    add_setting_flags(top)
    return flags.parse(top, argv)


def add_setting_flags(top: argparse.ArgumentParser) -> None:
    """Add the flags that `settings` reads."""
    group = top.add_argument_group("extraction")
    group.add_argument("--fps", type=float, metavar="F", help="frames per second to write (default: 25)")
    group.add_argument(
        "--fps-limit", type=float, metavar="F", help="the video's own rate, at most F (instead of a fixed rate)"
    )
    group.add_argument("--landmarks", metavar="SET", help="13 (default), 14, 17, or the name of a set (docs/video.md)")
    group.add_argument(
        "--pose", metavar="SPACE", help="signing (default: relative to the shoulders, in shoulder widths) or raw"
    )
    group.add_argument("--crop-size", type=int, metavar="PX", help="side of the crops (default: 224)")
    group.add_argument("--min-confidence", type=float, metavar="P", help="for people, faces and wrists (default: 0.5)")
    group.add_argument("--image-format", metavar="FORMAT", help="jpg (default) or png")
    group.add_argument(
        "--signer-box", type=_box, metavar="L,T,R,B", help="where the signer is, in pixels or fractions of the picture"
    )
    group.add_argument("--mirrored", action="store_true", help="the video is mirrored, as selfies are")
    group.add_argument("--face-blur", action="store_true", help="blur the face in every crop")


def settings(arguments: argparse.Namespace, **defaults) -> ExtractionSettings:
    """The settings that the flags ask for. `defaults` replace flags that were not given."""
    known = ExtractionSettings.__dataclass_fields__
    given = {name: value for name, value in vars(arguments).items() if name in known}
    if "landmarks" in given:
        given["landmarks"] = BY_NUMBER.get(given["landmarks"], given["landmarks"])
    return ExtractionSettings(**(defaults | given))


def _box(text: str) -> tuple[float, ...]:
    try:
        box = tuple(float(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not LEFT,TOP,RIGHT,BOTTOM")
    return box


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 some videos failed, 2 a mistake in the input, 130 stopped by Ctrl-C."""
    return run("slt-extract", _extract, argv)


def _extract(argv: Sequence[str] | None) -> int:
    from slt_jax.media.extract_many import extract_videos

    arguments = parse(argv)
    given = vars(arguments)
    if "merge" in given:
        return _merge(given)
    if "poses" in given:
        return _convert_poses(given)
    videos = _one_of(given, "--videos", "videos", "videos_dir", "a folder of videos")
    output = _one_of(given, "--output", "output", "out_root", "a folder for the streams")
    if "resume" in given and "overwrite" in given:
        raise UserError("--resume keeps what --overwrite would replace; give one")
    wished, part = settings(arguments), parse_part(given["shard"]) if "shard" in given else None
    try:
        records = extract_videos(
            find_videos(videos, frames=True, apart_from=output),
            output,
            wished,
            given.get("workers", 1),
            resume="resume" in given,
            overwrite="overwrite" in given,
            metadata=given.get("metadata"),
            part=part,
        )
    except KeyboardInterrupt:
        print("slt-extract: stopped; continue with --resume", file=sys.stderr)
        return 128 + signal.SIGINT
    failed = [record for record in records if record["status"] != "ok"]
    frames = sum(record.get("frames", 0) for record in records)
    print(f"{len(records) - len(failed)} of {len(records)} videos, {frames} frames: {output}")
    if failed:
        shown = ", ".join(record["video_id"] for record in failed[:5]) + (", ..." if len(failed) > 5 else "")
        print(f"slt-extract: {len(failed)} failed: {shown}", file=sys.stderr)
    return 1 if failed else 0


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT")
    return int(width), int(height)


def _convert_poses(given: dict) -> int:
    """Write the pose files of clips whose poses others estimated."""
    from slt_jax.base.console import Progress
    from slt_jax.media.other_poses import Layout, read_poses, sources, write_poses

    output = _one_of(given | {"out_root": given.get("videos_dir")}, "--output", "output", "out_root", "a folder")
    chosen = BY_NUMBER.get(str(given.get("landmarks", "13")), str(given.get("landmarks")))
    known = (*SETS, WITH_HANDS)
    if chosen not in known:
        raise UserError(f"--landmarks {chosen}: unknown{nearest(chosen, known)}")
    space = given.get("pose", "signing")
    if space not in POSES:
        raise UserError(f"--pose {space}: must be {' or '.join(POSES)}")
    parts = tuple(given["parts"]) if "parts" in given else None
    layout = Layout(parts, given.get("numbers"), given.get("picture_size"))
    clips, failed = sources(Path(given["poses"])), {}
    with Progress("poses", len(clips)) as progress:
        for clip, path in clips.items():
            try:
                check_id(clip, str(path))
                poses = read_poses(path, layout)
                write_poses(Path(output) / "pose" / f"{clip}.npz", poses, chosen, space, given.get("fps"))
            except UserError as error:
                text = str(error)
                failed[clip] = text if text.startswith(str(path)) else f"{path}: {text}"
            progress.update(1)
    for reason in list(failed.values())[:5]:
        print(f"slt-extract: {reason}", file=sys.stderr)
    print(f"{len(clips) - len(failed)} of {len(clips)} poses of {len(names(chosen))} landmarks: {output}/pose")
    return 1 if failed else 0


def _merge(given: dict) -> int:
    """Put the records of the parts of an output into one."""
    places = [given[name] for name in ("output", "out_root", "videos_dir") if name in given]
    if len(places) != 1 or "videos" in given or "shard" in given:
        raise UserError("--merge needs --output alone: slt-extract --merge --output DIR")
    clips, parts = merge_records(Path(given.get("metadata") or Path(places[0]) / "metadata.jsonl"))
    print(f"{parts} shards, {clips} clips: {places[0]}")
    return 0


def _one_of(given: dict, flag: str, name: str, place: str, what: str) -> str:
    values = [value for value in (given.get(name), given.get(place)) if value is not None]
    if len(values) != 1:
        problem = "is not given" if not values else "is given twice"
        raise UserError(f"{flag} ({what}) {problem}")
    return values[0]


if __name__ == "__main__":
    sys.exit(main())
