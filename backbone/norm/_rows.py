"""Moments and affine maps of rows, where a row is one channel of one sample: its H·W values lie together in memory.

Layers that mix statistics of samples differently (SN, BRN, TBBN, AdaB2N) are small tables [N, C] between these two
operations, which are the only ones to touch the feature maps: once for the moments and once for the map, and as often
on the way back.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .base import at_least_single


def row_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every row, at least in float32.

    Args:
        x: contiguous feature maps [N, C, H, W].

    Returns:
        Two tables [N, C]. Gradients flow through both, once (no double backward).
    """
    return _RowMoments.apply(x)


def row_affine(x: Tensor, centers: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    """slopes · (x - centers) + offsets, with one value of each table for a row.

    Args:
        x: contiguous feature maps [N, C, H, W].
        centers: [N, C], constants near the rows' means, which keep small numbers small.
        slopes: [N, C].
        offsets: [N, C].

    Returns:
        Feature maps of the type of x. Gradients flow through x, slopes and offsets, once (no double backward).
    """
    return _RowAffine.apply(x, centers, slopes, offsets)


class _RowMoments(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        means, variances = _moments(_as_rows(x))
        means, variances = means.view(x.shape[:2]), variances.view(x.shape[:2])
        ctx.save_for_backward(x, means)
        return means, variances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_means: Tensor, grad_variances: Tensor) -> Tensor:
        x, means = ctx.saved_tensors
        share = 1 / x.shape[2:].numel()
        return _affine(x, means, grad_variances * (2 * share), grad_means * share)


class _RowAffine(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, centers: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(x, centers, slopes)
        return _affine(x, centers, slopes, offsets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor]:
        x, centers, slopes = ctx.saved_tensors
        # Batch normalization in evaluation is the same map, with a "channel" for every row.
        grad_x, grad_slopes, grad_offsets = torch.ops.aten.native_batch_norm_backward(
            _as_rows(grad_y.contiguous()),
            _as_rows(x),
            slopes.reshape(-1),
            centers.reshape(-1),
            centers.new_zeros(centers.numel()),
            None,
            None,
            False,
            1.0,
            [ctx.needs_input_grad[0], True, True],
        )
        if grad_x is not None:
            grad_x = grad_x.view(x.shape).to(x.dtype)
        return grad_x, None, grad_slopes.view(slopes.shape), grad_offsets.view(slopes.shape)


def _as_rows(x: Tensor) -> Tensor:
    """[1, N·C, H, W], at least in float32."""
    return at_least_single(x.view(1, -1, *x.shape[2:]))


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    values = rows.flatten(2)
    if values.is_cuda:
        variances, means = torch.var_mean(values, 2, correction=0)
        return means, variances
    # On the CPU var_mean is not vectorised; these three passes are, and take a tenth of its time.
    means = values.mean(2)
    deviations = torch.linalg.vector_norm(values - means.unsqueeze(2), dim=2)
    return means, deviations.square() / values.shape[2]


def _affine(x: Tensor, centers: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    rows = _as_rows(x)
    zeros = centers.new_zeros(centers.numel())
    # Evaluation with variance 0 and eps 1: nothing is left but the map, in one vectorised pass.
    mapped = torch.native_batch_norm(
        rows, slopes.reshape(-1), offsets.reshape(-1), centers.reshape(-1), zeros, False, 0.0, 1.0
    )[0]
    # Not a view for autograd, which would forbid what follows the layer to work in place.
    return torch.ops.aten._unsafe_view(mapped, x.shape).to(x.dtype)
