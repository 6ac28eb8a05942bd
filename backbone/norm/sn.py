"""SN: switchable normalization (Luo et al., ICLR 2019)."""

import torch
from torch import Tensor, nn

from backbone.norm.base import NormLayer
from backbone.norm.moments import normalise, pool, sample_moments
from utils.registry import NORMS


@NORMS.register()
class SwitchableNorm(NormLayer):
    """Normalises with a learned mix of instance, layer and batch statistics.

    With p = softmax(mean_weight), q = softmax(var_weight), in the order instance, layer, batch:
    μ = p₀ μ_in + p₁ μ_ln + p₂ μ_bn and v = q₀ v_in + q₁ v_ln + q₂ v_bn, where v_in is the unbiased spatial variance
    and v_ln, v_bn are the variances of the mixtures it makes over channels and samples. The batch part comes from
    `running_mean` (from 0) and `running_var` (from 0, not 1) in evaluation.

    Args:
        momentum: weight of the *old* running value, as published.

    Raises:
        UserError: maps of a single position, which have no unbiased variance.
    """

    def __init__(
        self,
        num_features: int,
        *,
        spatial_size: int | None = None,
        affine: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.997,
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size, affine=affine, eps=eps)
        self.momentum = momentum
        self.mean_weight = nn.Parameter(torch.ones(3))
        self.var_weight = nn.Parameter(torch.ones(3))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.zeros(num_features))

    def normalise(self, maps: Tensor) -> Tensor:
        self.require_positions(maps)
        num_positions = maps.shape[2] * maps.shape[3]
        mean_in, biased = sample_moments(maps)
        var_in = biased * (num_positions / (num_positions - 1))
        mean_ln, var_ln = (each[:, None] for each in pool(mean_in, var_in, dim=1))
        mean_bn, var_bn = self._batch_statistics(mean_in, var_in)
        mean_share, var_share = self.mean_weight.softmax(0), self.var_weight.softmax(0)
        mean = mean_share[0] * mean_in + mean_share[1] * mean_ln + mean_share[2] * mean_bn
        variance = var_share[0] * var_in + var_share[1] * var_ln + var_share[2] * var_bn
        return normalise(maps, mean, variance, self.eps, self.weight, self.bias)

    def _batch_statistics(self, mean_in: Tensor, var_in: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.running_mean, self.running_var
        statistics = pool(mean_in, var_in)
        for running, batch in zip((self.running_mean, self.running_var), statistics, strict=True):
            running.mul_(self.momentum).add_(batch.detach(), alpha=1 - self.momentum)
        return statistics
