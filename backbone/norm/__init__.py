"""Normalization layers by name, for the suite's backbones and for anybody's own network."""

from backbone.norm._convert import convert_norms
from backbone.norm._factory import NormFactory, build_norm, norm_factory
from backbone.norm.context import BatchContext, batch_context, begin_task, norm_loss, undecayed_parameters

__all__ = [
    "BatchContext",
    "NormFactory",
    "batch_context",
    "begin_task",
    "build_norm",
    "convert_norms",
    "norm_factory",
    "norm_loss",
    "undecayed_parameters",
]
