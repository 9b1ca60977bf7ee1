"""Check a data set against docs/data.md: python tools/ci_validate_data_contract.py --root DATA."""

import sys

from slt_jax.cli.validate_data import main

if __name__ == "__main__":
    sys.exit(main())
