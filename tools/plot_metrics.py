"""Plot the curves of runs; the same as `slt-plot`."""

import sys

from slt_jax.cli.plot_metrics import main

if __name__ == "__main__":
    sys.exit(main())
