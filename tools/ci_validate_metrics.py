"""Compare a run with reference values; the same as `slt-check-metrics`."""

import sys

from slt_jax.cli.validate_metrics import main

if __name__ == "__main__":
    sys.exit(main())
