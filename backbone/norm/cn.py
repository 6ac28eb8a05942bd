"""CN: continual normalization (Pham, Liu and Hoi, ICLR 2022)."""

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from backbone.norm.base import RunningNorm
from backbone.norm.gn import ADJUST_GROUPS, NUM_GROUPS, count_groups
from utils.registry import NORMS


@NORMS.register()
class ContinualNorm(RunningNorm):
    """BN(z) of z = GN(x), the group normalization without affine; the running statistics describe z.

    Lyu et al. (NeurIPS 2023) run it with 32 groups and no affine, Cha et al. (CVPR 2023) with 8 groups and affine.

    Args:
        num_groups: groups of channels, 32 by default.
        adjust_groups: take the largest divisor of the channels where the groups do not divide them.

    Raises:
        UserError: the groups do not divide the channels.
    """

    options = (NUM_GROUPS, ADJUST_GROUPS)
    protocol_defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "online": {"num_groups": 32, "affine": False},
        "offline": {"num_groups": 8, "affine": True},
    }

    def __init__(
        self, num_features: int, *, num_groups: int | None = None, adjust_groups: bool = False, **more: Any
    ) -> None:
        super().__init__(num_features, **more)
        self.num_groups = count_groups("CN", num_features, num_groups or 32, adjust_groups)

    def normalise(self, maps: Tensor) -> Tensor:
        return super().normalise(F.group_norm(maps, self.num_groups, eps=self.eps))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_groups={self.num_groups}"
