"""Batch renormalization."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import _fused_rows
from .base import RunningNorm, at_least_single, statistics_of, table_type, track
from .context import constant, send
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
    fused_on = ("cpu", "cuda")
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

    def normalize_at_once(self, x: Tensor, added: Tensor | None, rectified: bool) -> Tensor | None:
        sizes = self.batch_sizes or (len(x),)
        running = self.running_mean, self.running_std, self.num_batches_tracked
        limits = _limits(x.device, table_type(x))
        kind = _fused_rows.Renormalized(self.eps, sizes, *running, self.momentum, limits)
        if not _fused_rows.takes(kind, x, added, self.weight, self.bias):
            return None
        self.num_batches_tracked.add_(len(sizes))
        return _fused_rows.normalize(kind, x, self.weight, self.bias, added=added, rectified=rectified)

    def normalize_batch(self, x: Tensor) -> Tensor:
        return self._renormalize(x, (len(x),))

    def normalize_batches(self, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
        return self._renormalize(x, sizes)

    def _renormalize(self, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
        num_before = self.num_batches_tracked[None]
        if len(sizes) > 1:
            num_before = num_before + _numbers(len(sizes), num_before.device)
        limits = correction_limits(num_before, self.running_std.dtype)
        self.num_batches_tracked.add_(len(sizes))
        running = self.running_mean, self.running_std
        return _Renormalize.apply(x, self.weight, self.bias, running, limits, self.eps, self.momentum, sizes)

    def normalize_running(self, x: Tensor) -> Tensor:
        variance = self.running_std.square()
        # Some versions of F.batch_norm refuse an eps of 0.
        return torch.native_batch_norm(x, self.weight, self.bias, self.running_mean, variance, False, 0.0, 0.0)[0]


class _Renormalize(Function):
    """y = γ (r (x - μ) / σ + d) + β with σ = s + eps, for every batch of x; s is its standard deviation.

    r = σ / R_σ and d = (μ - R_μ) / R_σ, within their limits; after each batch R_μ and R_σ move towards its μ and σ.
    Tables are [batches, C].

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
        momentum: float,
        sizes: tuple[int, ...],
    ) -> Tensor:
        batches = x.split(sizes)
        mean, deviation = _means_and_deviations(batches)
        measures = mean.new_empty(2, *mean.shape)
        std, _ = measures.unbind(0)
        torch.add(deviation, eps, out=std)
        ratio, shift = corrections = _corrections(measures, mean, running, momentum).clamp_(*limits)
        zeros, smallest = _constants(mean.shape[1], mean.device, mean.dtype)
        variance = torch.addcmul(smallest, deviation, std)
        inverse = variance.rsqrt()
        ratio.div_(std * inverse)
        scale, offset = corrections
        if weight is not None and bias is not None:
            scale, offset = torch._foreach_addcmul((zeros, bias), (weight, weight), (ratio, shift))
        tables = zip(batches, scale, offset, mean, variance, strict=True)
        ctx.save_for_backward(x, mean, inverse, scale, ratio, shift)
        ctx.is_affine, ctx.sizes = weight is not None, sizes
        return _joined([torch.native_batch_norm(*values, False, 0.0, 0.0)[0] for values in tables])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, scale, ratio, shift = ctx.saved_tensors
        tables = zip(gradient.split(ctx.sizes), x.split(ctx.sizes), scale, mean, inverse, strict=True)
        grads_x, *grads = zip(*(_backward(*values) for values in tables), strict=True)
        grad_weight = grad_bias = None
        if ctx.is_affine:
            products, sums = map(_stacked, grads)
            grad_weight, grad_bias = _summed(torch.addcmul(shift * sums, products, ratio)), _summed(sums)
        return _joined(grads_x), grad_weight, grad_bias, None, None, None, None, None


def _means_and_deviations(batches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and biased standard deviation of every channel of each batch, two tables [batches, C]."""
    batches = [at_least_single(batch) for batch in batches]
    if batches[0].is_cuda:
        deviations, means = zip(*(torch.std_mean(batch, (0, 2, 3), correction=0) for batch in batches), strict=True)
        return _stacked(means), _stacked(deviations)
    # std_mean is not vectorised on the CPU.
    means, variances = zip(*(torch.batch_norm_update_stats(batch, None, None, 0.0) for batch in batches), strict=True)
    return _stacked(means), _stacked(variances).sqrt_()


def _corrections(measures: Tensor, means: Tensor, running: tuple[Tensor, Tensor], momentum: float) -> Tensor:
    """r and d without their limits, [2, batches, C]; the running statistics move on from batch to batch.

    Args:
        measures: [2, batches, C], of which the first half is the standard deviations.
        means: [batches, C].
        running: mean and standard deviation, [C].
        momentum: of the running statistics.
    """
    running_mean, running_std = running
    corrections = torch.empty_like(measures)
    for mean, measure, correction in zip(means, measures.unbind(1), corrections.unbind(1), strict=True):
        torch.sub(mean, running_mean, out=measure[1])
        torch.div(measure, running_std, out=correction)
        track(running, (mean, measure[0]), momentum)
    return corrections


# What is done for each batch costs nothing where there is one.


def _joined(maps: Sequence[Tensor]) -> Tensor:
    return torch.cat(tuple(maps)) if len(maps) > 1 else maps[0]


def _stacked(values: Sequence[Tensor]) -> Tensor:
    """[C] of each batch -> [batches, C]."""
    return torch.stack(tuple(values)) if len(values) > 1 else values[0][None]


def _summed(table: Tensor) -> Tensor:
    """[batches, C] -> [C]."""
    return table.sum(0) if len(table) > 1 else table[0]


def _backward(gradient: Tensor, x: Tensor, scale: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, ...]:
    """Batch normalization's gradients of its input, its scale and its shift."""
    return torch.ops.aten.native_batch_norm_backward(
        gradient, x, scale, None, None, mean, inverse, True, 0.0, [True, True, True]
    )


@constant
def _numbers(end: int, device: torch.device) -> Tensor:
    return send(torch.arange(end, device="cpu"), device)


@constant
def _constants(num_features: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Zeros [C], and a number [] far below any variance, so that 0 is not divided by."""
    return torch.zeros(num_features, dtype=dtype, device=device), torch.full((), 1e-30, dtype=dtype, device=device)


def correction_limits(num_forwards: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Lowest and highest values of r and d after so many training forwards: 1/r_max and -d_max, r_max and d_max.

    r_max grows from 1 to 3 and d_max from 0 to 5, beginning at 5000 forwards.

    Args:
        num_forwards: [N] int64.
        dtype: of the results [2, N, 1].
    """
    limits = _limits(num_forwards.device, dtype)
    lowest, highest = torch.embedding(limits, num_forwards.clamp(max=len(limits) - 1)).t()[..., None].chunk(2)
    return lowest, highest


@constant
def _limits(device: torch.device, dtype: torch.dtype) -> Tensor:
    """1/r_max, -d_max, r_max and d_max for every number of training forwards up to the last that changes them."""
    num_forwards = torch.arange(40001, dtype=torch.float64, device="cpu")
    ratios, shifts = (2 / 35000 * num_forwards + 25 / 35).clamp(1, 3), (5 / 20000 * num_forwards - 25 / 20).clamp(0, 5)
    return send(torch.stack((1 / ratios, -shifts, ratios, shifts), 1).to(dtype), device)
