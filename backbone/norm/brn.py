"""Batch renormalization."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .base import RunningNorm, at_least_single, statistics_of, track
from .context import send
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
        running = self.running_mean, self.running_std
        limits = correction_limits(self.num_batches_tracked, self.running_std.dtype)
        self.num_batches_tracked.add_(1)
        y, mean, std = _Renormalize.apply(x, self.weight, self.bias, running, limits, self.eps)
        track(running, (mean, std), self.momentum)
        return y

    def normalize_running(self, x: Tensor) -> Tensor:
        variance = self.running_std.square()
        # Some versions of F.batch_norm refuse an eps of 0.
        return torch.native_batch_norm(x, self.weight, self.bias, self.running_mean, variance, False, 0.0, 0.0)[0]


class _Renormalize(Function):
    """y = γ (r (x - μ) / σ + d) + β with σ = s + eps, and μ and σ; s is the standard deviation.

    r = σ / R_σ and d = (μ - R_μ) / R_σ, within their limits.

    Backward: g is the gradient of y, its products are summed over samples and pixels, n values. dβ = Σ g and
    dγ = r / σ Σ g (x - μ) + d Σ g. By ∂s/∂x = (x - μ) / (n s), which is 0 for s = 0,
    dx = γ r / σ (g - Σ g / n - (x - μ) Σ g (x - μ) / (n σ s)). That is batch normalization, forward and backward, with
    k = 1/√(σ s) for the inverse standard deviation and γ r / (k σ) for the scale.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor, Tensor],
        limits: tuple[Tensor, Tensor],
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        running_mean, running_std = running
        mean, deviation = _mean_and_deviation(at_least_single(x))
        measures = mean.new_empty(2, len(mean))
        std, difference = measures.unbind(0)
        torch.add(deviation, eps, out=std)
        torch.sub(mean, running_mean, out=difference)
        ratio, shift = corrections = torch.div(measures, running_std).clamp_(*limits)
        zeros, smallest = _constants(len(mean), mean.device, mean.dtype)
        variance = torch.addcmul(smallest, deviation, std)
        inverse = variance.rsqrt()
        ratio.div_(std * inverse)
        scale, offset = corrections
        if weight is not None and bias is not None:
            scale, offset = torch._foreach_addcmul((zeros, bias), (weight, weight), (ratio, shift))
        y = torch.native_batch_norm(x, scale, offset, mean, variance, False, 0.0, 0.0)[0]
        ctx.save_for_backward(x, mean, inverse, scale, ratio, shift)
        ctx.is_affine = weight is not None
        ctx.mark_non_differentiable(mean, std)
        return y, mean, std

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_statistics: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, scale, ratio, shift = ctx.saved_tensors
        grad_x, products, sums = torch.ops.aten.native_batch_norm_backward(
            gradient, x, scale, None, None, mean, inverse, True, 0.0, [True, True, True]
        )
        grads = (torch.addcmul(shift * sums, products, ratio), sums) if ctx.is_affine else (None, None)
        return grad_x, *grads, None, None, None


def _mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased standard deviation of every channel, [C]."""
    if x.is_cuda:
        deviation, mean = torch.std_mean(x, (0, 2, 3), correction=0)
        return mean, deviation
    mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)  # std_mean is not vectorised on the CPU
    return mean, variance.sqrt_()


@cache
def _constants(num_features: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Zeros [C], and a number [] far below any variance, so that 0 is not divided by."""
    return torch.zeros(num_features, dtype=dtype, device=device), torch.full((), 1e-30, dtype=dtype, device=device)


def correction_limits(num_forwards: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Lowest and highest values of r and d after so many training forwards: [1/r_max, -d_max] and [r_max, d_max].

    r_max grows from 1 to 3 and d_max from 0 to 5, beginning at 5000 forwards.

    Args:
        num_forwards: [...] int64.
        dtype: of the results [..., 2, 1].
    """
    limits = _limits(num_forwards.device, dtype)
    lowest, highest = torch.embedding(limits, num_forwards.clamp(max=len(limits) - 1))[..., None].chunk(2, -2)
    return lowest, highest


@cache
def _limits(device: torch.device, dtype: torch.dtype) -> Tensor:
    """1/r_max, -d_max, r_max and d_max for every number of training forwards up to the last that changes them."""
    num_forwards = torch.arange(40001, dtype=torch.float64)
    ratios, shifts = (2 / 35000 * num_forwards + 25 / 35).clamp(1, 3), (5 / 20000 * num_forwards - 25 / 20).clamp(0, 5)
    return send(torch.stack((1 / ratios, -shifts, ratios, shifts), 1).to(dtype), device)
