"""Switchable normalization."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import _fused_rows
from ._rows import affine, inverse_powers, row_moments, row_sums, spread
from .base import Norm, at_least_single, statistics_of, track
from .registry import NORMS


@NORMS.register()
class SN(Norm):
    """Switchable normalization (Luo et al., ICLR 2019): a learned mix of instance, layer and batch statistics.

    The shares are softmax(mean_weight) and softmax(var_weight), in the order instance, layer, batch. The variance
    over a map is unbiased. In evaluation the batch part comes from the running statistics, whose variance starts at 0.

    Args:
        num_features: channels C.
        spatial_size: side S of the maps, where it is known.
        affine: whether there are `weight` and `bias`, [C].
        eps: added to the mixed variance.
        decay: weight of the old value in the running statistics.

    Raises:
        NormError: an input has maps of a single pixel.
    """

    min_pixels = 2
    fused_on = ("cpu", "cuda")
    _shown = ("eps", "decay")

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        spatial_size: int | None = None,
        affine: bool = True,
        eps: float = 1e-5,
        decay: float = 0.997,
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size)
        self.eps = eps
        self.decay = decay
        self.make_affine(affine, (num_features,))
        self.mean_weight = nn.Parameter(torch.ones(3))
        self.var_weight = nn.Parameter(torch.ones(3))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.zeros(num_features))

    @torch.no_grad()
    def take_statistics(self, old: nn.BatchNorm2d) -> bool:
        mean, variance = statistics_of(old)
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)
        return False  # they are a third of the mix

    def normalize_at_once(self, x: Tensor, added: Tensor | None, rectified: bool) -> Tensor | None:
        sizes = self.batch_sizes or (len(x),)
        kind = _fused_rows.Switchable(self.eps, sizes, self.running_mean, self.running_var, 1 - self.decay)
        parameters = self.weight, self.bias, self.mean_weight, self.var_weight
        if x.shape[2:].numel() < self.min_pixels or not _fused_rows.takes(kind, x, added, *parameters):
            return None
        return _fused_rows.normalize(kind, x, *parameters, added=added, rectified=rectified)

    def normalize(self, x: Tensor) -> Tensor:
        return self._normalize_equal(x, 1)

    def normalize_batches(self, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
        if len(set(sizes)) > 1:
            return super().normalize_batches(x, sizes)
        return self._normalize_equal(x, len(sizes))

    def _normalize_equal(self, x: Tensor, num_batches: int) -> Tensor:
        """Normalise batches of the same size."""
        self.check_map_size(x.shape[2:].numel())
        running = self.running_mean, self.running_var
        logits = torch.stack((self.mean_weight, self.var_weight))
        y, batches = _NormalizeMixed.apply(
            x, logits, self.weight, self.bias, None if self.training else running, self.eps, num_batches
        )
        if self.training:
            for statistics in batches.unbind(1):
                track(running, statistics.unbind(0), 1 - self.decay)
        return y


class _NormalizeMixed(Function):
    """y = γ k (x - μ) + β with k = 1/√(v + eps), and the mean and variance of each batch, [2, batches, C].

    Tables are [2, batches, samples, C] here, or have a 1 for some of it, of means and variances or of their gradients.
    The statistics μ and v are mixtures of those of the instance, m_i and v_i, of the layer and of the batch.
    The latter are the means of m_i and of v_i + (m_i - mean)² over the channels, or over the samples.

    Backward: g is the gradient of y, its products are summed over the pixels. dβ = Σ_n g, dγ = Σ_n g k (x - μ),
    dμ = -γ k g and dv = -γ k² g k (x - μ) / 2. A mean over an axis hands on the mean of what comes to it, so that an
    instance's mean and variance get the mixtures Σ_j share_j d_j of dμ and dv, whose parts d_j are their means over no
    axis, the channels and the samples; and m_i has 2 Σ_j share_j dv_j (m_i - mean_j) beside. In the end
    dx = γ k g + dm / HW + 2 dv_i (x - m_i) / (HW - 1).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        logits: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor, Tensor] | None,
        eps: float,
        num_batches: int,
    ) -> tuple[Tensor, Tensor]:
        dtype, x = x.dtype, at_least_single(x)
        y = torch.empty_like(x)
        instance = torch.stack(row_moments(x, y, correction=1)).unflatten(1, (num_batches, -1))
        spreads, layer = torch.var_mean(instance, 3, correction=0, keepdim=True)
        if running is None:
            batch_spreads, batch = torch.var_mean(instance, 2, correction=0, keepdim=True)
            torch._foreach_add_([layer[1], batch[1]], [spreads[0], batch_spreads[0]])
        else:
            layer[1].add_(spreads[0])
            batch = torch.stack(running)[:, None, None]
        shares = torch.softmax(logits, 1)[..., None, None, None]  # [2, 3, 1, 1, 1]
        parts = _side_by_side(instance, layer, batch)
        mean, variance = (shares * parts).sum(1).flatten(1, 2).unbind(0)  # [N, C]
        inverses = (variance + eps).pow(inverse_powers(x.device, variance.dtype))  # k and k²
        slopes = inverses if weight is None else weight * inverses
        offsets = slopes[0] * -mean if bias is None else torch.addcmul(bias, slopes[0], mean, value=-1)
        ctx.save_for_backward(x, shares, parts, mean, inverses[0], slopes)
        ctx.is_affine, ctx.takes_batch = weight is not None, running is None
        batches = batch[:, :, 0]
        ctx.mark_non_differentiable(batches)
        return affine(x, spread(slopes[0]), spread(offsets), y).to(dtype), batches

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_batch: Tensor) -> tuple[Tensor | None, ...]:
        x, shares, parts, mean, inverse_std, slopes = ctx.saved_tensors
        dtype, x, gradient = x.dtype, at_least_single(x), at_least_single(gradient)
        grad_x, num_pixels = torch.empty_like(x), x.shape[2:].numel()
        grads = row_sums(gradient, x, grad_x, mean, inverse_std)  # [2, N, C]
        grad_bias, grad_weight = grads.sum(1).unbind(0) if ctx.is_affine else (None, None)
        grads = grads.mul_(slopes).view_as(parts[:, 0])  # these are -dμ and -2 dv
        grad_shares = (grads[:, None] * parts).sum((2, 3, 4))
        grad_logits = torch.ops.aten._softmax_backward_data(grad_shares, shares.view_as(grad_shares), 1, shares.dtype)
        torch._foreach_mul_(grad_logits.unbind(0), (-1.0, -0.5))

        means = [grads.mean(axis, keepdim=True) for axis in ((3, 2) if ctx.takes_batch else (3,))]
        passed = _side_by_side(grads, *means)
        passed.mul_(shares[:, : 1 + len(means)] * (-1 / num_pixels))
        passed[0].addcmul_(passed[1], parts[0, : 1 + len(means)], value=-1)
        offsets, x_slopes = passed.sum(1).flatten(1, 2).unbind(0)  # x_slopes are 2 dv_i / HW
        offsets.addcmul_(parts[0, 0].flatten(0, 1), x_slopes, value=-1 / (num_pixels - 1))
        unbiased = num_pixels / (num_pixels - 1)
        affine(x, spread(x_slopes), spread(offsets), grad_x, times=unbiased).addcmul_(gradient, spread(slopes[0]))
        return grad_x.to(dtype), grad_logits, grad_weight, grad_bias, None, None, None


def _side_by_side(table: Tensor, *means: Tensor) -> Tensor:
    """A table and means of it over some axis, which are kept as 1: [2, 1 + means, batches, samples, C]."""
    return torch.stack((table, *(mean.expand_as(table) for mean in means)), 1)
