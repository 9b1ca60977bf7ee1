"""Compare a run with reference values: python tools/ci_validate_metrics.py run configs/debug_reference.json."""

import sys

from slt_jax.cli.validate_metrics import main

if __name__ == "__main__":
    sys.exit(main())
