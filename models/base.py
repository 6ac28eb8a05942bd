"""What a method is to the training loop, and the one place where a batch is put together.

The loop knows a method by `begin_task`, `stages`, `observe`, `end_task` and `scores`, and saves it by `state_dict`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from backbone.norm import BatchContext, batch_context, begin_task, norm_loss, undecayed_parameters
from models.settings import Setting, find_setting
from utils.batch import Batch
from utils.errors import UserError
from utils.options import Option, ranged

REPLAY_OPTIONS = (
    Option("buffer_size", ranged(int, 0, 2**31 - 1), None, "images in memory, of all tasks together"),
    Option("minibatch_size", ranged(int, 1), None, "images of memory per draw (as --batch_size)"),
    Option("buffer_mode", str, "reservoir", "how memory is filled", choices=("reservoir", "ring")),
    Option(
        "forward",
        str,
        "auto",
        "current and memory rows in one forward, or each in its own",
        choices=("auto", "joint", "separate"),
    ),
)


@dataclass(frozen=True)
class Stage:
    """What is trained on what.

    Attributes:
        tasks: the tasks whose training data are used together.
        epochs: passes over these data.
        lr: learning rate of the first epoch; multiplied by `lr_decay` at every milestone.
        milestones: epochs, counted from 0, at whose start the learning rate falls.
    """

    tasks: tuple[int, ...]
    epochs: int
    lr: float
    milestones: tuple[int, ...] = ()
    lr_decay: float = 1.0

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return self.lr * self.lr_decay ** sum(epoch >= milestone for milestone in self.milestones)


class Method:
    """Base of all methods.

    Args:
        network: images [N, C, H, W] -> scores [N, K].
        config: the options in force, as attributes.
        stream: knows `num_tasks` and `num_classes`.
        memory: the rows to replay, for a method that uses memory.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[Option, ...]] = ()
    required: ClassVar[tuple[str, ...]] = ()  # options without a default, which a published setting may supply
    uses_memory: ClassVar[bool] = False
    trains_every_task: ClassVar[bool] = True  # otherwise there is nothing to measure before the last one
    heads: ClassVar[tuple[str, ...]] = ("linear",)
    protocol: ClassVar[str] = "online"

    def __init__(self, network: nn.Module, config: Any, stream: Any, memory: Any = None) -> None:
        self.network = network
        self.config = config
        self.stream = stream
        self.memory = memory
        self.task = 0
        self.optimizer: torch.optim.Optimizer | None = None

    @classmethod
    def published_setting(cls, dataset: str, buffer_size: int | None) -> Setting | None:
        """The published learning rate and weights of this method, if there are any."""
        return find_setting(cls.name, dataset, buffer_size)

    @classmethod
    def canonical(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values with those made one that give equal computations; enters a run's identity."""
        return values

    def begin_task(self, task: int) -> None:
        """Tell the network which task starts, counted from 0."""
        self.task = task
        begin_task(self.network, task)

    def stages(self, task: int) -> list[Stage]:
        """What is trained during a task; one stage on its own data unless a method has another plan."""
        return [self.stage((task,))]

    def stage(self, tasks: tuple[int, ...]) -> Stage:
        """A stage on the data of these tasks, with the run's epochs and learning rate."""
        config = self.config
        return Stage(tasks, config.epochs, config.lr, config.milestones, config.lr_decay)

    def begin_stage(self, stage: Stage) -> None:
        """Make the stage's optimizer. AdaB2N's task weights are never decayed (Lyu et al. use no weight decay)."""
        config = self.config
        undecayed = undecayed_parameters(self.network)
        kept_apart = {id(parameter) for parameter in undecayed}
        decayed = [parameter for parameter in self.network.parameters() if id(parameter) not in kept_apart]
        groups = [{"params": decayed}]
        if undecayed:
            groups.append({"params": undecayed, "weight_decay": 0.0})
        self.optimizer = torch.optim.SGD(
            groups,
            lr=stage.lr,
            momentum=config.optim_mom,
            weight_decay=config.optim_wd,
            nesterov=config.optim_nesterov,
        )
        self.network.train()

    def begin_epoch(self, stage: Stage, epoch: int) -> None:
        """Set the epoch's learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = stage.lr_at(epoch)

    def observe(self, batch: Batch) -> dict[str, Tensor]:
        """One step on a batch of the stream; the loss terms, detached, stay on the device."""
        raise NotImplementedError

    def end_task(self, task: int) -> None:
        """After the last step of a task, before it is evaluated."""

    def scores(self, images: Tensor) -> Tensor:
        """What evaluation compares: [N, K]."""
        return self.network(images)

    def update(self, loss: Tensor) -> dict[str, Tensor]:
        """Step the optimizer down a loss."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a step changes."""
        return {
            "task": self.task,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "memory": self.memory.state_dict() if self.memory is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; the optimizer's part is loaded when its stage begins again."""
        self.task = state["task"]
        begin_task(self.network, self.task)
        self.network.load_state_dict(state["network"])
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])


