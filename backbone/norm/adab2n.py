"""AdaB²N: adaptive balance of batch normalization (Lyu et al., NeurIPS 2023)."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbone.norm.base import BalancedNorm
from backbone.norm.moments import normalise, sample_moments
from utils.errors import UserError
from utils.options import Option, flag, ranged
from utils.registry import NORMS


@NORMS.register()
class AdaptiveBalanceBatchNorm(BalancedNorm):
    """Batch normalization with learned task weights, an adaptive step of the running statistics and a regularizer.

    From the second task on, for a described batch with n_k rows of task k, ω_k = (exp(ψ_k) + n_k) / Σ_{j≤t} (…) and
    every row weighs w_i = ω_task(i) / n_task(i); μ = Σ_i w_i mean(x_i) and v = Σ_i w_i mean((x_i − μ)²). The share of
    a task that is absent from the batch is lost, as published. The running variance takes v as it is, without the
    factor n/(n − 1). The regularizer is mean_c (μ − R_μ)² + mean_c (v − R_v)² against the updated running values,
    which are constants (`norm_loss`).

    Args:
        num_tasks: tasks of the stream; length of ψ (`task_weight`, from 0).
        kappa: κ in [0, 1]; 1 is the constant step `momentum`, 0 the cumulative average.
        renormalize_absent: divide the weights by their sum, which the published layer does not.

    Raises:
        UserError: kappa outside [0, 1], or a task beyond num_tasks.
    """

    options = (
        Option("kappa", ranged(float, 0, 1), 0.4, "κ of AdaB2N: 1 keeps the step of the running statistics constant"),
        flag("renormalize_absent", "let the task weights of AdaB2N sum to 1 where a task is absent from the batch"),
    )
    regularizer_options = (
        Option("lambd", ranged(float, 0), 0.1, "λ, weight of AdaB2N's regularizer"),
        Option("ada_t0", ranged(int, 0), 0, "first task, from 0, with AdaB2N's regularizer"),
    )
    needs_num_tasks = True

    def __init__(
        self,
        num_features: int,
        *,
        num_tasks: int,
        kappa: float = 0.4,
        renormalize_absent: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(num_features, **more)
        if not 0 <= kappa <= 1:
            raise UserError(f"AdaB2N: kappa must be from 0 to 1, not {kappa}")
        self.kappa = kappa
        self.renormalize_absent = renormalize_absent
        self.task_weight = nn.Parameter(torch.zeros(num_tasks))

    def begin_task(self, task: int) -> None:
        if task >= len(self.task_weight):
            raise UserError(f"AdaB2N was built for num_tasks={len(self.task_weight)}, but task {task} (from 0) starts")
        super().begin_task(task)

    def normalise_batch(self, maps: Tensor) -> Tensor:
        context = self.described(maps)
        sample_mean, sample_variance = sample_moments(maps)
        weights = self._row_weights(context, sample_mean)
        mean = weights @ sample_mean
        variance = weights @ (sample_variance + (sample_mean - mean).square())
        self._move_running(mean.detach(), variance.detach())
        self.regularizer = F.mse_loss(mean, self.running_mean.clone()) + F.mse_loss(variance, self.running_var.clone())
        return normalise(maps, mean, variance, self.eps, self.weight, self.bias)

    def _row_weights(self, context: Any, like: Tensor) -> Tensor:
        """w, [N]."""
        num_rows = len(like)
        if context is None or context.task_of_sample is None or self.task == 0:
            return like.new_full((num_rows,), 1 / num_rows)
        counts, shares = context.task_shares(like.device, like.dtype)
        balanced = self.task_weight[: self.task + 1].exp() + counts
        weights = shares @ (balanced / balanced.sum())
        return weights / weights.sum() if self.renormalize_absent else weights

    def step_size(self) -> Tensor:
        """η_n of training forward n = `num_batches_tracked`, on the device.

        η_1 = m^κ, η_n = η_{n−1} / (η_{n−1} + (1 − m)^κ), in closed form so that it needs no state of its own.
        """
        number = self.num_batches_tracked.double()
        if self.kappa == 0:
            return number.reciprocal()
        log_decay = self.kappa * math.log1p(-self.momentum)
        exponent = (number - 1) * log_decay
        inverse = exponent.exp() * self.momentum**-self.kappa + exponent.expm1() / math.expm1(log_decay)
        return inverse.reciprocal()

    def _move_running(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        step = self.step_size().to(mean.dtype)
        self.running_mean.lerp_(mean, step)
        self.running_var.lerp_(variance, step)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_tasks={len(self.task_weight)}, kappa={self.kappa}"
