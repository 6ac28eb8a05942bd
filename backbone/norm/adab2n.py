"""Adaptive balance of batch normalization."""

import math
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ._rows import affine, combined, row_moments
from .base import table_type, track
from .context import ContextNorm, TaskTables
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
        self._regularizer: _Regularizer | None = None

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

    def normalize_batch(self, x: Tensor) -> Tensor:
        tables, task_weight = self._tasks_of(x)
        y, statistics = _NormalizeWeighted.apply(x, task_weight, self.weight, self.bias, tables, self.eps)
        self._regularizer = regularizer = _Regularizer(self._track(statistics))
        if y.requires_grad:
            y.register_hook(regularizer.release)
        return y

    def take_regularizer(self) -> Tensor | None:
        regularizer, self._regularizer = self._regularizer, None
        return None if regularizer is None else regularizer.value

    def _tasks_of(self, x: Tensor) -> tuple[TaskTables | None, Tensor | None]:
        """The tasks of the samples and their weights ψ [task + 1]; None if all samples weigh the same."""
        context = self.context_of(x)
        if self.task == 0 or context is None or context.task_of_sample is None:
            return None, None
        tables = context.tables(x.device, table_type(x))
        task_weight = self.task_weight[: self.task + 1]
        return tables, task_weight + tables.log_present if self.renormalize_absent else task_weight

    def _track(self, statistics: Tensor) -> Tensor:
        """Update the running statistics by mean and variance [2, C]; the distance [] from them."""
        step = step_size(self.num_batches_tracked, self.kappa, self.momentum, self.running_mean.dtype)
        self.num_batches_tracked.add_(1)
        running = self.running_mean, self.running_var
        track(running, statistics.unbind(0), step)
        return 2 * F.mse_loss(statistics, torch.stack(running))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_regularizer": None}


