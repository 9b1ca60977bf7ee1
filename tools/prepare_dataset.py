"""Cut a corpus of long videos into a data set: `--metadata CSV --videos DIR --output DIR`."""

import sys

from slt_jax.cli.prepare_dataset import main

if __name__ == "__main__":  # extraction spawns workers
    sys.exit(main())
