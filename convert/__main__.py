"""`python -m convert`: the same as `slt-convert`."""

import runpy

# Handed over, not imported: the command lies above this package, which must not depend on it.
runpy.run_module("slt_jax.cli.convert", run_name="__main__", alter_sys=True)
