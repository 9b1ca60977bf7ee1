"""Write a data set into a few big files, or check such; the same as `slt-pack`."""

import sys

from slt_jax.cli.pack_dataset import main

if __name__ == "__main__":
    sys.exit(main())
