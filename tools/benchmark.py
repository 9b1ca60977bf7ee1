"""Benchmarks of training and generation; docs/performance.md. `python tools/benchmark.py step --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.benchmarks.command import main

if __name__ == "__main__":  # the processes that are measured import this file too
    sys.exit(main())
