"""Batch normalization."""

from torch import Tensor

from backbone.norm.base import RunningNorm
from utils.registry import NORMS


@NORMS.register()
class BN(RunningNorm):
    """Batch normalization (Ioffe & Szegedy, ICML 2015): mean and variance of a channel over N, H, W.

    The running variance is unbiased.

    Args:
        num_features: channels C.
        spatial_size: side S of the maps, where it is known.
        affine: whether there are `weight` and `bias`, [C].
        eps: added to the variance.
        momentum: weight of the batch in the running statistics.
    """

    _shown = ("eps", "momentum")

    def __init__(
        self,
        num_features: int,
        *,
        spatial_size: int | None = None,
        affine: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size, affine=affine, eps=eps)
        self.momentum = momentum

    def normalize_batch(self, x: Tensor) -> Tensor:
        return self.normalize_whole_batch(x, self.momentum)
