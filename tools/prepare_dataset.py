"""Cut a corpus of long videos into a data set; the same as `slt-prepare`."""

import sys

from slt_jax.cli.prepare_dataset import main

if __name__ == "__main__":  # extraction spawns workers
    sys.exit(main())
