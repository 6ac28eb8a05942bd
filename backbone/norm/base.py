"""What all norm layers share: channels first, affine parameters, statistics in at least float32."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbone.norm.context import BatchContext
from utils.errors import UserError
from utils.options import Option


class NormLayer(nn.Module):
    """Maps [N, C, H, W] -> the same shape, normalised.

    Args:
        num_features: C.
        spatial_size: side of the maps, for a layer whose parameters depend on it.
        affine: whether γ (`weight`, 1) and β (`bias`, 0) are trained.
        eps: added under the root.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[Option, ...]] = ()  # constructor arguments that are options of the command line
    regularizer_options: ClassVar[tuple[Option, ...]] = ()  # what a method needs to use the layer's regularizer
    protocol_defaults: ClassVar[dict[str, dict[str, Any]]] = {"online": {"affine": True}, "offline": {"affine": True}}
    needs_joint: ClassVar[bool] = False  # whether current and memory rows must come in one batch
    needs_num_tasks: ClassVar[bool] = False  # whether the constructor takes `num_tasks`

    def __init__(
        self, num_features: int, *, spatial_size: int | None = None, affine: bool = True, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        shape = self.parameter_shape(num_features, spatial_size)
        self.weight = nn.Parameter(torch.ones(shape)) if affine else None
        self.bias = nn.Parameter(torch.zeros(shape)) if affine else None

    def parameter_shape(self, num_features: int, spatial_size: int | None) -> tuple[int, ...]:
        """Shape of γ and β."""
        return (num_features,)

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise; half-precision maps are taken to float32 for it and back.

        Raises:
            UserError: the maps do not fit the layer.
        """
        if maps.dim() != 4 or maps.shape[1] != self.num_features:
            raise UserError(f"{self.name} expects maps [N, {self.num_features}, H, W], not {list(maps.shape)}")
        if maps.dtype in (torch.float16, torch.bfloat16):
            return self.normalise(maps.float()).to(maps.dtype)
        return self.normalise(maps)

    def normalise(self, maps: Tensor) -> Tensor:
        """The layer itself, on maps of at least float32."""
        raise NotImplementedError

    def require_positions(self, maps: Tensor) -> None:
        """Raises UserError where a map is a single position, whose variance means nothing."""
        if maps.shape[2] * maps.shape[3] < 2:
            raise UserError(f"{self.name} needs maps of at least two positions, not {maps.shape[2]}x{maps.shape[3]}")

    def require_values(self, maps: Tensor) -> None:
        """Raises UserError where a channel is a single value in training."""
        if maps.numel() == maps.shape[1]:
            raise UserError(
                f"{self.name} needs at least two values per channel in training, not one image with maps of 1x1; "
                "use larger images or a --batch_size that leaves no rest of one"
            )

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, affine={self.weight is not None}"


class RunningNorm(NormLayer):
    """A layer that normalises with statistics of the batch in training, and with running ones in evaluation.

    Buffers `running_mean` (0) and `running_var` (1), [C]; `num_batches_tracked` counts training forwards.

    Args:
        momentum: weight of the batch in a running statistic.
    """

    def __init__(
        self,
        num_features: int,
        *,
        spatial_size: int | None = None,
        affine: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size, affine=affine, eps=eps)
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def normalise(self, maps: Tensor) -> Tensor:
        if self.training:
            return self.normalise_batch(maps)
        return F.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def normalise_batch(self, maps: Tensor) -> Tensor:
        """Normalise with the batch's statistics and update the running ones: plain batch normalization here.

        y = γ (x − μ) / √(v + eps) + β over N, H, W; the running variance takes the unbiased one.
        """
        self.require_values(maps)
        self.num_batches_tracked.add_(1)
        return F.batch_norm(
            maps, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
        )


class BalancedNorm(RunningNorm):
    """A layer that balances the tasks of a batch of current and memory rows.

    It has to be told the index of the task (`begin_task`; buffer `cur_tasks`) and, for every training forward with
    memory rows, what the batch consists of (`batch_context`). Without a description it uses plain batch statistics.
    """

    needs_joint = True

    def __init__(self, num_features: int, **more: Any) -> None:
        super().__init__(num_features, **more)
        self.task = 0  # the buffer's value, known on the host
        self.register_buffer("cur_tasks", torch.tensor(0))
        self.context: BatchContext | None = None
        self.regularizer: Tensor | None = None

    def begin_task(self, task: int) -> None:
        """Task `task`, counted from 0, starts."""
        self.task = task
        self.cur_tasks.fill_(task)

    def described(self, maps: Tensor) -> BatchContext | None:
        """The description of this batch, if there is one. Raises UserError where it does not fit."""
        context = self.context
        if context is None:
            return None
        if context.task != self.task:
            raise UserError(f"{self.name} is in task {self.task}, but the batch is described for task {context.task}")
        context.check_size(len(maps))
        return context

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.task = int(self.cur_tasks)

    def __getstate__(self) -> dict[str, Any]:
        """A copy describes no batch, and carries no graph of one."""
        return self.__dict__ | {"context": None, "regularizer": None}
