"""Layer normalization of whole feature maps."""

import torch.nn.functional as F
from torch import Tensor

from . import _fused_rows
from .base import Norm, at_least_single
from .errors import NormError
from .registry import NORMS


@NORMS.register()
class LN(Norm):
    """Layer normalization (Ba, Kiros & Hinton, 2016, arXiv 1607.06450): mean and variance of a sample over C, H, W.

    `weight` and `bias` have a value per channel and position, [C, S, S], so the layer fits one size of maps only.

    Args:
        num_features: channels C.
        spatial_size: side S of the maps.
        affine: whether there are `weight` and `bias`.
        eps: added to the variance.

    Raises:
        NormError: the side of the maps is not given, or an input has another.
    """

    per_sample = True
    fused_on = ("cuda",)
    needs_spatial_size = True

    def __init__(
        self, num_features: int, *, spatial_size: int | None = None, affine: bool = True, eps: float = 1e-5
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size)
        self.eps = eps
        assert spatial_size is not None  # or the base class had raised an error
        self.make_affine(affine, (num_features, spatial_size, spatial_size))

    def normalize_at_once(self, x: Tensor, added: Tensor | None, rectified: bool) -> Tensor | None:
        kind = _fused_rows.Grouped(1, self.eps, per_position=True)
        if x.shape[2:] != (self.spatial_size, self.spatial_size) or not _fused_rows.takes(
            kind, x, added, self.weight, self.bias
        ):
            return None
        return _fused_rows.normalize(kind, x, self.weight, self.bias, added=added, rectified=rectified)

    def normalize(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if (height, width) != (self.spatial_size, self.spatial_size):
            raise NormError(
                f"LN was built for maps of {self.spatial_size}x{self.spatial_size}, but got {height}x{width}: "
                "build the network for images of this size"
            )
        if x.is_contiguous():
            return F.layer_norm(at_least_single(x), x.shape[1:], self.weight, self.bias, self.eps).to(x.dtype)
        # PyTorch's kernel takes positions in the order in which they lie, and would copy channels-last maps.
        values = at_least_single(x).permute(0, 2, 3, 1)
        weight, bias = (None if each is None else each.permute(1, 2, 0) for each in (self.weight, self.bias))
        return F.layer_norm(values, values.shape[1:], weight, bias, self.eps).permute(0, 3, 1, 2).to(x.dtype)
