"""Task-balanced batch normalization."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import _fused
from ._mixture import Mixture
from ._rows import affine, row_points, row_sums, zero_and_one
from .base import at_least_single, table_type, track
from .context import ContextNorm, constant, send
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

    fused_on = ("cpu", "cuda")
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
        groups = self._groups_of(x)
        if groups is None:
            self.settle()  # an earlier forward in this context may have had groups
            self.num_batches_tracked.add_(1)
            # Behind autograd's back, as the update of many layers: no graph that waits for its backward uses them.
            running = self.running_mean.data, self.running_var.data
            return F.batch_norm(x, *running, self.weight, self.bias, True, self.momentum, self.eps)
        y, centers, inverse_stds = _NormalizeGroups.apply(x, self.weight, self.bias, groups, self.eps)
        self.note((centers, inverse_stds, groups.unbiased))
        return y

    def normalize_at_once(self, x: Tensor, added: Tensor | None, rectified: bool) -> Tensor | None:
        if self.batch_sizes is not None or not _fused.uses_fused_kernels(x.device):
            return None
        groups, running = self._groups_of(x), None
        if not _fused.takes(self, x, added, (len(x),), num_groups=1 if groups is None else groups.number):
            return None
        if groups is None:
            self.settle()
            running = _fused.Running(
                self.running_mean.data, self.running_var.data, self.num_batches_tracked, self.momentum
            )
        mixing = _fused.batches((len(x),), x.device, table_type(x)) if groups is None else groups.mixing
        y, statistics, inverse_stds = _fused.normalize(
            x, mixing, self.weight, self.bias, self.eps, added=added, rectified=rectified, running=running
        )
        if groups is not None:
            self.note((statistics[0].detach(), inverse_stds, groups.unbiased))
        return y

    def _groups_of(self, x: Tensor) -> "_Groups | None":
        """The groups of this batch; None if it is one."""
        context = self.context_of(x)
        num_current = len(x) if context is None else context.num_current
        num_memory = len(x) - num_current
        num_groups = num_balanced_groups(num_current, num_memory, self.task)
        if num_groups == 1:
            return None
        return _groups(num_current, num_memory, num_groups, x.shape[2:].numel(), x.device, table_type(x))

    @classmethod
    @torch.no_grad()
    def update_running(cls, layers: Sequence["TBBN"]) -> None:
        centers, inverse_stds, unbiased = zip(*(layer.noted for layer in layers), strict=True)
        sizes = [layer.num_features for layer in layers]
        means = torch.cat(centers, 1).mean(0).split(sizes)
        variances = torch.cat(inverse_stds, 1).pow_(-2).mean(0).sub_(layers[0].eps).split(sizes)
        torch._foreach_mul_(variances, unbiased)
        running = [layer.running_mean.data for layer in layers] + [layer.running_var.data for layer in layers]
        track(running, means + variances, layers[0].momentum)
        torch._foreach_add_([layer.num_batches_tracked for layer in layers], 1)


class _NormalizeGroups(Function):
    """y_i = Σ_s U_is [γ k_s (x_i - μ_s) + β] with k_s = 1/√(v_s + eps), and tables [r, C] of μ_s and k_s.

    μ_s and v_s are mean and variance over the group's members of two points each, m_i ∓ s_i with the mean and the
    standard deviation over the sample's map, which stand for all its pixels.

    Backward: g is the gradient of y, its products are summed over the pixels. A group gets G_s = Σ_i U_is g_i and
    K_s = Σ_i U_is g_i (x_i - μ_s); hence dβ = Σ_s G_s, dγ = Σ_s k_s K_s, dμ_s = -γ k_s G_s, dv_s = -γ k_s³ K_s / 2.
    With the share M_si of a member in its group, ∂μ_s/∂x_i = M_si / HW and ∂v_s/∂x_i = 2 M_si (x_i - μ_s) / HW, so that
    dx_i = Σ_s U_is γ k_s g_i - Σ_s M_si γ k_s (G_s + k_s² K_s (x_i - μ_s)) / HW.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: "_Groups", eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype, x = x.dtype, at_least_single(x)
        y = torch.empty_like(x)
        points = row_points(x, y).index_select(0, groups.members)
        num_groups, num_channels, none = groups.number, x.shape[1], (None, None)
        _, center, inverse_std = torch.native_batch_norm(
            points.view(-1, num_groups * num_channels), *none, *none, True, 0.0, eps
        )
        center, inverse_std = center.view(num_groups, -1), inverse_std.view(num_groups, -1)
        zero, one = zero_and_one(x.device, x.dtype)
        lines = points.new_empty(2 * num_groups, num_channels)
        slope, offset = lines.chunk(2)
        torch.mul(inverse_std, one if weight is None else weight, out=slope)
        torch.addcmul(zero if bias is None else bias, slope, center, value=-1, out=offset)
        slopes, offsets = groups.outputs(lines).view(2, *x.shape[:2], 1, 1).unbind(0)
        ctx.save_for_backward(x, center, inverse_std, slope, slopes)
        ctx.groups, ctx.is_affine = groups, weight is not None
        ctx.mark_non_differentiable(center, inverse_std)
        return affine(x, slopes, offsets, y).to(dtype), center, inverse_std

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor, *_statistics: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        x, center, inverse_std, slope, slopes = ctx.saved_tensors
        dtype, x, gradient = x.dtype, at_least_single(x), at_least_single(gradient)
        grad_x = torch.empty_like(x)
        of_groups = ctx.groups.received(row_sums(gradient, x, grad_x).flatten(0, 1)).view(2, *center.shape)
        of_means, of_deviations = of_groups.unbind(0)  # G and K, then their products with numbers of the group
        of_deviations.addcmul_(of_means, center, value=-1).mul_(inverse_std)
        grad_bias, grad_weight = of_groups.sum(1).unbind(0) if ctx.is_affine else (None, None)
        of_groups.mul_(slope)
        of_deviations.mul_(inverse_std)
        of_means.addcmul_(of_deviations, center, value=-1)
        offsets, x_slopes = ctx.groups.passed(of_groups.flatten(0, 1)).view(2, *slopes.shape).unbind(0)
        grad_x = affine(x, x_slopes, offsets, grad_x).addcmul_(gradient, slopes).to(dtype)
        return grad_x, grad_weight, grad_bias, None, None


