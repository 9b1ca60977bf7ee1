"""What all tests share: CPU only, and compiled programs kept for the session so that no program is compiled twice."""

import os
import tempfile
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Inherited by the commands that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"slt-jax-tests-{os.getuid()}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# A third of the time to compile, for programs that run once. XLA ends the process over a flag that it does not know.
flags = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
flags += ["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib").startswith("0.10.") else []
os.environ.setdefault("XLA_FLAGS", " ".join(flags))
# Small torch models are 20 times slower on two threads than on one where tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
