"""Check a data set against docs/data.md; the same as `slt-check-data`."""

import sys

from slt_jax.cli.validate_data import main

if __name__ == "__main__":
    sys.exit(main())
