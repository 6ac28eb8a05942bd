"""TBBN: task-balanced batch normalization (Cha et al., CVPR 2023), in closed form, without repeated samples."""

import logging
from functools import cache
from math import gcd

import torch
from torch import Tensor

from backbone.norm.base import BalancedNorm
from backbone.norm.moments import pool, sample_moments, scale_and_shift
from utils.registry import NORMS

_log = logging.getLogger(__name__)


@cache
def count_groups(num_current: int, num_memory: int, task: int) -> int:
    """r, the largest common divisor of both counts that is at most num_current · t / num_memory, at least 1."""
    if task == 0 or num_current == 0 or num_memory == 0:
        return 1
    common = gcd(num_current, num_memory)
    if common == 1:
        _log.warning(
            "TBBN: %d current and %d memory rows have no common divisor, so that it is plain batch normalization; "
            "choose --batch_size and --minibatch_size with one",
            num_current,
            num_memory,
        )
    fitting = (d for d in range(common, 0, -1) if common % d == 0 and d * num_memory <= num_current * task)
    return next(fitting, 1)


@NORMS.register()
class TaskBalancedBatchNorm(BalancedNorm):
    """Normalises current rows in r groups, each together with all memory rows; memory rows get the mean over groups.

    Current row i belongs to group i mod r. Per group, with n = (n_c/r + n_p)·HW: y_i = γ (x_i − μ_s)/√(v_s + eps) + β
    and y_j = (1/r) Σ_s [γ (x_j − μ_s)/√(v_s + eps) + β] for memory row j. The running values take the mean over the
    groups of μ_s and of v_s · n/(n − 1). In the first task, and without a description of the batch, r = 1.
    """

    def normalise_batch(self, maps: Tensor) -> Tensor:
        context = self.described(maps)
        num_memory = 0 if context is None else len(maps) - context.num_current
        num_groups = count_groups(len(maps) - num_memory, num_memory, self.task)
        if num_groups == 1:
            return super().normalise_batch(maps)
        mean, variance = _group_moments(maps, num_groups, num_memory)
        self._move_running(mean.detach(), variance.detach(), maps, num_groups, num_memory)
        return self._normalise_groups(maps, mean, variance, num_memory)

    def _move_running(self, mean: Tensor, variance: Tensor, maps: Tensor, num_groups: int, num_memory: int) -> None:
        num_values = ((len(maps) - num_memory) // num_groups + num_memory) * maps.shape[2] * maps.shape[3]
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.mean(0), self.momentum)
        self.running_var.lerp_(variance.mean(0) * (num_values / (num_values - 1)), self.momentum)

    def _normalise_groups(self, maps: Tensor, mean: Tensor, variance: Tensor, num_memory: int) -> Tensor:
        """Scale and shift every row: those of its group, or their mean over the groups."""
        num_repeats = (len(maps) - num_memory) // len(mean)
        scale = torch.rsqrt(variance + self.eps)  # [r, C], as the mean and what follows
        if self.weight is not None:
            scale = self.weight * scale
        center = mean.detach()
        memory_center = center.mean(0)
        shift = scale * (center - mean)
        memory_shift = (scale * (memory_center - mean)).mean(0)
        if self.bias is not None:
            shift, memory_shift = shift + self.bias, memory_shift + self.bias
        return scale_and_shift(
            maps,
            _rows(center, memory_center, num_repeats, num_memory),
            _rows(scale, scale.mean(0), num_repeats, num_memory),
            _rows(shift, memory_shift, num_repeats, num_memory),
        )


def _rows(groups: Tensor, memory: Tensor, num_repeats: int, num_memory: int) -> Tensor:
    """Per row: current row i has the values of group i mod r, [r, C], a memory row those of memory, [C]."""
    return torch.cat([groups.repeat(num_repeats, 1), memory.expand(num_memory, -1)])


def _group_moments(maps: Tensor, num_groups: int, num_memory: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every group of current rows together with all memory rows: 2 x [r, C].

    With current part c_s, v_c and memory part c_p, v_p, shares p and 1 − p of the values and δ_s = c_s − c_p:
    μ_s = c_p + p δ_s and v_s = p v_c + (1 − p) v_p + p (1 − p) δ_s².
    """
    mean, variance = sample_moments(maps)
    num_current = len(maps) - num_memory
    grouped = (each[:num_current].view(-1, num_groups, each.shape[1]) for each in (mean, variance))
    current_mean, current_variance = pool(*grouped)
    memory_mean, memory_variance = pool(mean[num_current:], variance[num_current:])
    per_group = num_current // num_groups
    share = per_group / (per_group + num_memory)
    difference = current_mean - memory_mean
    group_mean = memory_mean + share * difference
    within = share * current_variance + (1 - share) * memory_variance
    return group_mean, within + share * (1 - share) * difference.square()
