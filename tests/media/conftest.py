"""The videos of these tests are made on the spot; PyAV may be missing where the extra `media` is not installed."""

import importlib.util
from pathlib import Path

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("av") else ["test_*.py"]

REAL = Path(__file__).resolve().parents[3] / "shared" / "real_clips"


@pytest.fixture
def real_clips() -> Path:
    """Skips where the clips, or the detectors for them, are not there."""
    pytest.importorskip("mediapipe")
    if not REAL.is_dir():
        pytest.skip("the real clips are not on this machine")
    return REAL
