"""Tables [N, C] between two passes over maps, in PyTorch's operations (`_fused_rows.py` has the mathematics).

All tables have a number for every row. A mean over channels or samples is there for each row that it is of.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ._fused_rows import Continual, Grouped, Kind, Parameters, Renormalized, Switchable
from .base import track

Average = Callable[[Tensor], Tensor]


def make_tables(kind: Kind, table: Tensor, num_pixels: int, *parameters: Tensor | None) -> tuple[Tensor, ...]:
    """A and B, and what the backward pass needs; the running statistics are brought up to date.

    Args:
        kind: of the layer.
        table: means and variances of rows, [2, N, C].
        num_pixels: HW.
        parameters: of the layer.
    """
    return _FORWARD[type(kind)](kind, table, num_pixels, *parameters)


def make_gradients(
    kind: Kind, table: Tensor, sums: Tensor, num_pixels: int, kept: tuple[Tensor, ...], *parameters: Tensor | None
) -> tuple[tuple[Tensor, Tensor, Tensor], Parameters]:
    """α, δ and ε, and the gradients of the parameters.

    Args:
        kind, table, num_pixels: as of the forward pass.
        parameters: of the layer, less β.
        sums: S and T, [2, N, C].
        kept: of the forward pass.
    """
    return _BACKWARD[type(kind)](kind, table, sums, num_pixels, kept, *parameters)


def _of_groups(number: int) -> Average:
    """The mean over a group of channels."""

    def average(values: Tensor) -> Tensor:
        groups = values.unflatten(1, (number, -1))
        return groups.mean(2, keepdim=True).expand_as(groups).flatten(1)

    return average


def _of_batches(sizes: tuple[int, ...]) -> Average:
    """The mean over the samples of a batch."""

    def average(values: Tensor) -> Tensor:
        return torch.cat([batch.mean(0, keepdim=True).expand_as(batch) for batch in values.split(sizes)])

    return average


class _Step(NamedTuple):
    """k (x - mean) with k = 1/√(variance + eps).

    Attributes:
        distances: m - mean.
        inverse_std: k.
    """

    distances: Tensor
    inverse_std: Tensor

    @classmethod
    def of(cls, means: Tensor, variances: Tensor, average: Average, eps: float) -> tuple["_Step", Tensor, Tensor]:
        """The step, and its mean and variance."""
        mean = average(means)
        distances = means - mean
        variance = average(torch.addcmul(variances, distances, distances))
        return cls(distances, (variance + eps).rsqrt()), mean, variance

    def products(self, sums: Tensor, products: Tensor) -> Tensor:
        """K."""
        return torch.addcmul(products, self.distances, sums)

    def pass_back(self, sums: Tensor, products: Tensor, average: Average) -> tuple[Tensor, Tensor]:
        """δ and ε by the mean and the variance, of what has the sums S and T."""
        of_variance = average(self.products(sums, products)) * self.inverse_std.pow(3) * -0.5
        return torch.addcmul(-self.inverse_std * average(sums), self.distances, of_variance, value=2), 2 * of_variance


def _affine(slope: Tensor, distances: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """A and B of k or r / σ, and of what becomes of m, less scale and shift."""
    if weight is None or bias is None:
        return slope, distances
    return slope * weight, torch.addcmul(bias, distances, weight)


def _scaled(values: Tensor, weight: Tensor | None) -> Tensor:
    return values if weight is None else values * weight


def _of_parameters(weight: Tensor | None, of_weight: Tensor, sums: Tensor) -> Parameters:
    """Gradients of scale and shift, by what rows add to them."""
    return (None, None) if weight is None else (of_weight.sum(0), sums.sum(0))


def _grouped(
    kind: Grouped, table: Tensor, num_pixels: int, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    step, *_ = _Step.of(table[0], table[1], _of_groups(kind.number), kind.eps)
    return *_affine(step.inverse_std, step.inverse_std * step.distances, weight, bias), *step


def _grouped_back(
    kind: Grouped,
    table: Tensor,
    sums: Tensor,
    num_pixels: int,
    kept: tuple[Tensor, ...],
    weight: Tensor | None,
) -> tuple[tuple[Tensor, Tensor, Tensor], Parameters]:
    step = _Step(*kept)
    scaled = _scaled(sums, weight)
    of_steps = step.pass_back(scaled[0], scaled[1], _of_groups(kind.number))
    of_weight = step.inverse_std * step.products(*sums)
    return (_scaled(step.inverse_std, weight), *of_steps), _of_parameters(weight, of_weight, sums[0])


def _continual(
    kind: Continual, table: Tensor, num_pixels: int, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    means, variances = table
    inner, *_ = _Step.of(means, variances, _of_groups(kind.number), kind.eps)
    means, variances = inner.inverse_std * inner.distances, inner.inverse_std.square() * variances
    outer, mean, variance = _Step.of(means, variances, _of_batches(kind.sizes), kind.eps)
    running = kind.running
    running.num_tracked.add_(len(kind.sizes))
    for size, first in _batches(kind.sizes):
        unbiased = size * num_pixels / (size * num_pixels - 1)
        track((running.mean, running.variance), (mean[first], unbiased * variance[first]), running.momentum)
    slope = outer.inverse_std * inner.inverse_std
    return *_affine(slope, outer.inverse_std * outer.distances, weight, bias), *inner, *outer


def _continual_back(
    kind: Continual,
    table: Tensor,
    sums: Tensor,
    num_pixels: int,
    kept: tuple[Tensor, ...],
    weight: Tensor | None,
) -> tuple[tuple[Tensor, Tensor, Tensor], Parameters]:
    inner, outer = _Step(*kept[:2]), _Step(*kept[2:])
    totals, products = sums[0], inner.inverse_std * sums[1]
    offset, x_slope = outer.pass_back(_scaled(totals, weight), _scaled(products, weight), _of_batches(kind.sizes))
    slope, x_slope = _scaled(outer.inverse_std, weight), x_slope * inner.inverse_std
    of_weight = outer.inverse_std * outer.products(totals, products)
    passed = torch.addcmul(offset, slope, totals), torch.addcmul(slope * sums[1], x_slope, table[1])
    inner_offset, inner_x_slope = inner.pass_back(*passed, _of_groups(kind.number))
    coefficients = (
        inner.inverse_std * slope,
        torch.addcmul(inner_offset, inner.inverse_std, offset),
        torch.addcmul(inner_x_slope, inner.inverse_std, x_slope),
    )
    return coefficients, _of_parameters(weight, of_weight, totals)


def _renormalized(
    kind: Renormalized, table: Tensor, num_pixels: int, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    step, mean, variance = _Step.of(table[0], table[1], _of_batches(kind.sizes), 0.0)
    deviation = variance.sqrt()
    std = deviation + kind.eps
    ratio, shift = torch.empty_like(std), torch.empty_like(std)
    num_later = len(kind.sizes)
    for size, first in _batches(kind.sizes):
        number = (kind.num_tracked - num_later).clamp(max=len(kind.limits) - 1)
        lowest, highest = kind.limits.index_select(0, number[None]).view(2, 2).unbind(0)
        own, num_later = slice(first, first + size), num_later - 1
        ratio[own] = (std[first] / kind.running_std).clamp(lowest[0], highest[0])
        shift[own] = ((mean[first] - kind.running_mean) / kind.running_std).clamp(lowest[1], highest[1])
        track((kind.running_mean, kind.running_std), (mean[first], std[first]), kind.momentum)
    ratio.div_(std)
    inverse = torch.where(deviation > 0, (std * deviation).reciprocal(), 0)
    lines = _affine(ratio, torch.addcmul(shift, ratio, step.distances), weight, bias)
    return *lines, step.distances, ratio, shift, inverse


def _renormalized_back(
    kind: Renormalized,
    table: Tensor,
    sums: Tensor,
    num_pixels: int,
    kept: tuple[Tensor, ...],
    weight: Tensor | None,
) -> tuple[tuple[Tensor, Tensor, Tensor], Parameters]:
    distances, ratio, shift, inverse = kept
    average, slope = _of_batches(kind.sizes), _scaled(ratio, weight)
    products = torch.addcmul(sums[1], distances, sums[0])
    x_slope = slope * inverse * average(products).neg_()
    offset = torch.addcmul(x_slope * distances, slope, average(sums[0]), value=-1)
    of_weight = torch.addcmul(shift * sums[0], ratio, products)
    return (slope, offset, x_slope), _of_parameters(weight, of_weight, sums[0])


def _switchable(
    kind: Switchable,
    table: Tensor,
    num_pixels: int,
    weight: Tensor | None,
    bias: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
) -> tuple[Tensor, ...]:
    means, variances = table[0], table[1] * (num_pixels / (num_pixels - 1))
    instance = means, variances
    _, *layer = _Step.of(*instance, _of_groups(1), 0.0)
    _, *batch = _Step.of(*instance, _of_batches(kind.sizes), 0.0)
    for _, first in _batches(kind.sizes):
        track((kind.running_mean, kind.running_var), [values[first] for values in batch], kind.momentum)
    parts = torch.stack((torch.stack(instance), torch.stack(layer), torch.stack(batch)), 1)  # [2, 3, N, C]
    shares = torch.softmax(torch.stack((mean_logits, var_logits)).to(table.dtype), 1)
    center, variance = (shares[..., None, None] * parts).sum(1)
    step = _Step(means - center, (variance + kind.eps).rsqrt())
    return *_affine(step.inverse_std, step.inverse_std * step.distances, weight, bias), *step, parts, shares


def _switchable_back(
    kind: Switchable,
    table: Tensor,
    sums: Tensor,
    num_pixels: int,
    kept: tuple[Tensor, ...],
    weight: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
) -> tuple[tuple[Tensor, Tensor, Tensor], Parameters]:
    step, (parts, shares) = _Step(*kept[:2]), kept[2:]
    products = step.products(*sums)
    slope = _scaled(step.inverse_std, weight)
    grads = torch.stack((-slope * sums[0], -0.5 * slope * step.inverse_std.square() * products))  # dμ and dV
    differences = parts - parts[:, :1]  # a softmax passes back nothing of what all have in common
    of_shares = (grads[:, None] * differences).sum(3).sum(2)  # in the same order with any number of threads
    of_logits = torch.ops.aten._softmax_backward_data(of_shares, shares, 1, shares.dtype)
    averages = _of_groups(1), _of_batches(kind.sizes)
    passed = [grads, *(torch.stack([average(each) for each in grads]) for average in averages)]
    offset, of_variance = (shares[..., None, None] * torch.stack(passed, 1)).sum(1)
    for part in (1, 2):
        offset.addcmul_(passed[part][1] * shares[1, part], differences[0, part], value=-2)
    x_slope = of_variance * (2 * num_pixels / (num_pixels - 1))
    of_weight = step.inverse_std * products
    return (slope, offset, x_slope), (*_of_parameters(weight, of_weight, sums[0]), *of_logits.unbind(0))


def _batches(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """The size of every batch, and its first sample."""
    return [(size, sum(sizes[:number])) for number, size in enumerate(sizes)]


_FORWARD: dict[type, Callable[..., tuple[Tensor, ...]]] = {
    Grouped: _grouped,
    Continual: _continual,
    Renormalized: _renormalized,
    Switchable: _switchable,
}
_BACKWARD: dict[type, Callable[..., tuple[tuple[Tensor, Tensor, Tensor], Parameters]]] = {
    Grouped: _grouped_back,
    Continual: _continual_back,
    Renormalized: _renormalized_back,
    Switchable: _switchable_back,
}
