"""How good and how fast the extraction is, on any folder of videos; the table of docs/video.md.

python tools/measure_extraction.py VIDEOS [--speed]
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from slt_jax.cli.command import run
from slt_jax.media.detect import Detector
from slt_jax.media.extract_many import extract_videos
from slt_jax.media.hands import DETECTED, SIDES
from slt_jax.media.jobs import find_videos
from slt_jax.media.settings import DEFAULT_FPS, ExtractionSettings
from slt_jax.media.video import facts, pictures

SETTINGS = ExtractionSettings(fps_limit=1000.0)  # every picture once
OTHER = {"hand_l": "hand_r", "hand_r": "hand_l"}


def quality(pose_file: Path) -> dict[str, float]:
    """Shares of one clip: faces over frames with a person; hands over frames whose wrist is in the picture.

    `right_side` is over hands that a detector found: is their own wrist the nearest to the middle of the crop?
    """
    with np.load(pose_file) as archive:
        data = dict(archive)
    names = [str(name) for name in data["landmarks"]]
    points = data["pose"].reshape(-1, len(names), 3)
    pixels = points[..., :2] * data["space_unit"] + data["space_origin"]
    wrists = {"hand_l": pixels[:, names.index("left_wrist")], "hand_r": pixels[:, names.index("right_wrist")]}
    person = points[..., 2].any(1)
    shares = {"face": np.mean(data["source_face"][person] != "")}
    nearer = []
    for side in SIDES:
        seen, detected = data[f"wrist_in_{side}"], np.isin(data[f"source_{side}"], DETECTED)
        shares[side] = np.mean(detected[seen]) if seen.any() else np.nan
        shares[f"{side}_crop"] = np.mean(~data[f"miss_{side}"][seen]) if seen.any() else np.nan
        boxes = data[f"box_{side}"]
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        to_own, to_other = (np.linalg.norm(middle - wrists[s], axis=-1)[detected] for s in (side, OTHER[side]))
        nearer.append(to_own <= to_other)
    agree = np.concatenate(nearer)
    return shares | {"right_side": np.mean(agree) if len(agree) else np.nan}


def cost(jobs) -> dict[str, tuple[float, float]]:
    """{clip: CPU milliseconds a frame of (Holistic alone, the extraction)}, on one core."""
    import mediapipe

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    detector = Detector(SETTINGS.min_confidence)
    times: dict[str, tuple[float, float]] = {}
    holistic = mediapipe.solutions.holistic.Holistic(model_complexity=1)
    for job in [jobs[0], *jobs]:  # the first only warms up
        fps = facts(job.video).fps or DEFAULT_FPS
        start = time.process_time()
        holistic.reset()
        frames = sum(holistic.process(picture.image) is not None for picture in pictures(job.video, fps))
        middle = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            extract_videos([job], folder, SETTINGS, 0, progress=False, make_detector=lambda: _Open(detector))
        times[job.video_id] = 1000 * (middle - start) / frames, 1000 * (time.process_time() - middle) / frames
    return times


class _Open:
    """A detector that stays open from video to video, as it does in a worker."""

    def __init__(self, detector: Detector):
        self._detector = detector

    def __getattr__(self, name: str):
        return getattr(self._detector, name)

    def close(self) -> None:
        pass


def main() -> int:
    return run("measure_extraction", lambda _: measure(), None)


def measure() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos")
    parser.add_argument("--speed", action="store_true", help="also the time of one and of two workers")
    arguments = parser.parse_args()
    jobs = find_videos(arguments.videos)
    print("clip | frames | duration x fps | face % | left % | right % | left, right with a crop % | side right % | "
          "ms Holistic | ms extraction | ratio")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        records = extract_videos(jobs, folder, SETTINGS, 2, progress=False)
        rows = {r["video_id"]: quality(Path(folder, "pose", f"{r['video_id']}.npz")) for r in records if "frames" in r}
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(2 if arguments.speed else 0):
        for workers, taken in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                start = time.monotonic()
                extract_videos(jobs, folder, SETTINGS, workers, progress=False)
                taken.append(time.monotonic() - start)
    times = cost(jobs)
    for record in records:
        row, (alone, all_of_it) = rows[record["video_id"]], times[record["video_id"]]
        shares = [f"{100 * row[name]:.0f}" for name in ("face", "hand_l", "hand_r")]
        crops = f"{100 * row['hand_l_crop']:.0f}, {100 * row['hand_r_crop']:.0f}"
        known = facts(record["video"])
        pictures_in_all = (known.duration or 0.0) * (known.fps or 0.0)
        print(" | ".join([
            record["video_id"], str(record["frames"]), f"{pictures_in_all:.1f}", *shares, crops,
            f"{100 * row['right_side']:.1f}", f"{alone:.1f}", f"{all_of_it:.1f}", f"{all_of_it / alone:.2f}",
        ]))  # fmt: skip
    frames = [record["frames"] for record in records]
    total = [np.average([times[r["video_id"]][n] for r in records], weights=frames) for n in (0, 1)]
    print(f"all: {sum(frames)} frames, {total[0]:.1f} ms alone, {total[1]:.1f} ms in all, {total[1] / total[0]:.2f}")
    if arguments.speed:
        one, two = (min(taken) for taken in seconds.values())
        print(f"one worker {one:.1f} s, two workers {two:.1f} s: {one / two:.2f} times as fast")
    return 0


if __name__ == "__main__":  # workers import this file too
    sys.exit(main())
