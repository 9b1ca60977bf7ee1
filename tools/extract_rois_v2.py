"""v9's extraction command; the same as `slt-extract`."""

import sys

from slt_jax.cli.extract import main

if __name__ == "__main__":  # spawned workers import this file too
    sys.exit(main())
