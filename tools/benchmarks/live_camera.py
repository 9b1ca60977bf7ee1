"""What a live camera's crops and poses differ by from an extraction's, and what each model costs."""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from slt_jax.data.landmarks import LEFT_SHOULDER, RIGHT_SHOULDER, SETS
from slt_jax.media.crops import cut
from slt_jax.media.detect import Detector
from slt_jax.media.extract_many import extract_videos
from slt_jax.media.finder import Finder
from slt_jax.media.jobs import find_videos
from slt_jax.media.live import MOST_EVERY, LiveExtractor, LiveFrame
from slt_jax.media.settings import DEFAULT_FPS, ExtractionSettings
from slt_jax.media.signer import choose_signer, find_faces
from slt_jax.media.video import facts, pictures, played
from slt_jax.streams import IMAGES

SETTINGS = ExtractionSettings(fps_limit=1000.0)  # every picture once
SIZE = 640, 480  # of the pictures whose cost is measured
FAST = 24.0  # pictures a second; between those of slower clips, hands move far


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument("videos", metavar="DIR", help="a video, or a folder of videos")
    top.add_argument("--every", type=int, nargs="+", default=range(1, MOST_EVERY + 1), metavar="N",
                     help="let the models look at every N-th picture (default: 1 to 4)")  # fmt: skip
    top.add_argument("--costs", action="store_true", default=False, help="also what each model costs")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    jobs = find_videos(arguments.videos)
    print("clip | every | frames | IoU face, left, right | crops face, left, right % (offline) | "
          "pose in shoulder widths, in its own units | CPU ms a frame")  # fmt: skip
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        records = extract_videos(jobs, folder, SETTINGS, 0, progress=False)
        for job, record in zip(jobs, records, strict=True):
            if record["status"] != "ok":
                print(f"{job.video_id}: {record['reason']}")
                continue
            with np.load(Path(folder, "pose", f"{job.video_id}.npz")) as archive:
                offline = dict(archive)
            for every in arguments.every:
                frames, seconds = _live(job.video, every)
                row = {"clip": job.video_id, "every": every, "fps": record["fps"], "cpu_ms": 1000 * seconds}
                rows.append(row | _compared(frames, offline))
                print(_line(rows[-1]), flush=True)
    for every in arguments.every:
        for title, chosen in (("all", rows), (f"at {FAST:g} fps or more", [r for r in rows if r["fps"] >= FAST])):
            if some := [row for row in chosen if row["every"] == every]:
                print(_line({"clip": title, "every": every} | _mean(some)))
    costs = _costs(jobs[0].video) if arguments.costs else {}
    if costs:
        print("CPU ms of a picture of {} x {}: ".format(*SIZE) + ", ".join(f"{k} {v:.1f}" for k, v in costs.items()))
    return {"rows": rows, "costs_ms": costs}


def _live(video: str | Path, every: int) -> tuple[list[LiveFrame], float]:
    """The frames of a video as a camera gives them, and the seconds of all cores for one."""
    with LiveExtractor(SETTINGS, every=every, source_fps=facts(video).fps) as extractor:
        begun = time.process_time()
        frames = [frame for at, image in played(video) for frame in extractor.frame(image(), at or 0.0)]
        frames += extractor.flush()
        return frames, (time.process_time() - begun) / max(len(frames), 1)


