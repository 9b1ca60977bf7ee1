"""Draw a clip: python tools/view_clip.py VIDEO_ID --root corpus."""

import sys

from slt_jax.cli.view_clip import main

if __name__ == "__main__":
    sys.exit(main())
