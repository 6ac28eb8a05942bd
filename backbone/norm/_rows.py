"""Moments, sums and affine maps of the rows of feature maps [N, C, H, W], a row being one channel of one sample.

Layers that mix the statistics of samples in their own way (TBBN, AdaB2N, SN) are mathematics of small tables [N, C]
between these operations, which are the only ones to touch the maps. They read them as they lie, contiguous or
channels-last. Maps and tables are at least in float32. What a map is needed for in between is written to `scratch`,
where a layer's result will be: memory that is new to the process costs as much as the operation. Nothing here is known
to autograd.
"""

import torch
from torch import Tensor

from .context import constant, send


def row_moments(x: Tensor, scratch: Tensor, *, correction: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and variance of every row: two tables [N, C]; the variance is divided by the pixels less `correction`."""
    if x.is_cuda:
        variances, means = torch.var_mean(x, (2, 3), correction=correction)
        return means, variances
    means = x.mean((2, 3))  # var_mean is not vectorised on the CPU
    variances = _squares(x, means, scratch).mean((2, 3))
    num_pixels = x.shape[2:].numel()
    return means, variances.mul_(num_pixels / (num_pixels - correction)) if correction else variances


def _squares(x: Tensor, centers: Tensor, scratch: Tensor) -> Tensor:
    """Squared distances from the centers of the rows, which are [N, C] or [C]."""
    return torch.ops.aten.mse_loss.out(x, spread(centers), 0, out=scratch)


def weighted_moments(x: Tensor, weights: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor, float, Tensor]:
    """Moments of rows that count by the weight of their sample.

    Args:
        x: maps [N, C, H, W].
        weights: w, [N].
        scratch: to write on, as `x`.

    Returns:
        The sum of every row and that of its squared distances from μ, [N, C] each, on a GPU already divided by the
        pixels; the factor with which these become its mean m_i and mean squared distance s_i; and the weighted mean
        μ = Σ_i w_i m_i and variance Σ_i w_i s_i, [2, C].
    """
    statistics = x.new_empty(2, x.shape[1])
    mean, variance = statistics.unbind(0)
    # Autocast rounds no matrix product that is written to a place given.
    if x.is_cuda:
        share = 1.0
        sums, squares = row_moments(x, scratch)
        mean.addmv_(sums.t(), weights, beta=0)
        deviations = sums - mean
        squares.addcmul_(deviations, deviations)
    else:
        share = 1 / x.shape[2:].numel()
        sums = x.sum((2, 3))
        mean.addmv_(sums.t(), weights, beta=0, alpha=share)
        squares = _squares(x, mean, scratch).sum((2, 3))
    variance.addmv_(squares.t(), weights, beta=0, alpha=share)
    return sums, squares, share, statistics


def row_points(x: Tensor, scratch: Tensor) -> Tensor:
    """Two numbers with the mean and the variance of every row, its mean less and plus its deviation: [2 N, C]."""
    if x.is_cuda:
        deviations, means = torch.std_mean(x, (2, 3), correction=0)
    else:
        means, variances = row_moments(x, scratch)
        deviations = variances.sqrt_()
    return torch.addcmul(means, deviations, _signs(means.device, means.dtype)).flatten(0, 1)


@constant
def _signs(device: torch.device, dtype: torch.dtype) -> Tensor:
    return send(torch.tensor([-1, 1], dtype=dtype, device="cpu")[:, None, None], device)


def affine(x: Tensor, slopes: Tensor, offsets: Tensor, out: Tensor, *, times: float = 1.0) -> Tensor:
    """out = times · slopes · x + offsets; tables are [N, C, 1, 1], or [C, 1, 1] where samples do not differ."""
    if x.is_cuda or not x.is_contiguous():
        return torch.addcmul(offsets, x, slopes, value=times, out=out)
    # On the CPU addcmul is not vectorised where a row is all pixels of a channel.
    return torch.mul(x, times * slopes, out=out).add_(offsets)


def row_sums(
    gradient: Tensor, x: Tensor, scratch: Tensor, centers: Tensor | None = None, scales: Tensor | None = None
) -> Tensor:
    """Σ g and Σ g · (x - center) · scale over every row, [2, N, C], of gradients g.

    Args:
        gradient, x: maps [N, C, H, W].
        centers: [N, C]; None is 0.
        scales: [N, C]; None is 1.
    """
    if not x.is_contiguous() or x.shape[2:].numel() == 1:  # "channels" of one pixel would count as channels-last
        tables = x.new_empty(2, *x.shape[:2])
        sums, products = tables.unbind(0)
        torch.sum(gradient, (2, 3), out=sums)
        torch.sum(torch.mul(gradient, x, out=scratch), (2, 3), out=products)
        if centers is not None:
            products.addcmul_(sums, centers, value=-1)
        if scales is not None:
            products.mul_(scales)
        return tables
    # The sums that batch normalization needs for the gradients of its scale and shift, with a "channel" for every row.
    zeros, ones = (number.expand(x.shape[:2].numel()) for number in zero_and_one(x.device, x.dtype))
    _, products, sums = torch.ops.aten.native_batch_norm_backward(
        _as_channels(gradient.contiguous()),
        _as_channels(x),
        ones,  # a scale is not used, but the kernels for GPUs take the type of their results from it
        None,
        None,
        zeros if centers is None else centers.reshape(-1),
        ones if scales is None else scales.reshape(-1),
        True,
        0.0,
        [False, True, True],
    )
    return torch.stack((sums, products)).view(2, *x.shape[:2])


@constant
def zero_and_one(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The numbers, [1] each, to stand for constant tables."""
    return send(torch.tensor([[0], [1]], dtype=dtype, device="cpu"), device).unbind(0)


@constant
def inverse_powers(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Exponents of a variance for its inverse standard deviation and its inverse, [2, 1, 1]."""
    return send(torch.tensor((-0.5, -1.0), dtype=dtype, device="cpu")[:, None, None], device)


def _as_channels(x: Tensor) -> Tensor:
    return x.view(1, -1, *x.shape[2:])


def spread(tables: Tensor) -> Tensor:
    """[…, C] -> […, C, 1, 1], to go with feature maps."""
    return tables.unsqueeze(-1).unsqueeze(-1)
