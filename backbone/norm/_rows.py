"""Moments, sums and affine maps of the rows of feature maps [N, C, H, W], a row being one channel of one sample.

Layers that mix the statistics of samples in their own way (TBBN, AdaB2N, SN) are mathematics of small tables [N, C]
between these operations, which are the only ones to touch the maps. They read them as they lie, contiguous or
channels-last, and what they give lies so too. Tables are at least in float32. Nothing here is known to autograd.
"""

from functools import cache

import torch
from torch import Tensor

from .base import at_least_single

_CACHED_VALUES = 2**17  # half a megabyte


def row_moments(x: Tensor, *, correction: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and variance of every row: two tables [N, C]; the variance is divided by the pixels less `correction`."""
    x = at_least_single(x)
    if x.is_cuda:
        variances, means = torch.var_mean(x, (2, 3), correction=correction)
        return means, variances
    # On the CPU var_mean is not vectorised; this is, part by part, so that a part is in the cache when read again.
    num_together = max(1, _CACHED_VALUES * len(x) // max(1, x.numel()))
    means, squares = (torch.cat(tables) for tables in zip(*map(_means_and_squares, x.split(num_together)), strict=True))
    return means, squares.div_(x.shape[2:].numel() - correction)


def _means_and_squares(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of every row, and the sum of squared distances from it."""
    means = x.mean((2, 3))
    return means, torch.ops.aten.mse_loss(x, spread(means), 0).sum((2, 3))


def affine(x: Tensor, slopes: Tensor, offsets: Tensor, *, times: float = 1.0) -> Tensor:
    """times · slopes · x + offsets, of the type of the tables; these are [N, C], or [C] where samples do not differ."""
    if x.is_cuda or not x.is_contiguous():
        return torch.addcmul(spread(offsets), x, spread(slopes), value=times)
    # On the CPU addcmul is not vectorised where a row is all pixels of a channel.
    return torch.mul(x, spread(times * slopes)).add_(spread(offsets))


def combined(
    gradient: Tensor, slopes: Tensor, x: Tensor, x_slopes: Tensor, offsets: Tensor, *, times: float = 1.0
) -> Tensor:
    """slopes · gradient + times · x_slopes · x + offsets, of the type of the tables, which are [N, C] or [C]."""
    return affine(x, x_slopes, offsets, times=times).addcmul_(gradient, spread(slopes))


def row_sums(gradient: Tensor, x: Tensor, centers: Tensor, scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Σ g and Σ g · (x - center) · scale over every row: two tables [N, C], of gradients g [N, C, H, W].

    Args:
        gradient, x: maps.
        centers: [N, C].
        scales: [N, C]; None is 1.
    """
    x, gradient = at_least_single(x), at_least_single(gradient)
    if not x.is_contiguous():
        sums = gradient.sum((2, 3))
        products = (gradient * x).sum((2, 3)).addcmul_(sums, centers, value=-1)
        return sums, products if scales is None else products.mul_(scales)
    # The sums that batch normalization needs for the gradients of its scale and shift, with a "channel" for every row.
    ones = _one(centers.device, centers.dtype).expand(centers.numel())
    _, products, sums = torch.ops.aten.native_batch_norm_backward(
        _as_channels(gradient.contiguous()),
        _as_channels(x),
        ones,  # a scale is not used, but the kernels for GPUs take the type of their results from it
        None,
        None,
        centers.reshape(-1),
        ones if scales is None else scales.reshape(-1),
        True,
        0.0,
        [False, True, True],
    )
    return sums.view(centers.shape), products.view(centers.shape)


@cache
def _one(device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.ones(1, device=device, dtype=dtype)


def _as_channels(x: Tensor) -> Tensor:
    return x.view(1, -1, *x.shape[2:])


def spread(tables: Tensor) -> Tensor:
    """[…, C] -> […, C, 1, 1], to go with feature maps."""
    return tables.unsqueeze(-1).unsqueeze(-1)
