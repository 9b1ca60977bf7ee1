"""A video file becomes text; the same as `slt-translate`."""

import sys

from slt_jax.cli.translate_video import main

if __name__ == "__main__":  # the worker that extracts imports this file too
    sys.exit(main())
