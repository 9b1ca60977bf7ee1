"""The videos of these tests are made on the spot; PyAV may be missing where the extra `media` is not installed."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("av") else ["test_*.py"]