class ReplayMethod(Method):
    """Base of the methods that replay rows of a memory beside the stream's."""

    options = REPLAY_OPTIONS
    uses_memory = True
    auto_forward: ClassVar[str] = "separate"  # how the ordinary norm layers are fed in the published runs

    def __init__(self, network: nn.Module, config: Any, stream: Any, memory: Any = None) -> None:
        super().__init__(network, config, stream, memory)
        self.joint = config.forward == "joint"
        self.regularized = bool(config.parts.norm.regularizer_options) and config.lambd > 0
        self._norm_loss: Tensor | None = None

    @classmethod
    def canonical(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("lambd") == 0:
            return {name: value for name, value in values.items() if name != "ada_t0"}
        return values

    @classmethod
    def composition(cls, forward: str, norm: type) -> str:
        """`joint` or `separate`, for `auto` as the online study did. Raises UserError where separate has no meaning."""
        if forward == "separate" and norm.needs_joint:
            raise UserError(
                f"--forward separate: {norm.name} balances current against memory rows of one batch; "
                "use --forward joint or auto"
            )
        if forward == "auto":
            return "joint" if norm.needs_joint else cls.auto_forward
        return forward

    def replay(self, num_draws: int) -> list[Batch]:
        """Independent draws from memory; none while it is empty."""
        if len(self.memory) == 0:
            return []
        return [self.memory.draw(self.config.minibatch_size) for _ in range(num_draws)]

    def forward(self, current: Batch, draws: Sequence[Batch] = ()) -> list[Tensor]:
        """Logits of the current rows, then of each draw.

        Joint: one forward of [current; draw 1; draw 2; …], described to the norm layers. Separate: one forward per
        part in this order. Without draws nothing is described, so that every norm layer uses plain batch statistics.
        """
        parts = [current, *draws]
        if len(parts) == 1 or not self.joint:
            return [self.network(part.images) for part in parts]
        context = BatchContext(self.task, torch.cat([part.tasks for part in parts]), len(current))
        with batch_context(self.network, context):
            logits = self.network(torch.cat([part.images for part in parts]))
        if self.regularized and self.task >= self.config.ada_t0:
            self._norm_loss = norm_loss(self.network)
        return list(logits.split([len(part) for part in parts]))

    def update(self, loss: Tensor) -> dict[str, Tensor]:
        """Step down loss + lambd · Σ_layers regularizer (Lyu et al., NeurIPS 2023), if the last forward has one."""
        if self._norm_loss is None:
            return super().update(loss)
        regularizer, self._norm_loss = self._norm_loss, None
        losses = super().update(loss + self.config.lambd * regularizer)
        return losses | {"norm_loss": regularizer.detach()}

    def remember(self, batch: Batch, **extras: Tensor) -> None:
        """Offer the current rows to memory, unaugmented, after the step."""
        self.memory.insert(batch.raw, batch.labels, batch.tasks, **extras)
