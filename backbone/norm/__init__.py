"""Normalization layers by name, for the suite's backbones and for anybody's own network.

Nothing here needs the rest of the suite, and nothing is imported before it is asked for, so that the layers' names and
options are known without PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._convert import convert_norms
    from ._factory import NormFactory, build_norm, norm_factory
    from ._fused import maker_of_fused_kernels, use_fused_kernels, uses_fused_kernels
    from .base import Norm
    from .context import (
        BatchContext,
        batch_context,
        begin_task,
        norm_loss,
        norm_parameters,
        num_described,
        rows_needed,
        separate_batches,
        takes_batches,
        undecayed_parameters,
    )
    from .errors import NormError
    from .registry import NORMS

__all__ = [
    "NORMS",
    "BatchContext",
    "Norm",
    "NormError",
    "NormFactory",
    "batch_context",
    "begin_task",
    "build_norm",
    "convert_norms",
    "maker_of_fused_kernels",
    "norm_factory",
    "norm_loss",
    "norm_parameters",
    "num_described",
    "rows_needed",
    "separate_batches",
    "takes_batches",
    "undecayed_parameters",
    "use_fused_kernels",
    "uses_fused_kernels",
]

_MODULES = {
    "NORMS": "registry",
    "BatchContext": "context",
    "Norm": "base",
    "NormError": "errors",
    "NormFactory": "_factory",
    "batch_context": "context",
    "begin_task": "context",
    "build_norm": "_factory",
    "convert_norms": "_convert",
    "maker_of_fused_kernels": "_fused",
    "norm_factory": "_factory",
    "norm_loss": "context",
    "norm_parameters": "context",
    "num_described": "context",
    "rows_needed": "context",
    "separate_batches": "context",
    "takes_batches": "context",
    "undecayed_parameters": "context",
    "use_fused_kernels": "_fused",
    "uses_fused_kernels": "_fused",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
