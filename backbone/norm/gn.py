"""GN: group normalization (Wu and He, ECCV 2018), in the two parametrisations of the published studies."""

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from backbone.norm.base import NormLayer
from utils.errors import UserError
from utils.options import Option, flag, ranged
from utils.registry import NORMS

NUM_GROUPS = Option(
    "num_groups",
    ranged(int, 1),
    None,
    "groups of channels of GN and CN (by the protocol)",
    excludes=("channels_per_group",),
)
ADJUST_GROUPS = flag("adjust_groups", "where the groups do not divide the channels, take the largest divisor below")


def count_groups(layer: str, num_features: int, num_groups: int, adjust: bool) -> int:
    """The number of groups in force.

    Args:
        layer: name for the message.
        num_features: channels.
        num_groups: groups asked for.
        adjust: take the largest divisor of the channels that is at most `num_groups`.

    Raises:
        UserError: the groups do not divide the channels.
    """
    if num_features % num_groups == 0:
        return num_groups
    if not adjust:
        raise UserError(
            f"{layer} cannot split {num_features} channels into {num_groups} equal groups; "
            "change --num_groups or the width (--nf), or use --adjust_groups"
        )
    return max(groups for groups in range(1, num_groups + 1) if num_features % groups == 0)


@NORMS.register()
class GroupNorm(NormLayer):
    """y = γ (x − μ) / √(v + eps) + β per sample over a group of consecutive channels and H, W, in both modes.

    Args:
        num_groups: groups per layer, 32 unless `channels_per_group` is given (Lyu et al., NeurIPS 2023).
        channels_per_group: channels of one group instead, 16 in Cha et al. (CVPR 2023).
        adjust_groups: take the largest divisor of the channels where the groups do not divide them.

    Raises:
        UserError: the groups do not divide the channels, or both parametrisations are given.
    """

    options = (
        NUM_GROUPS,
        Option("channels_per_group", ranged(int, 1), None, "channels per group of GN", excludes=("num_groups",)),
        ADJUST_GROUPS,
    )
    protocol_defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "online": {"num_groups": 32, "affine": True},
        "offline": {"channels_per_group": 16, "affine": False},
    }

    def __init__(
        self,
        num_features: int,
        *,
        num_groups: int | None = None,
        channels_per_group: int | None = None,
        adjust_groups: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(num_features, **more)
        if num_groups is not None and channels_per_group is not None:
            raise UserError("GN takes --num_groups or --channels_per_group, not both")
        if channels_per_group is None:
            self.num_groups = count_groups("GN", num_features, num_groups or 32, adjust_groups)
        elif num_features % channels_per_group == 0:
            self.num_groups = num_features // channels_per_group
        elif adjust_groups:
            self.num_groups = count_groups("GN", num_features, max(1, num_features // channels_per_group), adjust=True)
        else:
            raise UserError(
                f"GN cannot split {num_features} channels into groups of {channels_per_group}; "
                "change --channels_per_group or the width (--nf), or use --adjust_groups"
            )

    def normalise(self, maps: Tensor) -> Tensor:
        return F.group_norm(maps, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_groups={self.num_groups}"
