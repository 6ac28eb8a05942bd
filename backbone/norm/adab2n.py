"""Adaptive balance of batch normalization."""

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import _fused
from ._rows import affine, inverse_powers, spread, weighted_moments
from .base import at_least_single, table_type, track
from .context import BatchContext, ContextNorm, constant, send
from .errors import NormError
from .options import Condition, Option, above, flag, ranged
from .registry import NORMS

_REACHED = Condition(
    ("ada_t0", "num_tasks"),
    lambda ada_t0, num_tasks: num_tasks is None or ada_t0 < num_tasks,
    "task {0} is never reached, as there are {1}, counted from 0",
)


@NORMS.register()
class AdaB2N(ContextNorm):
    """Adaptive balance of batch normalization (Lyu et al., NeurIPS 2023).

    Task k has weight ω_k = c_k / Σ_j c_j with c_k = exp(task_weight_k) + n_k, where n_k counts its samples in the
    batch; the samples of a task share its weight equally. Mean and variance are the weighted ones. Without the tasks
    of the samples, and in the first task, all samples weigh the same.

    In a stream without tasks, the weights are those of groups of classes: the task of a sample is the group that its
    class belongs to, whenever it came, and the task that is trained is the latest group seen so far. A group is to its
    classes what a task is, so that ψ keeps its meaning; a weight of every segment of time would tie it to rows that
    have nothing in common.

    The running statistics keep the biased variance and move by a step size that shrinks from momentum^kappa towards
    1 - (1 - momentum)^kappa over the training forwards. The regularizer is the squared distance of the batch's
    statistics from the running ones after their update, which are constants for the gradient, averaged over channels.

    Args:
        num_features: channels C.
        spatial_size: side S of the maps, where it is known.
        affine: whether there are `weight` and `bias`, [C].
        num_tasks: length of `task_weight`.
        kappa: between 0 (every batch counts the same) and 1 (constant step size).
        renormalize_absent: divide the weights by their sum. As published they are not, so that the weight of a task
            that is absent from the batch is lost, which pulls the mean towards 0.
        eps: added to the variance.
        momentum: of the step size.

    Raises:
        NormError: `num_tasks` or `kappa` is missing or out of range.
    """

    options = (
        Option("kappa", ranged(float, 0, 1), 0.4, "how fast the running statistics forget: 0 not at all, 1 as BN"),
        flag(
            "renormalize_absent",
            "divide the samples' weights by their sum, which absent tasks make smaller than 1",
            needs_memory=True,
            min_tasks=2,
        ),
    )
    regularizer_options = (
        Option("lambd", ranged(float, 0), 0.1, "weight of the norm layers' regularizer", needs_memory=True),
        Option(
            "ada_t0",
            ranged(int, 0),
            0,
            "task from which on the regularizer is added",
            needs_memory=True,
            active_when=(above("lambd", 0), _REACHED),
        ),
    )
    undecayed = ("task_weight",)
    min_values = 1
    fused_on = ("cpu", "cuda")
    _shown = ("num_tasks", "kappa", "renormalize_absent", "eps", "momentum")

    def __init__(
        self,
        num_features: int,
        *,
        spatial_size: int | None = None,
        affine: bool = True,
        num_tasks: int | None = None,
        kappa: float = 0.4,
        renormalize_absent: bool = False,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size, affine=affine, eps=eps)
        if num_tasks is None or num_tasks < 1:
            raise NormError("AdaB2N has a weight for every task: give num_tasks, at least 1")
        if not 0 <= kappa <= 1:
            raise NormError(f"AdaB2N: kappa must be between 0 and 1, not {kappa}")
        self.num_tasks = num_tasks
        self.kappa = kappa
        self.renormalize_absent = renormalize_absent
        self.momentum = momentum
        self.task_weight = nn.Parameter(torch.zeros(num_tasks))
        self._statistics: _Statistics | None = None

    def begin_task(self, task: int) -> None:
        if task >= self.num_tasks:
            raise ValueError(f"AdaB2N was built for {self.num_tasks} tasks: task {task} is beyond them")
        super().begin_task(task)

    @torch.no_grad()
    def take_statistics(self, old: nn.BatchNorm2d) -> bool:
        """The step size begins at momentum^kappa, as published; only the plain average (kappa 0) goes on counting."""
        super().take_statistics(old)
        if self.kappa > 0:
            self.num_batches_tracked.zero_()
        return True

    @classmethod
    def prepare(cls, layers: Sequence["AdaB2N"], context: BatchContext) -> None:
        """Weigh the samples, [N] for each layer, and find what weight is lost."""
        if context.task == 0 or context.task_of_sample is None:
            return
        mean = layers[0].running_mean
        tables = context.tables(mean.device, table_type(mean))
        task_weights = torch.stack([layer.task_weight for layer in layers])[:, : context.task + 1]
        logits = torch.logaddexp(task_weights, tables.log_counts)  # of exp ψ_t + n_t
        shares = torch.softmax(logits + tables.log_present if layers[0].renormalize_absent else logits, 1)
        weights = (shares[:, None] * tables.members).sum(2)
        lost = 1 - weights.detach().sum(1)
        number = _fused.num_copies(max(layer.num_features for layer in layers))
        copies = weights[:, None, None].expand(-1, number, 1, -1)
        for layer, *prepared in zip(layers, weights.unbind(), lost.unbind(), copies.unbind(), strict=True):
            layer.prepared = prepared

    def normalize_batch(self, x: Tensor) -> Tensor:
        weights, lost, _ = self._weights_of(x)
        noted = _Noted()
        y, statistics = _NormalizeWeighted.apply(x, weights, lost, self.weight, self.bias, self.eps, noted)
        self._hold(noted, statistics)
        return y

    def normalize_at_once(self, x: Tensor, added: Tensor | None, rectified: bool) -> Tensor | None:
        if self.batch_sizes is not None or not _fused.takes(self, x, added, (len(x),)):
            return None
        *_, shares = self._weights_of(x)
        mixing, noted = _fused.batches((len(x),), x.device, table_type(x)), _Noted(wants_coefficients=False)
        if shares is not None:
            mixing = _fused.Mixing(shares, mixing.outputs)
        y, statistics, _ = _fused.normalize(
            x, mixing, self.weight, self.bias, self.eps, added=added, rectified=rectified, begun=noted.release
        )
        self._hold(noted, statistics.view(2, -1))
        return y

    def _weights_of(self, x: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """None if all samples weigh the same.

        Returns:
            Weights of the samples, [N]; what weight is lost, []; copies for the fused kernels, [copies, 1, N].
        """
        context = self.context_of(x)
        if context is not None and self.prepared is None:  # another forward in this context
            self.prepare([self], context)
        weights, lost, copies = self.prepared or (None, None, None)
        self.prepared = None
        return weights, lost, copies

    def _hold(self, noted: "_Noted", statistics: Tensor) -> None:
        """Keep mean and variance of a forward for the regularizer, and for the running statistics."""
        self._statistics = _Statistics(statistics)
        noted.statistics, noted.held = statistics.detach(), weakref.ref(self._statistics)
        self.note(noted)

    @classmethod
    @torch.no_grad()
    def update_running(cls, layers: Sequence["AdaB2N"]) -> None:
        counters = [layer.num_batches_tracked for layer in layers]
        kappa, momentum, dtype = layers[0].kappa, layers[0].momentum, layers[0].running_mean.dtype
        steps = step_size(torch.stack(counters), kappa, momentum, dtype)
        torch._foreach_add_(counters, 1)
        entries = _entries(layers, steps.dtype)
        statistics = [layer.noted.statistics for layer in layers]
        values = [value for each in statistics for value in each]
        track(_running(layers), values, steps.index_select(0, entries.layers).split(entries.sizes))
        wanting = [layer for layer in layers if layer.noted.wants_coefficients]
        if wanting:
            statistics, weights = [layer.noted.statistics for layer in wanting], [layer.weight for layer in wanting]
            for layer, each in zip(wanting, _coefficients(statistics, weights, layers[0].eps), strict=True):
                layer.noted.coefficients = each

    @classmethod
    def take_regularizer(cls, layers: Sequence["AdaB2N"]) -> Tensor | None:
        taken = [(layer, layer._statistics.value) for layer in layers if layer._statistics is not None]
        if not taken:
            return None
        for layer, _ in taken:
            layer._statistics = None
        layers = [layer for layer, _ in taken]
        statistics = torch.cat([value.flatten() for _, value in taken])
        distances = statistics - torch.cat(_running(layers))
        return (distances.square() * _entries(layers, statistics.dtype).shares).sum()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_statistics": None}


def _running(layers: Sequence[AdaB2N]) -> list[Tensor]:
    """Of every layer the mean, then the variance."""
    return [values for layer in layers for values in (layer.running_mean, layer.running_var)]


@dataclass(frozen=True)
class _Entries:
    """The statistics of layers laid one after another, of every layer the mean, then the variance.

    Attributes:
        sizes: of the means and variances, [2 layers].
        layers: number of the layer that an entry belongs to.
        shares: of an entry in a mean over its layer's channels.
    """

    sizes: list[int]
    layers: Tensor
    shares: Tensor

    @classmethod
    @constant
    def of(cls, widths: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> "_Entries":
        """Those of layers with so many channels."""
        channels = torch.tensor(widths, device="cpu")
        layers = torch.arange(len(widths), device="cpu").repeat_interleave(2 * channels)
        shares = channels.to(dtype).reciprocal()[layers]
        return cls(channels.repeat_interleave(2).tolist(), send(layers, device), send(shares, device))


def _entries(layers: Sequence[AdaB2N], dtype: torch.dtype) -> _Entries:
    return _Entries.of(tuple(layer.num_features for layer in layers), layers[0].running_mean.device, dtype)


@dataclass(eq=False)
class _Noted:
    """What a training forward leaves to its backward pass and to the layer.

    Attributes:
        statistics: mean and variance, [2, C], without their graph.
        held: the same with it, while the layer holds them for the regularizer.
        wants_coefficients: whether the backward pass takes `coefficients`.
        coefficients: as `_coefficients` gives them, once the running statistics have been brought up to date.
    """

    statistics: Tensor | None = None
    held: "weakref.ref[_Statistics] | None" = None
    wants_coefficients: bool = True
    coefficients: Tensor | None = None

    def release(self) -> None:
        """A backward pass has begun, which uses up the graph of the statistics."""
        if self.held is not None and (held := self.held()) is not None:
            held.release()


def _coefficients(statistics: Sequence[Tensor], weights: Sequence[Tensor | None], eps: float) -> Sequence[Tensor]:
    """What dβ and dγ count in dμ and dv: -γ k and -γ k² / 2 with k = 1/√(v + eps), [2, C] for every layer.

    Args:
        statistics: of the layers, mean and variance, [2, C].
        weights: γ, [C]; None is 1.
        eps: added to the variances.
    """
    sizes = [each.shape[1] for each in statistics]
    variances = torch.cat([*statistics], 1)[1]
    slopes = [variances.new_ones(size) if each is None else each for each, size in zip(weights, sizes, strict=True)]
    powers = (variances + eps).pow(inverse_powers(variances.device, variances.dtype).squeeze(2))
    return powers.mul_(torch.cat(slopes)).mul_(_signed_shares(variances.device, variances.dtype)).split(sizes, 1)


@constant
def _signed_shares(device: torch.device, dtype: torch.dtype) -> Tensor:
    return send(torch.tensor((-1, -0.5), dtype=dtype, device="cpu")[:, None], device)


class _NormalizeWeighted(Function):
    """y_i = γ k (x_i - μ) + β with k = 1/√(v + eps), and the statistics μ and v, [2, C].

    With the samples' weights w_i, and their means m_i and variances v_i over their maps, μ = Σ_i w_i m_i and
    v = Σ_i w_i s_i with s_i = v_i + (m_i - μ)².

    Backward: g is the gradient of y, its products are summed over samples and pixels. dβ = Σ g and dγ = Σ g k (x - μ);
    dv has -γ k² dγ / 2 beside what comes to v itself, and dμ has -γ k dβ - 2 dv Σ_i w_i (m_i - μ), where the sum is μ
    times the lost weight 1 - Σ_i w_i, that of absent tasks. With ∂m_i/∂x_i = 1 / HW and ∂s_i/∂x_i = 2 (x_i - μ) / HW
    this gives dx_i = γ k g_i + w_i (dμ + 2 dv (x_i - μ)) / HW and dw_i = Σ_c m_i dμ + s_i dv.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weights: Tensor | None,
        lost: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        noted: _Noted,
    ) -> tuple[Tensor, Tensor]:
        single, y = at_least_single(x), torch.empty_like(x)
        if weights is None:
            weights = single.new_full((len(x),), 1 / len(x))
        scratch = y if single is x else torch.empty_like(single)
        sums, squares, share, statistics = weighted_moments(single, weights, scratch)
        mean, variance = statistics.unbind(0)
        # On a GPU the last two receive the statistics first, and the maps are made from these.
        places = (y, mean.new_empty(0), mean.new_empty(0))
        torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps, out=places)
        ctx.save_for_backward(x, weight, statistics, weights, lost, sums, squares)
        ctx.share, ctx.eps, ctx.noted = share, eps, noted
        ctx.set_materialize_grads(False)
        return y, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, grad_statistics: Tensor | None) -> tuple[Tensor | None, ...]:
        noted: _Noted = ctx.noted
        noted.release()
        x, weight, statistics, weights, lost, sums, squares = ctx.saved_tensors
        mean, variance = statistics.unbind(0)
        gradient = torch.zeros_like(x) if gradient is None else gradient
        none = mean.new_empty(0)  # of what is kept for a backward pass in training
        scale = torch.ones_like(mean) if weight is None else weight  # without one, kernels for GPUs give no sums
        with_maps = x.is_cuda and x.is_contiguous()  # those for channels-last maps would give contiguous gradients
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, scale, mean, variance, none, none, False, ctx.eps, [with_maps, True, True]
        )
        coefficients = noted.coefficients
        if coefficients is None:  # within the context of the forward
            (coefficients,) = _coefficients([statistics], [weight], ctx.eps)
        grads = torch.zeros_like(statistics) if grad_statistics is None else grad_statistics
        received = grad_bias, grad_weight
        grad_mean, grad_variance = torch._foreach_addcmul(grads.unbind(0), received, coefficients.unbind(0))
        shift = grad_variance * mean
        if lost is not None:
            grad_mean.addcmul_(shift, lost, value=-2)
        grad_weights = None
        if ctx.needs_input_grad[1]:
            grad_weights = weights.new_empty(weights.shape).addmv_(squares, grad_variance, beta=0, alpha=ctx.share)
            grad_weights.addmv_(sums, grad_mean, alpha=ctx.share)
        offset = grad_mean.sub_(shift, alpha=2)
        grad_x = _grad_maps(x, gradient, grad_x, weights, (coefficients[0], grad_variance, offset))
        is_affine = weight is not None
        return grad_x, grad_weights, None, *((grad_weight, grad_bias) if is_affine else (None, None)), None, None


def _grad_maps(
    x: Tensor, gradient: Tensor, grad_x: Tensor | None, weights: Tensor, tables: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """γ k g_i + w_i (offset + 2 dv x_i) / HW, of the type of x.

    Args:
        x, gradient: maps [N, C, H, W].
        grad_x: γ k g_i, where it is known already.
        weights: w, [N].
        tables: -γ k, dv and the offset, [C] each.
    """
    negative_slope, grad_variance, offset = map(spread, tables)
    share = 1 / x.shape[2:].numel()  # of a pixel
    single = at_least_single(x)
    through_statistics = torch.empty_like(single)
    if grad_x is not None:
        affine(single, grad_variance, offset, through_statistics, times=2)
        return grad_x.addcmul_(through_statistics, spread(weights[:, None]), value=share)
    # The same in fewer passes over the maps, with more operations on tables.
    pixel_weights = (weights * share).view(-1, 1, 1, 1)
    affine(single, pixel_weights * grad_variance, pixel_weights * offset, through_statistics, times=2)
    return through_statistics.addcmul_(at_least_single(gradient), negative_slope, value=-1).to(x.dtype)


class _Statistics:
    """Mean and variance [2, C] of one forward, which keep its graph alive only until a backward pass has used it."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def release(self) -> None:
        self.value = self.value.detach()


_SMALLEST_KAPPA = 1e-30  # below it, tables of float32 do not hold what is divided by it, and it is no other than 0


def step_size(num_before: Tensor, kappa: float, momentum: float, dtype: torch.dtype) -> Tensor:
    """η_n [...] of training forward n = 1, 2, … (Lyu et al., NeurIPS 2023).

    The recursion η_1 = m^κ, η_n = η_{n-1} / (η_{n-1} + q) with q = (1-m)^κ, solved for 1/η_n: it is
    q^(n-1) m^(-κ) + (1 - q^(n-1)) / (1 - q), and n for κ = 0.

    Args:
        num_before: n - 1, [...] int64, on the device.
        kappa: between 0 and 1.
        momentum: m.
        dtype: of the result.
    """
    if kappa < _SMALLEST_KAPPA:
        return (num_before + 1).to(dtype).reciprocal()
    if momentum in (0, 1):  # which the step size is, then
        return torch.full_like(num_before, momentum, dtype=dtype)
    log_q = kappa * math.log1p(-momentum)
    first = momentum**-kappa
    limit = -1 / math.expm1(log_q)
    decayed = torch.expm1(num_before * _number(log_q, dtype))  # q^(n-1) - 1
    return torch.rsub(decayed, first, alpha=limit - first).reciprocal()


@constant
def _number(value: float, dtype: torch.dtype) -> Tensor:
    """A number [] that gives this type to its product with an integer; one on the host need not be sent."""
    return torch.tensor(value, dtype=dtype, device="cpu")
