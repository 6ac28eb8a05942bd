"""Continual normalization."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import _fused, _fused_rows
from ._groups import GROUP_OPTIONS, choose_num_groups
from .base import at_least_single
from .bn import BN
from .registry import NORMS


@NORMS.register()
class CN(BN):
    """Continual normalization (Pham, Liu & Hoi, ICLR 2022): group normalization, then batch normalization.

    The group step has no weight and bias of its own; the running statistics are of what it gives. The online study
    has 32 groups and no `weight` and `bias` at all, the offline study 8 groups and both.

    Args:
        num_features: channels C.
        spatial_size: side S of the maps, where it is known.
        affine: whether there are `weight` and `bias`, [C].
        num_groups: consecutive groups of C / num_groups channels; 32 if nothing is given.
        channels_per_group: the same by the size of a group.
        adjust_groups: where the groups do not divide C, take the largest number of groups below that does.
        eps: added to the variances of both steps.
        momentum: weight of the batch in the running statistics.

    Raises:
        NormError: the groups do not divide the channels.
    """

    options = GROUP_OPTIONS
    fused_on = ("cpu", "cuda")
    protocol_defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "online": {"affine": False, "num_groups": 32},
        "offline": {"affine": True, "num_groups": 8},
    }
    _shown = ("num_groups", "eps", "momentum")

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
        momentum: float = 0.1,
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size, affine=affine, eps=eps, momentum=momentum)
        self.num_groups = choose_num_groups(self.name, num_features, num_groups, channels_per_group, adjust_groups)

    def take_statistics(self, old: nn.BatchNorm2d) -> bool:
        return False  # they are of the maps before the group step

    def normalize_at_once(self, x: Tensor, added: Tensor | None, rectified: bool) -> Tensor | None:
        sizes = self.batch_sizes or (len(x),)
        running = _fused.Running(self.running_mean, self.running_var, self.num_batches_tracked, self.momentum)
        kind = _fused_rows.Continual(self.num_groups, self.eps, sizes, running)
        if not (_fused_rows.takes(kind, x, added, self.weight, self.bias) and self.has_variance(x, min(sizes))):
            return None
        return _fused_rows.normalize(kind, x, self.weight, self.bias, added=added, rectified=rectified)

    def normalize(self, x: Tensor) -> Tensor:
        grouped = torch.group_norm(at_least_single(x), self.num_groups, None, None, self.eps)
        return super().normalize(grouped).to(x.dtype)
