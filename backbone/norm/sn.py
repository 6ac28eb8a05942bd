"""Switchable normalization."""

import torch
from torch import Tensor, nn

from ._rows import row_affine, row_moments
from .base import Norm, statistics_of, track
from .registry import NORMS


@NORMS.register()
class SN(Norm):
    """Switchable normalization (Luo et al., ICLR 2019): a learned mix of instance, layer and batch statistics.

    The shares are softmax(mean_weight) and softmax(var_weight), in the order instance, layer, batch. The variance
    over a map is unbiased. In evaluation the batch part comes from the running statistics, whose variance starts at 0.

    Args:
        num_features: channels C.
        spatial_size: side S of the maps, where it is known.
        affine: whether there are `weight` and `bias`, [C].
        eps: added to the mixed variance.
        decay: weight of the old value in the running statistics.

    Raises:
        NormError: an input has maps of a single pixel.
    """

    _shown = ("eps", "decay")

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        spatial_size: int | None = None,
        affine: bool = True,
        eps: float = 1e-5,
        decay: float = 0.997,
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size)
        self.eps = eps
        self.decay = decay
        self.make_affine(affine, (num_features,))
        self.mean_weight = nn.Parameter(torch.ones(3))
        self.var_weight = nn.Parameter(torch.ones(3))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.zeros(num_features))

    @torch.no_grad()
    def take_statistics(self, old: nn.BatchNorm2d) -> bool:
        mean, variance = statistics_of(old)
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)
        return False  # they are a third of the mix

    def normalize(self, x: Tensor) -> Tensor:
        self.check_map_size(x)
        x = x.contiguous()
        num_pixels = x.shape[2:].numel()
        means, variances = row_moments(x)
        variances = variances * (num_pixels / (num_pixels - 1))
        batch = self._batch_statistics(means, variances)
        mean, variance = self._mix(means, variances, *_mean_of_rows(means, variances, 1), *batch)
        slopes = self.scaled(torch.rsqrt(variance + self.eps))
        centers = means.detach()
        return row_affine(x, centers, slopes, self.shifted(slopes * (centers - mean)))

    def _batch_statistics(self, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of every channel, [C]."""
        if not self.training:
            return self.running_mean, self.running_var
        mean, variance = _mean_of_rows(means, variances, 0)
        track(self.running_mean, mean, 1 - self.decay)
        track(self.running_var, variance, 1 - self.decay)
        return mean, variance

    def _mix(self, *statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [N, C], from those of instances, layers and batch in turn."""
        mean_shares = torch.softmax(self.mean_weight, 0)
        var_shares = torch.softmax(self.var_weight, 0)
        mean = sum(share * mean for share, mean in zip(mean_shares, statistics[0::2], strict=True))
        variance = sum(share * variance for share, variance in zip(var_shares, statistics[1::2], strict=True))
        return mean, variance


def _mean_of_rows(means: Tensor, variances: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean and variance over the samples (axis 0, [C]) or the channels (axis 1, [N, 1]) of tables [N, C].

    The mean of E[x²] minus the square of the mean, in a form without a difference of large numbers.
    """
    keep = axis == 1
    mean = means.mean(axis, keepdim=keep)
    return mean, (variances + (means - mean).square()).mean(axis, keepdim=keep)
