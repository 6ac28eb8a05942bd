"""Batch normalization."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from . import _fused
from .base import RunningNorm, table_type
from .registry import NORMS


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

    fused_on: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    _shown: ClassVar[tuple[str, ...]] = ("eps", "momentum")

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
        self.num_batches_tracked.add_(1)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
        )

    def normalize_at_once(self, x: Tensor, added: Tensor | None, rectified: bool) -> Tensor | None:
        sizes = self.batch_sizes or (len(x),)
        if not _fused.takes(self, x, added, sizes, num_groups=len(sizes)):
            return None
        running = _fused.Running(self.running_mean, self.running_var, self.num_batches_tracked, self.momentum)
        mixing = _fused.batches(sizes, x.device, table_type(x))
        y, *_ = _fused.normalize(
            x, mixing, self.weight, self.bias, self.eps, added=added, rectified=rectified, running=running
        )
        return y
