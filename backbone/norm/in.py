"""Instance normalization."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from . import _fused_rows
from .base import Norm, at_least_single
from .registry import NORMS


@NORMS.register()
class IN(Norm):
    """Instance normalization (Ulyanov, Vedaldi & Lempitsky, 2016, arXiv 1607.08022): one channel of one sample.

    The same in training and evaluation, without running statistics.

    Args:
        num_features: channels C.
        spatial_size: side S of the maps, where it is known.
        affine: whether there are `weight` and `bias`, [C]; neither study has them.
        eps: added to the variance.

    Raises:
        NormError: an input has maps of a single pixel.
    """

    min_pixels = 2
    per_sample = True
    fused_on = ("cpu", "cuda")
    protocol_defaults: ClassVar[dict[str, dict[str, Any]]] = {"online": {"affine": False}, "offline": {"affine": False}}

    def __init__(
        self, num_features: int, *, spatial_size: int | None = None, affine: bool = False, eps: float = 1e-5
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size)
        self.eps = eps
        self.make_affine(affine, (num_features,))

    def normalize_at_once(self, x: Tensor, added: Tensor | None, rectified: bool) -> Tensor | None:
        kind = _fused_rows.Grouped(self.num_features, self.eps)
        if x.shape[2:].numel() < self.min_pixels or not _fused_rows.takes(kind, x, added, self.weight, self.bias):
            return None
        return _fused_rows.normalize(kind, x, self.weight, self.bias, added=added, rectified=rectified)

    def normalize(self, x: Tensor) -> Tensor:
        self.check_map_size(x.shape[2:].numel())
        return torch.group_norm(at_least_single(x), self.num_features, self.weight, self.bias, self.eps).to(x.dtype)
