"""Weights and checkpoints to and from PyTorch, without torch."""

from convert.torch_file import TorchFileError, read_pt, write_pt

__all__ = ["TorchFileError", "read_pt", "write_pt"]