@dataclass(frozen=True)
class _Groups:
    """What the composition of a batch says of its groups.

    Attributes:
        number: r.
        members: numbers of the points, of [2 N], that belong to the groups: the first of each group, the second, …
        outputs: U [N, r], the share of a group in the output of a sample.
        received: its transpose, the share of a sample's gradient that a group gets.
        passed: -Mᵀ / HW [N, r], by which what comes to a group comes to a pixel of a sample.
        mixing: both matrices as they are.
        unbiased: n / (n - 1) for n values in a group, by which its variance becomes unbiased.
    """

    number: int
    members: Tensor
    outputs: Mixture
    received: Mixture
    passed: Mixture
    mixing: _fused.Mixing
    unbiased: float


@constant
def _groups(
    num_current: int, num_memory: int, num_groups: int, num_pixels: int, device: torch.device, dtype: torch.dtype
) -> _Groups:
    num_samples = num_current + num_memory
    member = torch.ones(num_groups, num_samples, dtype=dtype, device="cpu")
    member[:, :num_current] = torch.eye(num_groups, device="cpu").repeat(1, num_current // num_groups)
    members = member.nonzero()[:, 1].view(num_groups, -1).t()
    outputs = (member / member.sum(0)).t()
    shares = member / member.sum(1, keepdim=True)
    passed = (shares / -num_pixels).t()
    num_values = (num_current // num_groups + num_memory) * num_pixels  # of a group
    return _Groups(
        number=num_groups,
        members=send(torch.cat((members, members + num_samples)).flatten(), device),
        outputs=Mixture.of(outputs, device),
        received=Mixture.of(outputs.t(), device),
        passed=Mixture.of(passed, device),
        mixing=_fused.Mixing(send(shares, device), send(outputs.contiguous(), device)),
        unbiased=num_values / (num_values - 1),
    )


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
