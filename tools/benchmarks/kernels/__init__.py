"""Pallas kernels for the ViT blocks of a GPU: checked and timed against what training uses, alone and in its step."""

from tools.benchmarks.kernels.race import add_flags, measure

__all__ = ["add_flags", "measure"]
