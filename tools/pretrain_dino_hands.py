"""v9's command for hands; the same as `slt-pretrain --stream hands`."""

import sys

from slt_jax.cli.pretrain import main

if __name__ == "__main__":  # spawned data workers import this file too
    sys.exit(main(stream="hands"))
