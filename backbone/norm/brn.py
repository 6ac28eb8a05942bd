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
    """y = γ ((x - μ) / σ_r + d) + β with σ_r = σ / r and σ = s + eps, and μ and σ; s is the standard deviation.

    r = σ / R_σ within [1/r_max, r_max], so that σ_r is R_σ within [σ/r_max, σ · r_max]. d = (μ - R_μ) / R_σ within
    [-d_max, d_max].

    Backward: g is the gradient of y, its products are summed over samples and pixels, n values. dβ = Σ g and
    dγ = Σ g (x - μ) / σ_r + d Σ g. By ∂s/∂x = (x - μ) / (n s), which is 0 for s = 0,
    dx = γ / σ_r (g - Σ g / n - (x - μ) Σ g (x - μ) / (n σ s)). That is the backward pass of batch normalization with
    1/√(σ s) for the inverse standard deviation and γ √(σ s) / σ_r for the scale.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor, Tensor],
        limits: tuple[Tensor, Tensor, Tensor],
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        running_mean, running_std = running
        largest_ratio, largest_shift, smallest_shift = limits
        mean, variance = torch.batch_norm_update_stats(at_least_single(x), None, None, 0.0)
        deviation = variance.sqrt()
        std = deviation + eps
        scale = running_std.clamp(std / largest_ratio, std * largest_ratio)
        shift = ((mean - running_mean) / running_std).clamp(smallest_shift, largest_shift)
        ctx.save_for_backward(x, weight, mean, deviation, std, scale, shift)
        ctx.mark_non_differentiable(mean, std)
        offset = shift if weight is None or bias is None else torch.addcmul(bias, weight, shift)
        y = torch.native_batch_norm(x, weight, offset, mean, scale.square(), False, 0.0, 0.0)[0]
        return y, mean, std

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_statistics: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, deviation, std, scale, shift = ctx.saved_tensors
        inverse = (std * deviation).clamp_min_(1e-30).rsqrt_()
        ratio = inverse * scale
        effective = ratio.reciprocal() if weight is None else weight / ratio
        grad_x, products, sums = torch.ops.aten.native_batch_norm_backward(
            gradient, x, effective, None, None, mean, inverse, True, 0.0, [True, True, True]
        )
        grads = (None, None) if weight is None else (torch.addcdiv(shift * sums, products, ratio), sums)
        return grad_x, *grads, None, None, None


def correction_limits(num_forwards: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """r_max, d_max and -d_max after so many training forwards: from 1 to 3 and from 0 to 5, beginning at 5000.

    Args:
        num_forwards: [...] int64.
        dtype: of the results [...].
    """
    slopes, offsets, lowest, highest = _limits(num_forwards.device, dtype)
    limits = torch.addcmul(offsets, num_forwards[..., None], slopes).clamp(lowest, highest)
    largest_ratio, largest_shift, smallest_shift = limits.unbind(-1)
    return largest_ratio, largest_shift, smallest_shift


@cache
def _limits(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Slope, offset, lowest and highest value of r_max, d_max and -d_max."""
    ratio, shift = (2 / 35000, 25 / 35, 1, 3), (5 / 20000, -25 / 20, 0, 5)
    return send(torch.tensor([ratio, shift, (-shift[0], -shift[1], -5, 0)], dtype=dtype).t(), device).unbind(0)
