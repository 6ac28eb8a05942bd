"""Batch renormalization."""

import torch
from torch import Tensor, nn

from ._rows import row_affine, row_moments
from .base import RunningNorm, statistics_of, track
from .registry import NORMS


@NORMS.register()
class BRN(RunningNorm):
    """Batch renormalization (Ioffe, NIPS 2017): batch statistics, corrected towards the running ones.

    y = weight · ((x - μ)/σ · r + d) + bias, where r and d are constants for the gradient and limited to [1/r_max,
    r_max] and [-d_max, d_max]. The limits grow with the number of training forwards, from r = 1, d = 0 up to 5000. The
    standard deviation σ includes eps and is kept as `running_std`.

    Args:
        num_features: channels C.
        spatial_size: side S of the maps, where it is known.
        affine: whether there are `weight` and `bias`, [C].
        eps: added to the standard deviation.
        momentum: weight of the batch in the running statistics.
    """

    min_values = 1
    shared_arguments = ("affine", "momentum")  # eps is added to the standard deviation here
    _shown = ("eps", "momentum")

    running_std: Tensor

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

    def make_statistics(self) -> None:
        self.register_buffer("running_mean", torch.zeros(self.num_features))
        self.register_buffer("running_std", torch.ones(self.num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    @torch.no_grad()
    def take_statistics(self, old: nn.BatchNorm2d) -> bool:
        """The counter stays at 0: training goes on as batch normalization, and the correction grows from there."""
        mean, variance = statistics_of(old)
        self.running_mean.copy_(mean)
        self.running_std.copy_((variance + old.eps).sqrt())
        return True

    def normalize_batch(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        means, variances = row_moments(x)
        mean = means.mean(0)
        std = _sqrt((variances + (means - mean).square()).mean(0)) + self.eps
        ratio, shift = self._correct(mean.detach(), std.detach())
        slope = self.scaled(ratio / std)
        centers = means.detach()
        offsets = self.shifted(slope * (centers - mean) + self.scaled(shift))
        track(self.running_mean, mean, self.momentum)
        track(self.running_std, std, self.momentum)
        self.num_batches_tracked.add_(1)
        return row_affine(x, centers, slope.expand_as(means), offsets)

    def normalize_running(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        slope = self.scaled(1 / self.running_std)
        shape = x.shape[:2]
        bias = self.shifted(torch.zeros_like(slope))
        return row_affine(x, self.running_mean.expand(shape), slope.expand(shape), bias.expand(shape))

    def _correct(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """r and d, [C]."""
        largest_ratio, largest_shift = correction_limits(self.num_batches_tracked.to(self.running_std.dtype))
        ratio = (std / self.running_std).clamp(1 / largest_ratio, largest_ratio)
        shift = ((mean - self.running_mean) / self.running_std).clamp(-largest_shift, largest_shift)
        return ratio, shift


def correction_limits(num_forwards: Tensor) -> tuple[Tensor, Tensor]:
    """r_max and d_max [] after so many training forwards: from 1 to 3 and from 0 to 5, beginning at 5000."""
    largest_ratio = (num_forwards * (2 / 35000) + 25 / 35).clamp(1, 3)
    largest_shift = (num_forwards * (5 / 20000) - 25 / 20).clamp(0, 5)
    return largest_ratio, largest_shift


def _sqrt(values: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0."""
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1).sqrt(), 0)
