"""Plot runs: python tools/plot_metrics.py runs/first runs/second --output curves.png."""

import sys

from slt_jax.cli.plot_metrics import main

if __name__ == "__main__":
    sys.exit(main())