def _compared(frames: list[LiveFrame], offline: dict[str, np.ndarray]) -> dict[str, Any]:
    count = min(len(frames), len(offline["pose"]))
    row: dict[str, Any] = {"frames": count, "missed_frames": len(offline["pose"]) - len(frames)}
    for stream in IMAGES:
        boxes = np.array([frame.boxes[stream.name] or (np.nan,) * 4 for frame in frames[:count]])
        theirs = offline[f"box_{stream.name}"][:count]
        shared = _iou(boxes, theirs)
        row[f"iou_{stream.name}"] = float(np.nanmean(shared)) if np.isfinite(shared).any() else np.nan
        row[f"crops_{stream.name}"] = float(np.mean(~np.isnan(boxes[:, 0])))
        row[f"offline_{stream.name}"] = float(np.mean(~np.isnan(theirs[:, 0])))
    poses = np.concatenate([frame.arrays["pose"] for frame in frames[:count]]).reshape(count, -1, 3)
    theirs = offline["pose"][:count].reshape(count, -1, 3)
    pixels = np.array([frame.landmarks for frame in frames[:count]])
    places = theirs[..., :2] * offline["space_unit"] + offline["space_origin"]
    sure = (poses[..., 2] >= 0.5) & (theirs[..., 2] >= 0.5)
    widths = np.linalg.norm(pixels[:, LEFT_SHOULDER, :2] - pixels[:, RIGHT_SHOULDER, :2], axis=-1)
    apart = np.linalg.norm(pixels[:, SETS[SETTINGS.landmarks], :2] - places, axis=-1) / np.median(widths)
    row["pose_apart"] = float(apart[sure].mean())
    row["units_apart"] = float(np.linalg.norm(poses[..., :2] - theirs[..., :2], axis=-1)[sure].mean())
    return row


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The intersection over the union of boxes (T, 4), NaN where one is missing."""
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    both = np.maximum(sides, 0).prod(-1)
    return both / ((one[:, 2:] - one[:, :2]).prod(-1) + (other[:, 2:] - other[:, :2]).prod(-1) - both)


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of clips, weighted by their frames; of those that have a number."""
    weights = np.array([row["frames"] for row in rows])
    means: dict[str, Any] = {"frames": int(weights.sum())}
    for name in rows[0].keys() - {"clip", "every", "frames", "missed_frames"}:
        values = np.array([row[name] for row in rows])
        known = ~np.isnan(values)
        means[name] = float(np.average(values[known], weights=weights[known])) if known.any() else np.nan
    return means


def _line(row: dict[str, Any]) -> str:
    names = [stream.name for stream in IMAGES]
    iou = ", ".join(f"{row[f'iou_{name}']:.2f}" for name in names)
    crops = ", ".join(f"{100 * row[f'crops_{name}']:.0f} ({100 * row[f'offline_{name}']:.0f})" for name in names)
    return " | ".join([row["clip"], str(row["every"]), str(row["frames"]), iou, crops,
                       f"{row['pose_apart']:.3f}, {row['units_apart']:.4f}", f"{row['cpu_ms']:.1f}"])  # fmt: skip


def _costs(video: str | Path) -> dict[str, float]:
    """CPU milliseconds of each part, on all cores together."""
    import mediapipe

    rate = facts(video).fps or DEFAULT_FPS
    shown = [np.asarray(Image.fromarray(picture.image).resize(SIZE)) for picture in pictures(video, rate)]
    images, solutions, detector = shown[:40], mediapipe.solutions, Detector(SETTINGS.min_confidence)
    finder = Finder(detector, SETTINGS, choose_signer(images[:1], detector))
    found = [finder.look(image, n / rate) for n, image in enumerate(images)]
    square = next((square for one in found for square in one.squares.values() if square), None)
    parts: dict[str, Callable[[np.ndarray], Any]] = {
        "everything": lambda image: finder.look(image, 0.0),
        "Holistic": detector.body,
        "the pose alone": solutions.pose.Pose(model_complexity=1).process,
        "the face alone": solutions.face_mesh.FaceMesh(max_num_faces=1).process,
        "two hands alone": solutions.hands.Hands(max_num_hands=2, model_complexity=1).process,
        "a search for a lost hand": lambda image: detector.hands(np.ascontiguousarray(image[-256:, :256])),
        "who is there": lambda image: find_faces(image, detector),
    }  # fmt: skip
    if square is not None:
        parts["three crops"] = lambda image: [cut(image, square, SETTINGS.crop_size) for _ in range(3)]
    costs = {}
    for name, part in parts.items():
        part(images[0])
        begun = time.process_time()
        for image in images:
            part(image)
        costs[name] = 1000 * (time.process_time() - begun) / len(images)
    detector.close()
    return costs
