"""LN: layer normalization (Ba, Kiros and Hinton, 2016)."""

from torch import Tensor
from torch.nn import functional as F

from backbone.norm.base import NormLayer
from utils.errors import UserError
from utils.registry import NORMS


@NORMS.register()
class LayerNorm(NormLayer):
    """y = γ ⊙ (x − μ) / √(v + eps) + β per sample over C, H, W.

    γ and β have one value per channel and position, [C, S, S], as in Lyu et al. (NeurIPS 2023): the layer works at the
    resolution it was built for.

    Raises:
        UserError: no `spatial_size`, or maps of another size.
    """

    def parameter_shape(self, num_features: int, spatial_size: int | None) -> tuple[int, ...]:
        if spatial_size is None:
            raise UserError("LN has a scale for every position of its maps: give spatial_size, the side of the maps")
        self.spatial_size = spatial_size
        return (num_features, spatial_size, spatial_size)

    def normalise(self, maps: Tensor) -> Tensor:
        if maps.shape[2:] != (self.spatial_size, self.spatial_size):
            side, (height, width) = self.spatial_size, maps.shape[2:]
            raise UserError(
                f"LN was built for maps of {side}x{side}, not {height}x{width}; build it for this image size"
            )
        return F.layer_norm(maps, tuple(maps.shape[1:]), self.weight, self.bias, self.eps)
