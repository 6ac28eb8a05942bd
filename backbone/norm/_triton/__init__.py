"""Kernels for GPUs, which Triton makes: `mixtures.py` and `rows.py` for two kinds of layers."""

from .mixtures import TritonKernels

__all__ = ["TritonKernels"]
