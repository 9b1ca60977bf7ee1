"""Draw a clip; the same as `slt-view`."""

import sys

from slt_jax.cli.view_clip import main

if __name__ == "__main__":
    sys.exit(main())
