"""A clip may have a rate and a box of its signer of its own; both belong to what its files depend on."""

from functools import partial

import numpy as np
from PIL import Image

from slt_jax.media.extract_many import extract_videos
from slt_jax.media.jobs import Job
from slt_jax.media.settings import ExtractionSettings
from tests.media.synthetic import SquareDetector, picture, signing

extract = partial(extract_videos, make_detector=SquareDetector, progress=False)


def test_they_are_part_of_the_key(tmp_path):
    settings = ExtractionSettings()
    plain = Job(tmp_path, "a").key(settings)
    assert plain.keys() == {"settings", "bytes", "modified", "start", "end"}
    assert Job(tmp_path, "a", rate=25.0).key(settings) != Job(tmp_path, "a", rate=30.0).key(settings) != plain
    assert Job(tmp_path, "a", signer_box=(0.1, 0.0, 0.9, 1.0)).key(settings)["signer_box"] == [0.1, 0.0, 0.9, 1.0]


def test_the_rate_of_a_folder_of_frames(tmp_path):
    (tmp_path / "clip").mkdir()
    for number, image in enumerate(signing(12)):
        Image.fromarray(image).save(tmp_path / "clip" / f"images{number:04d}.png")
    jobs = [Job(tmp_path / "clip", "own", rate=24.0), Job(tmp_path / "clip", "other")]
    own, other = extract(jobs, tmp_path / "out", ExtractionSettings(fps=12.0, crop_size=32), 0)
    assert (own["frames"], own["source_fps"], other["frames"], other["source_fps"]) == (6, 24.0, 12, 12.0)


def test_the_box_of_a_signer_beside_another_person(tmp_path):
    """The one on the right signs; the box names the one on the left."""
    (tmp_path / "clip").mkdir()
    for number in range(8):
        left = {"face": (40, 24), "left": (52, 60), "right": (28, 60)}
        right = {"face": (150, 24), "left": (160 + 2 * number, 60), "right": (140, 60)}
        Image.fromarray(picture(200, 96, left, right)).save(tmp_path / "clip" / f"{number:03d}.png")
    box = (0.0, 0.0, 0.45, 1.0)
    jobs = [Job(tmp_path / "clip", "named", rate=25.0, signer_box=box), Job(tmp_path / "clip", "found", rate=25.0)]
    extract(jobs, tmp_path / "out", ExtractionSettings(crop_size=32, pose="raw"), 0)
    noses = {name: np.load(tmp_path / "out" / "pose" / f"{name}.npz")["pose"][0, 0] for name in ("named", "found")}
    assert noses["named"] * 200 < 60
