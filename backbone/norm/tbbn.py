"""Task-balanced batch normalization."""

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ._mixture import Mixture
from ._rows import affine, combined, row_moments, row_sums
from .base import table_type, track
from .context import ContextNorm
from .registry import NORMS


@NORMS.register()
class TBBN(ContextNorm):
    """Task-balanced batch normalization (Cha et al., CVPR 2023).

    The current samples are dealt out to r groups, sample i to group i mod r; every memory sample belongs to every
    group. A group has its own mean and variance. A current sample is normalised by its group, a memory sample by all
    groups, whose results are averaged. With r = 1 (the first task, no memory samples, no context) this is batch
    normalization. No sample is repeated: groups are put together from the moments of the samples.

    r grows with the number of tasks before the present one, t. In a stream without tasks, t is what `begin_task` last
    said: let it be the running number of classes seen, in groups of as many classes as a task would have, less one. So
    memory rows, which stand for all earlier classes, weigh as in a stream of such tasks, and nothing but the labels of
    rows that have come has to be known.

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
        num_memory = len(x) - num_current
        num_groups = num_balanced_groups(num_current, num_memory, self.task)
        self.num_batches_tracked.add_(1)
        # As batch normalization, both ways behind autograd's back: no graph that waits for its backward uses them.
        running = self.running_mean.data, self.running_var.data
        if num_groups == 1:
            return F.batch_norm(x, *running, self.weight, self.bias, True, self.momentum, self.eps)
        groups = _groups(num_current, num_memory, num_groups, x.device, table_type(x))
        y, mean, variance = _NormalizeGroups.apply(x, self.weight, self.bias, groups, self.eps)
        num_values = (num_current // num_groups + num_memory) * x.shape[2:].numel()  # of a group
        track(running, (mean, variance * (num_values / (num_values - 1))), self.momentum)
        return y


class _NormalizeGroups(Function):
    """y_i = Σ_s U_is [γ k_s (x_i - μ_s) + β] with k_s = 1/√(v_s + eps), and the means over s of μ_s and v_s.

    The statistics are μ_s = Σ_i M_si m_i and v_s = Σ_i M_si (v_i + m_i²) - μ_s² of the samples' means m_i and variances
    v_i over their maps. Means count from that of the first sample, so that v_s is no difference of large numbers.

    Backward: g is the gradient of y, its products are summed over the pixels. A group gets G_s = Σ_i U_is g_i and
    K_s = Σ_i U_is g_i (x_i - μ_s); hence dβ = Σ_s G_s, dγ = Σ_s k_s K_s, dμ_s = -γ k_s G_s, dv_s = -γ k_s³ K_s / 2.
    With ∂μ_s/∂x_i = M_si / HW and ∂v_s/∂x_i = 2 M_si (x_i - μ_s) / HW this gives
    dx_i = Σ_s U_is γ k_s g_i - Σ_s M_si γ k_s (G_s + k_s² K_s (x_i - μ_s)) / HW.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: "_Groups", eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        means, variances = row_moments(x)  # [N, C]
        reference = means[0]
        deviations = means - reference
        squares = torch.addcmul(variances, deviations, deviations)
        statistics = groups.statistics(torch.cat((deviations, squares), 1))
        mean, variance = statistics.chunk(2, 1)  # [r, C]
        variance.addcmul_(mean, mean, value=-1)
        inverse_std = torch.rsqrt(variance + eps)
        slope = inverse_std if weight is None else weight * inverse_std
        center = mean + reference
        offset = slope * -center if bias is None else torch.addcmul(bias, slope, center, value=-1)
        slopes, offsets = groups.outputs(torch.cat((slope, offset), 1)).chunk(2, 1)
        ctx.save_for_backward(x, reference, mean, center, inverse_std, slope, slopes)
        ctx.groups, ctx.is_affine = groups, weight is not None
        average_mean, average_variance = statistics.mean(0).chunk(2)
        average_mean.add_(reference)
        ctx.mark_non_differentiable(average_mean, average_variance)
        return affine(x, slopes, offsets).to(x.dtype), average_mean, average_variance

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor, *_averages: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        x, reference, mean, center, inverse_std, slope, slopes = ctx.saved_tensors
        sums, products = row_sums(gradient, x, reference.expand_as(slopes))
        of_groups = ctx.groups.outputs.transposed(torch.cat((sums, products), 1))
        of_mean, of_variance = of_groups.chunk(2, 1)  # G and K, then their products with numbers of the group
        of_variance.addcmul_(mean, of_mean, value=-1).mul_(inverse_std)
        grad_bias, grad_weight = of_groups.sum(0).chunk(2) if ctx.is_affine else (None, None)
        slope = slope * (-1 / x.shape[2:].numel())
        of_variance.mul_(slope).mul_(inverse_std)
        of_mean.mul_(slope).addcmul_(of_variance, center, value=-1)
        offsets, x_slopes = ctx.groups.statistics.transposed(of_groups).chunk(2, 1)
        grad_x = combined(gradient, slopes, x, x_slopes, offsets).to(x.dtype)
        return grad_x, grad_weight, grad_bias, None, None


@dataclass(frozen=True)
class _Groups:
    """What the composition of a batch says of its groups.

    Attributes:
        statistics: M [r, N], the share of a sample in the statistics of a group.
        outputs: U [N, r], the share of a group in the output of a sample.
    """

    statistics: Mixture
    outputs: Mixture


@cache
def _groups(num_current: int, num_memory: int, num_groups: int, device: torch.device, dtype: torch.dtype) -> _Groups:
    member = torch.ones(num_groups, num_current + num_memory, dtype=dtype)
    member[:, :num_current] = torch.eye(num_groups).repeat(1, num_current // num_groups)
    statistics = member / member.sum(1, keepdim=True)
    return _Groups(Mixture.of(statistics, device), Mixture.of((member / member.sum(0)).t(), device))


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
