"""Small clips written by Pillow, in the layout of the data contract."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slt_jax.data.corpus_folder import folders_under
from tests.data.packed import IDS

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
STREAMS = ("face", "hand_l", "hand_r")


class ClipFactory:
    """Writes clips whose every image is one grey level, so that a decoded frame says which frame it is."""

    def __init__(self, root: Path, size: int = 16, landmarks: int = 13):
        self.root, self.size, self.landmarks = root, size, landmarks
        for name in (*STREAMS, "pose"):
            (root / name).mkdir(parents=True)
        self.dirs = folders_under(root)

    @staticmethod
    def level(stream: str, frame: int) -> int:
        """The grey level of a frame; neighbours differ by more than JPEG does."""
        return 20 + 3 * frame + STREAMS.index(stream)

    def image(self, path: Path, level) -> None:
        pixels = np.broadcast_to(np.asarray(level, np.uint8), (self.size, self.size, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, quality=100, subsampling=0)

    def write(self, video_id: str, frames: int, *, without: dict[str, list[int]] | None = None, pose=True, **arrays):
        for stream in STREAMS:
            for frame in set(range(frames)) - set((without or {}).get(stream, [])):
                self.image(self.root / stream / f"{video_id}_f{frame:06d}.jpg", self.level(stream, frame))
        if pose:
            np.savez(self.root / "pose" / f"{video_id}.npz", pose=self.pose(frames), **arrays)
        return video_id

    def pose(self, frames: int) -> np.ndarray:
        """x says the frame, y the landmark, confidence is 0.9 (0.1 for landmark 2)."""
        pose = np.empty((frames, self.landmarks, 3), np.float32)
        pose[..., 0] = np.arange(frames)[:, None] / 100
        pose[..., 1] = np.arange(self.landmarks) / 100
        pose[..., 2] = 0.9
        pose[:, 2, 2] = 0.1
        return pose.reshape(frames, -1)

    @staticmethod
    def shown(stream: str, images: np.ndarray) -> list[int | None]:
        """Which frame each decoded image is; None for black."""
        levels = images[..., 0].reshape(len(images), -1).mean(1)
        return [None if level < 5 else round((level - 20 - STREAMS.index(stream)) / 3) for level in levels]


@pytest.fixture
def factory(tmp_path) -> ClipFactory:
    return ClipFactory(tmp_path / "clips")


@pytest.fixture
def real_clips() -> Path:
    if not (SHARED / "real_clips").exists():
        pytest.skip("the real clips are not here")
    return SHARED / "real_clips"


@pytest.fixture
def folders(factory):
    """Clips of every kind: without gaps, with gaps, with odd names and a png, without a pose, longer than is shown."""
    factory.write("whole", 5, miss_hand_l=np.array([0, 1, 0, 0, 1], bool))
    factory.write("gaps", 9, without={"face": [0, 4], "hand_l": list(range(9)), "hand_r": [1, 2, 8]})
    factory.write("named", 4)
    face = factory.root / "face"
    (face / "named_f000001.jpg").rename(face / "named_f1.jpeg")
    with Image.open(face / "named_f000002.jpg") as image:
        image.save(face / "named_f000002.png")
    (face / "named_f000002.jpg").unlink()
    factory.write("poseless", 6, pose=False)
    factory.write("long", 30)
    rows = "".join(f"{video_id};text of {video_id}\n" for video_id in IDS)
    (factory.root / "meta.csv").write_text(f"id;text\n{rows}")
    return factory