class _NormalizeWeighted(Function):
    """y_i = γ k (x_i - μ) + β with k = 1/√(v + eps), and the statistics μ and v, [2, C].

    With the samples' means m_i and variances v_i over their maps, μ = Σ_i w_i m_i and v = Σ_i w_i (v_i + (m_i - μ)²).
    The weights are w_i = ω_t / n_t for a sample of task t, and ω_t = (exp ψ_t + n_t) / Σ_j (exp ψ_j + n_j) is the sum
    of two entries of a softmax, those of the logits ψ_t and log n_t.

    Backward: g is the gradient of y, its products are summed over samples and pixels. dβ = Σ g and dγ = Σ g k (x - μ);
    dv has -γ k² dγ / 2 beside what comes to v itself, and dμ has -γ k dβ - 2 dv Σ_i w_i (m_i - μ), whose sum is not 0
    where a task is absent. With ∂m_i/∂x_i = 1 / HW and ∂(v_i + (m_i - μ)²)/∂x_i = 2 (x_i - μ) / HW this gives
    dx_i = γ k g_i + w_i (dμ + 2 dv (x_i - μ)) / HW and dw_i = Σ_c m_i dμ + (v_i + (m_i - μ)²) dv.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        task_weight: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        tables: TaskTables | None,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        means, variances = row_moments(x)  # [N, C]
        statistics, moments = means.new_empty(3, *means.shape[1:]), means.new_empty(len(means), 2, *means.shape[1:])
        mean, variance, rest = statistics
        squares, deviations = moments.unbind(1)
        shares = None
        with _unrounded(x.device):
            if tables is None or task_weight is None:
                weights = means.new_full((len(x),), 1 / len(x))
            else:
                shares = torch.softmax(torch.cat((task_weight, tables.log_counts)), 0)
                weights = torch.mv(tables.members, shares)
            torch.mv(means.t(), weights, out=mean)
            torch.sub(means, mean, out=deviations)
            torch.addcmul(variances, deviations, deviations, out=squares)
            torch.mv(moments.flatten(1).t(), weights, out=statistics[1:].view(-1))
        ctx.save_for_backward(x, weight, mean, variance, rest, weights, means, squares, shares)
        ctx.tables, ctx.eps = tables, eps
        ctx.set_materialize_grads(False)
        y = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]
        return y, statistics[:2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, grad_statistics: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, rest, weights, means, squares, shares = ctx.saved_tensors
        gradient = torch.zeros_like(x) if gradient is None else gradient
        grad_statistics = mean.new_zeros(2, len(mean)) if grad_statistics is None else grad_statistics
        none = mean.new_empty(0)  # of what is kept for a backward pass in training
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, none, none, False, ctx.eps, [x.is_cuda, True, True]
        )
        sums = (
            (grad_bias, grad_weight) if weight is None else torch._foreach_mul((grad_bias, grad_weight), [weight] * 2)
        )
        spread_variance = variance + ctx.eps
        std = spread_variance.sqrt()
        grad_mean, grad_variance = torch._foreach_addcdiv(
            grad_statistics.unbind(0), sums, (std, spread_variance), (-1.0, -0.5)
        )
        grad_mean.addcmul_(grad_variance, rest, value=-2)
        offset = torch.addcmul(grad_mean, grad_variance, mean, value=-2)
        share = 1 / x.shape[2:].numel()  # of a pixel
        if x.is_cuda:
            through_statistics = affine(x, grad_variance, offset, times=2)
            grad_x.addcmul_(through_statistics, weights[:, None, None, None], value=share)
        else:  # the same in fewer passes over the maps, with more operations on tables
            slope = std.reciprocal() if weight is None else weight / std
            x_slopes, offsets = torch.outer(weights, grad_variance), torch.outer(weights, offset)
            grad_x = combined(gradient, slope, x, x_slopes.mul_(2 * share), offsets.mul_(share)).to(x.dtype)
        grad_task_weight = None
        if ctx.needs_input_grad[1]:
            with _unrounded(x.device):
                grad_weights = torch.addmv(torch.mv(squares, grad_variance), means, grad_mean)
                grad_shares = torch.mv(ctx.tables.members.t(), grad_weights)
            grad_logits = torch.ops.aten._softmax_backward_data(grad_shares, shares, 0, shares.dtype)
            grad_task_weight = grad_logits[: len(ctx.tables.log_counts)]
        is_affine = weight is not None
        return grad_x, grad_task_weight, *((grad_weight, grad_bias) if is_affine else (None, None)), None, None


def _unrounded(device: torch.device) -> AbstractContextManager[None]:
    """Without autocast, which would round matrix products; leaving it takes longer than they do, where it is not on."""
    is_on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if is_on else nullcontext()


class _Regularizer:
    """The regularizer of one forward, which keeps its graph alive only until a backward pass has used it."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def release(self, _gradient: Tensor) -> None:
        self.value = self.value.detach()


def step_size(num_before: Tensor, kappa: float, momentum: float, dtype: torch.dtype) -> Tensor:
    """η_n [] of training forward n = 1, 2, … (Lyu et al., NeurIPS 2023).

    The recursion η_1 = m^κ, η_n = η_{n-1} / (η_{n-1} + q) with q = (1-m)^κ, solved for 1/η_n: it is
    q^(n-1) m^(-κ) + (1 - q^(n-1)) / (1 - q), and n for κ = 0.

    Args:
        num_before: n - 1, [] int64, on the device.
        kappa: between 0 and 1.
        momentum: m.
        dtype: of the result.
    """
    if kappa == 0:
        return (num_before + 1).to(dtype).reciprocal()
    log_q = kappa * math.log1p(-momentum)
    first = momentum**-kappa
    limit = -1 / math.expm1(log_q)
    decayed = torch.expm1(num_before * _number(log_q, dtype))  # q^(n-1) - 1
    return torch.rsub(decayed, first, alpha=limit - first).reciprocal()


@cache
def _number(value: float, dtype: torch.dtype) -> Tensor:
    """A number [] that gives this type to its product with an integer; one on the host need not be sent."""
    return torch.tensor(value, dtype=dtype, device="cpu")
