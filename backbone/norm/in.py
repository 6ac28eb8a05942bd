"""IN: instance normalization (Ulyanov, Vedaldi and Lempitsky, 2016)."""

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from backbone.norm.base import NormLayer
from utils.registry import NORMS


@NORMS.register()
class InstanceNorm(NormLayer):
    """y = (x − μ) / √(v + eps) per sample and channel over H, W, in both modes; affine only if asked for.

    Raises:
        UserError: maps of a single position.
    """

    protocol_defaults: ClassVar[dict[str, dict[str, Any]]] = {"online": {"affine": False}, "offline": {"affine": False}}

    def __init__(
        self, num_features: int, *, spatial_size: int | None = None, affine: bool = False, eps: float = 1e-5
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size, affine=affine, eps=eps)

    def normalise(self, maps: Tensor) -> Tensor:
        self.require_positions(maps)
        # One group per channel is instance normalization, by a kernel that is faster than torch's own on a CPU.
        return F.group_norm(maps, self.num_features, self.weight, self.bias, self.eps)
