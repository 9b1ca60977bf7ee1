"""v9's evaluation command; the same as `slt-eval`."""

import sys

from slt_jax.cli.evaluate import main

if __name__ == "__main__":  # spawned data workers import this file too
    sys.exit(main())
