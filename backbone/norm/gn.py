"""Group normalization."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from . import _fused_rows
from ._groups import GROUP_OPTIONS, choose_num_groups
from .base import Norm, at_least_single
from .registry import NORMS


@NORMS.register()
class GN(Norm):
    """Group normalization (Wu & He, ECCV 2018): a sample's mean and variance over a group of channels, H and W.

    The same in training and evaluation. The online study has 32 groups, the offline study groups of 16 channels
    without `weight` and `bias`.

    Args:
        num_features: channels C.
        spatial_size: side S of the maps, where it is known.
        affine: whether there are `weight` and `bias`, [C].
        num_groups: consecutive groups of C / num_groups channels; 32 if nothing is given.
        channels_per_group: the same by the size of a group.
        adjust_groups: where the groups do not divide C, take the largest number of groups below that does.
        eps: added to the variance.

    Raises:
        NormError: the groups do not divide the channels.
    """

    per_sample = True
    fused_on = ("cpu", "cuda")
    options = GROUP_OPTIONS
    protocol_defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "online": {"affine": True, "num_groups": 32},
        "offline": {"affine": False, "channels_per_group": 16},
    }
    _shown = ("num_groups", "eps")

    def __init__(
        self,
        num_features: int,
        *,
        spatial_size: int | None = None,
        affine: bool = True,
        num_groups: int | None = None,
        channels_per_group: int | None = None,
        adjust_groups: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size)
        self.num_groups = choose_num_groups(self.name, num_features, num_groups, channels_per_group, adjust_groups)
        self.eps = eps
        self.make_affine(affine, (num_features,))

    def normalize_at_once(self, x: Tensor, added: Tensor | None, rectified: bool) -> Tensor | None:
        kind = _fused_rows.Grouped(self.num_groups, self.eps)
        if not _fused_rows.takes(kind, x, added, self.weight, self.bias):
            return None
        return _fused_rows.normalize(kind, x, self.weight, self.bias, added=added, rectified=rectified)

    def normalize(self, x: Tensor) -> Tensor:
        return torch.group_norm(at_least_single(x), self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)
