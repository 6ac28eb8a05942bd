"""Moments, sums and affine maps of the rows of feature maps [N, C, H, W], a row being one channel of one sample.

Layers that mix the statistics of samples in their own way (TBBN, AdaB2N, SN) are mathematics of small tables [N, C]
between these operations, which are the only ones to touch the maps. They read them as they lie, contiguous or
channels-last, and what they give lies so too. Tables are at least in float32. Nothing here is known to autograd.
"""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from .base import at_least_single

_CACHED_VALUES = 2**16  # a quarter of a megabyte


def row_moments(x: Tensor, *, correction: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and variance of every row: two tables [N, C]; the variance is divided by the pixels less `correction`."""
    x = at_least_single(x)
    if x.is_cuda:
        variances, means = torch.var_mean(x, (2, 3), correction=correction)
        return means, variances
    # On the CPU var_mean is not vectorised; these three passes are, and take a tenth of its time. The last two go part
    # by part, so that what lies between them stays in the cache.
    means = x.mean((2, 3))
    parts = (part - spread(centers) for part, centers in _parts(x, means))
    if x.is_contiguous():  # the fastest sum of squares there, and the slowest in channels-last
        sums = torch.cat([torch.linalg.vector_norm(part, dim=(2, 3)) for part in parts]).square_()
    else:
        sums = torch.cat([part.square_().sum((2, 3)) for part in parts])
    return means, sums.div_(x.shape[2:].numel() - correction)


def affine(x: Tensor, slopes: Tensor, offsets: Tensor, *, times: float = 1.0) -> Tensor:
    """times · slopes · x + offsets, of the type of the tables; these are [N, C], or [C] where samples do not differ."""
    if x.is_cuda:
        return torch.addcmul(spread(offsets), x, spread(slopes), value=times)
    # On the CPU addcmul with two tables is not vectorised.
    return torch.mul(x, spread(times * slopes)).add_(spread(offsets))


def combined(gradient: Tensor, slopes: Tensor, x: Tensor, x_slopes: Tensor, offsets: Tensor) -> Tensor:
    """slopes · gradient + x_slopes · x + offsets, of the type of the tables, which are [N, C] or [C]."""
    return affine(x, x_slopes, offsets).addcmul_(gradient, spread(slopes))


def row_sums(gradient: Tensor, x: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Σ g and Σ g · (x - center) over every row: two tables [N, C], of gradients g [N, C, H, W] and centers [N, C]."""
    x, gradient = at_least_single(x), at_least_single(gradient)
    if not x.is_contiguous():
        parts = _parts(x, gradient, centers)
        products = [(part - spread(center)).mul_(factor).sum((2, 3)) for part, factor, center in parts]
        return gradient.sum((2, 3)), torch.cat(products)
    # The sums that batch normalization needs for the gradients of its scale and shift, with a "channel" for every row.
    ones = _one(centers.device, centers.dtype).expand(centers.numel())
    _, products, sums = torch.ops.aten.native_batch_norm_backward(
        _as_channels(gradient.contiguous()),
        _as_channels(x),
        ones,  # a scale is not used, but the kernels for GPUs take the type of their results from it
        None,
        None,
        centers.reshape(-1),
        ones,
        True,
        0.0,
        [False, True, True],
    )
    return sums.view(centers.shape), products.view(centers.shape)


def _parts(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some samples after others, of all tensors, few enough for maps to stay in the cache; on a GPU all of them."""
    num_together = len(x) if x.is_cuda else max(1, _CACHED_VALUES * len(x) // max(1, x.numel()))
    return zip(*(each.split(num_together) for each in (x, *others)), strict=True)


@cache
def _one(device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.ones(1, device=device, dtype=dtype)


def _as_channels(x: Tensor) -> Tensor:
    return x.view(1, -1, *x.shape[2:])


def spread(tables: Tensor) -> Tensor:
    """[…, C] -> […, C, 1, 1], to go with feature maps."""
    return tables[..., None, None]
