"""v9's training command; the same as `slt-train`."""

import sys

from slt_jax.cli.train import main

if __name__ == "__main__":  # spawned data workers import this file too
    sys.exit(main())
