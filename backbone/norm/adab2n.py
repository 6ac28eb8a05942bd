"""Adaptive balance of batch normalization."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ._rows import row_affine, row_moments
from .base import track
from .context import BatchContext, ContextNorm
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
        x = x.contiguous()
        means, variances = row_moments(x)
        weights = self._weights(self.context_of(x), means)
        mean = (weights * means).sum(0)
        variance = (weights * (variances + (means - mean).square())).sum(0)
        self._regularizer = regularizer = _Regularizer(self._track(mean, variance))
        slope = self.scaled(torch.rsqrt(variance + self.eps))
        centers = means.detach()
        y = row_affine(x, centers, slope.expand_as(means), self.shifted(slope * (centers - mean)))
        if y.requires_grad:
            y.register_hook(regularizer.release)
        return y

    def take_regularizer(self) -> Tensor | None:
        regularizer, self._regularizer = self._regularizer, None
        return None if regularizer is None else regularizer.value

    def _weights(self, context: BatchContext | None, means: Tensor) -> Tensor | float:
        """Weight of each sample, [N, 1]; one number if all are the same."""
        if self.task == 0 or context is None or context.task_of_sample is None:
            return 1 / len(means)
        tables = context.tables(means.device, means.dtype)
        counts = tables.counts + self.task_weight[: self.task + 1].exp()
        # No matrix products: autocast would round them to half precision.
        weights = (tables.shares * (counts / counts.sum())).sum(1, keepdim=True)
        return weights / weights.sum() if self.renormalize_absent else weights

    def _track(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Update the running statistics; the distance [] from them."""
        self.num_batches_tracked.add_(1)
        step = step_size(self.num_batches_tracked.to(self.running_mean.dtype), self.kappa, self.momentum)
        track(self.running_mean, mean, step)
        track(self.running_var, variance, step)
        return (mean - self.running_mean).square().mean() + (variance - self.running_var).square().mean()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_regularizer": None}


class _Regularizer:
    """The regularizer of one forward, which keeps its graph alive only until a backward pass has used it."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def release(self, _gradient: Tensor) -> None:
        self.value = self.value.detach()


def step_size(num_forwards: Tensor, kappa: float, momentum: float) -> Tensor:
    """η_n [] of training forward n = 1, 2, … (Lyu et al., NeurIPS 2023).

    The recursion η_1 = m^κ, η_n = η_{n-1} / (η_{n-1} + q) with q = (1-m)^κ, solved for 1/η_n: it is
    q^(n-1) m^(-κ) + (1 - q^(n-1)) / (1 - q), and n for κ = 0.

    Args:
        num_forwards: n, [] of a floating type, on the device.
        kappa: between 0 and 1.
        momentum: m.
    """
    if kappa == 0:
        return 1 / num_forwards
    log_q = kappa * math.log1p(-momentum)
    first = momentum**-kappa
    limit = -1 / math.expm1(log_q)
    decayed = torch.expm1((num_forwards - 1) * log_q)  # q^(n-1) - 1
    return 1 / (first + decayed * (first - limit))
