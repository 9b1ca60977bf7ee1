"""Write a data set into a few big files, or check such: `write --root DIR --output PACK`, `verify PACK`."""

import sys

from slt_jax.cli.pack_dataset import main

if __name__ == "__main__":
    sys.exit(main())
