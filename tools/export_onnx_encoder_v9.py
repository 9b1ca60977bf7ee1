"""v9's export command; the same as `slt-export`."""

import sys

from slt_jax.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
