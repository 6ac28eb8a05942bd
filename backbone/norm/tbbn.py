"""Task-balanced batch normalization."""

import warnings
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ._rows import row_affine, row_moments
from .base import track
from .context import ContextNorm
from .registry import NORMS


@NORMS.register()
class TBBN(ContextNorm):
    """Task-balanced batch normalization (Cha et al., CVPR 2023).

    The current samples are dealt out to r groups, sample i to group i mod r; every memory sample belongs to every
    group. A group has its own mean and variance. A current sample is normalised by its group, a memory sample by all
    groups, whose results are averaged. With r = 1 (the first task, no memory samples, no context) this is batch
    normalization. No sample is repeated: groups are put together from the moments of the samples.

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
        context = self.context_of(x)
        num_current = len(x) if context is None else context.num_current
        num_groups = num_balanced_groups(num_current, len(x) - num_current, self.task)
        if num_groups == 1:
            return self._normalize_as_one(x)
        return self._normalize_groups(x.contiguous(), num_current, num_groups)

    def _normalize_as_one(self, x: Tensor) -> Tensor:
        """Batch normalization; its graph keeps copies of the running statistics, which other forwards may move."""
        statistics = self.running_mean.clone(), self.running_var.clone()
        y = F.batch_norm(x, *statistics, self.weight, self.bias, True, self.momentum, self.eps)
        self.running_mean.copy_(statistics[0])
        self.running_var.copy_(statistics[1])
        self.num_batches_tracked.add_(1)
        return y

    def _normalize_groups(self, x: Tensor, num_current: int, num_groups: int) -> Tensor:
        sizes = [num_current, len(x) - num_current]
        means, variances = row_moments(x)
        current, memory = means.split(sizes)
        current = current.unflatten(0, (-1, num_groups))  # sample i is [i // r, i % r]
        current_variances, memory_variances = variances.split(sizes)
        num_rows = len(current) + len(memory)  # of a group

        memory_mean = memory.mean(0)
        memory_variance = (memory_variances + (memory - memory_mean).square()).mean(0)
        mean = memory_mean + (current - memory_mean).sum(0) / num_rows  # [r, C]
        squares = (current_variances.view_as(current) + (current - mean).square()).sum(0)
        squares = squares + len(memory) * (memory_variance + (memory_mean - mean).square())
        variance = squares / num_rows
        self._track(mean, variance, num_rows * x.shape[2:].numel())

        slope = self.scaled(torch.rsqrt(variance + self.eps))
        centers = means.detach()
        current_centers, memory_centers = centers.split(sizes)
        current_offsets = slope * (current_centers.view_as(current) - mean)
        memory_slope = slope.mean(0)
        anchor = memory_mean.detach()
        memory_offsets = memory_slope * (memory_centers - anchor) + (slope * (anchor - mean)).mean(0)
        slopes = torch.cat([slope.repeat(len(current), 1), memory_slope.expand_as(memory)])
        offsets = torch.cat([current_offsets.flatten(0, 1), memory_offsets])
        return row_affine(x, centers, slopes, self.shifted(offsets))

    def _track(self, mean: Tensor, variance: Tensor, num_values: int) -> None:
        """Running statistics: averages over the groups, the variance unbiased within each."""
        self.num_batches_tracked.add_(1)
        track(self.running_mean, mean.mean(0), self.momentum)
        track(self.running_var, variance.mean(0) * (num_values / (num_values - 1)), self.momentum)


@cache
def num_balanced_groups(num_current: int, num_memory: int, task: int) -> int:
    """r: the largest common divisor of both numbers with r · num_memory <= num_current · task, at least 1.

    A warning tells once that a composition cannot be balanced because its numbers have no common divisor.
    """
    if task == 0 or num_current == 0 or num_memory == 0:
        return 1
    common = [d for d in range(1, min(num_current, num_memory) + 1) if num_current % d == 0 == num_memory % d]
    if common == [1]:
        warnings.warn(
            f"TBBN: {num_current} current and {num_memory} memory samples have no common divisor, so the batch is "
            "normalised as one, as BN would",
            stacklevel=2,
        )
    return max((d for d in common if d * num_memory <= num_current * task), default=1)
