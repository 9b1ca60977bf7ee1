"""v9's command for faces; the same as `slt-pretrain --stream face`."""

import sys

from slt_jax.cli.pretrain import main

if __name__ == "__main__":  # spawned data workers import this file too
    sys.exit(main(stream="face"))
