"""BRN: batch renormalization (Ioffe, NIPS 2017)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from backbone.norm.base import NormLayer
from backbone.norm.moments import pool, sample_moments, scale_and_shift
from utils.registry import NORMS


@NORMS.register()
class BatchRenorm(NormLayer):
    """y = γ ((x − μ)/σ · r + d) + β with σ = √v + eps, r = σ / R_σ and d = (μ − R_μ) / R_σ, clipped and constant.

    The limits of r and d grow with the number of training forwards k (`num_batches_tracked`): r stays 1 and d 0 until
    k = 5000, r reaches 3 at 40000 and d 5 at 25000. R_μ (`running_mean`, 0) and R_σ (`running_std`, 1, which has eps
    in it) are used as they were before the batch; evaluation is γ (x − R_μ) / R_σ + β.

    Args:
        eps: added to the standard deviation, not under the root.
        momentum: weight of the batch in a running statistic.
    """

    def __init__(
        self,
        num_features: int,
        *,
        spatial_size: int | None = None,
        affine: bool = True,
        eps: float = 1e-3,
        momentum: float = 0.01,
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size, affine=affine, eps=eps)
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_std", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def limits(self) -> tuple[Tensor, Tensor]:
        """r_max and d_max of the next training forward, on the device."""
        steps = self.num_batches_tracked.to(self.running_std.dtype)
        r_max = (2 / 35000 * steps + 25 / 35).clamp(1, 3)
        d_max = (5 / 20000 * steps - 25 / 20).clamp(0, 5)
        return r_max, d_max

    def normalise(self, maps: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(maps, self.running_mean, self.running_std.square(), self.weight, self.bias, eps=0.0)
        mean, variance = pool(*sample_moments(maps))
        # The smallest positive number under the root makes the derivative at zero variance 0 instead of infinite.
        std = variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt() + self.eps
        r, d = self._corrections(mean.detach(), std.detach())
        scale, center = r / std, mean.detach()
        shift = scale * (center - mean) + d
        if self.weight is not None:
            scale, shift = self.weight * scale, self.weight * shift + self.bias
        shape = maps.shape[:2]
        return scale_and_shift(maps, center.expand(shape), scale.expand(shape), shift.expand(shape))

    def _corrections(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """r and d [C] from the running values before this batch; then moves these."""
        r_max, d_max = self.limits()
        r = (std / self.running_std).clamp(1 / r_max, r_max)
        d = ((mean - self.running_mean) / self.running_std).clamp(-d_max, d_max)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_std.lerp_(std, self.momentum)
        self.num_batches_tracked.add_(1)
        return r, d
