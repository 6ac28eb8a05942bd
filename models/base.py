"""What a method is to the training loop, and the one place where a batch is put together.

The loop knows a method by `begin_task`, `stages`, `observe`, `end_task` and `scores`, and saves it by `state_dict`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from backbone.norm import (
    BatchContext,
    batch_context,
    begin_task,
    norm_loss,
    norm_parameters,
    num_described,
    rows_needed,
    separate_batches,
    undecayed_parameters,
)
from models.heads import Head, Network
from models.settings import Setting, find_setting
from utils.config.configuration import Configuration
from utils.config.options import DEFAULT_STREAM, Option, grouped, ranged
from utils.config.parts import BackbonePart, NormPart
from utils.config.registry import STREAMS
from utils.data.batch import Batch, Draft, below, make_batches, within
from utils.data.buffer import BUFFER_MODES, Memory
from utils.data.plan import CountedStage, DataPlan, Plain, Rows, Stage, StreamSizes, TaskStream
from utils.data.pools import Stream
from utils.data.staging import Values
from utils.errors import UserError
from utils.optimizer import make_optimizer
from utils.seeds import derive_seed

REPLAY_OPTIONS = grouped(
    "memory",
    Option(
        "buffer_size",
        ranged(int, 0, 2**31 - 1),
        None,
        "capacity of the memory, in images of all tasks together",
        required=True,
    ),
    Option(
        "minibatch_size",
        ranged(int, 1),
        None,
        "images per draw from memory",
        source="as --batch_size",
        needs_memory=True,
    ),
    Option(
        "buffer_mode",
        str,
        "reservoir",
        "which rows of the stream the memory keeps: those of reservoir sampling, with or without balance of the "
        "classes, of a greedy balance of them, or the last of each task",
        choices=tuple(BUFFER_MODES),
        needs_memory=True,
    ),
    Option(
        "forward",
        str,
        "auto",
        "current and memory rows as one batch to the norm layers, or one each",
        choices=("auto", "joint", "separate"),
        needs_memory=True,
    ),
)


def head_grows(config: Configuration) -> bool:
    """Whether every task adds its outputs to the classifier."""
    return config.parts.head != "linear"


@dataclass(frozen=True)
class StepPlan:
    """What the host has decided for a step, before the device does anything of it.

    Attributes:
        batch: of the stream.
        draws: from memory; None if the method draws while it observes.
        targets: rows of memory's storage that get the batch, [B] int64; None if none, or decided in `observe`.
        context: how the batch is described to the norm layers; None if it is not, or while it is observed.
        table: what they read of it, on the host; None if no layer does.
    """

    batch: Draft
    draws: tuple[Draft, ...] | None = None
    targets: Tensor | None = None
    context: BatchContext | None = None
    table: Tensor | None = None

    @property
    def kind(self) -> tuple[int | None, ...]:
        """What decides the work of the device beside the shapes of the values."""
        num_draws = None if self.draws is None else len(self.draws)
        described = (None, None) if self.context is None else (self.context.num_current, self.context.task)
        return num_draws, self.batch.num_current, *described

    @property
    def values(self) -> dict[str, Tensor]:
        """Everything that the device needs, by name, on the host."""
        values = below("batch", self.batch.values)
        for number, draw in enumerate(self.draws or ()):
            values |= below(f"draw {number}", draw.values)
        own = {"targets": self.targets, "table": self.table}
        return values | {name: value for name, value in own.items() if value is not None}


@dataclass(frozen=True)
class _Given:
    """The parts of a step's plan that are on the device."""

    draws: list[Batch] | None = None
    targets: Tensor | None = None
    context: BatchContext | None = None


class Method(ABC):
    """Base of all methods. A method implements `observe`, and what else of this it does differently.

    Class methods are pure. They are asked before there is a network or an image, by the launcher too, and see options
    and numbers alone: `published_setting`, `resolve_auto`, `check`, `identity_values`, `replays_at_once`, `warnings`,
    `measures_every_task`, and what is trained on what: `stages`, with `stage` and `stage_on` to make them,
    `num_exemplars`, `forward_rows`, `trained_rows`.

    The other methods are called by the training loop, in this order: for each task `begin_task`; for each of its
    stages `begin_stage` (which asks `trained`), for each epoch `begin_epoch`, for each batch `plan` and `step`, which
    calls `observe`; then `end_task`. Evaluation calls `scores`, the choice of the best epoch `logits`. `state_dict` may
    be asked for between any two batches, and `load_state_dict` of a new object takes the place of all calls before it.

    Args:
        network: images [N, C, H, W] -> scores [N, K].
        config: the options in force, as attributes.
        stream: knows `num_tasks` and `num_classes`.
        memory: the rows to replay, for a method that uses memory.
        prepare: raw images -> normalised ones, as for evaluation.

    Attributes:
        task: that is trained, counted from 0; where a stream has no boundaries, a segment of it, of which nothing that
            is learned depends.
        norm_task: the task that the norm layers know of. Without boundaries it is a running count of the groups of
            classes seen (of those that belong to a segment), less one, and every row counts as of its class's group:
            current and memory rows are balanced as if each group had been a task, which is what TBBN's number of groups
            and AdaB2N's weights are made for, and needs nothing but labels of rows that have come.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[Option, ...]] = ()
    uses_memory: ClassVar[bool] = False
    keeps_exemplars: ClassVar[bool] = False  # its memory is filled after each task, not row by row
    replays_in_first_task: ClassVar[bool] = True  # if it has memory; a stream without boundaries has no first task
    transforms: ClassVar[str | None] = None  # of a dataset, where the method has its own; else the protocol's
    heads: ClassVar[tuple[str, ...]] = ("linear",)
    protocol: ClassVar[str] = "online"
    backbone_methods: ClassVar[tuple[str, ...]] = ()  # that it calls beside the forward
    schedule: ClassVar[str] = "step"  # of the main stage, as in `Stage`, unless `--lr_schedule` says otherwise
    # Whether `observe` does the same on the device whatever a batch of the same shapes holds, keeps nothing on the host
    # and waits for nothing, so that a CUDA graph can hold it. A subclass has to say so anew.
    capturable: ClassVar[bool] = False
    # Whether it learns from tasks that share no class, as one that chooses exemplars of a task's classes at its end.
    needs_boundaries: ClassVar[bool] = False

    def __init__(
        self,
        network: Network[Head],
        config: Configuration,
        stream: Stream,
        memory: Any = None,  # `Memory`, or `ExemplarMemory` of a method that keeps exemplars: subclasses say which
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.network = network
        self.config = config
        self.stream = stream
        self.memory = memory
        self.prepare = prepare
        self.task = 0
        self.norm_task = 0
        self.stage_name = "main"
        self.growing = head_grows(config)
        self.optimizer: torch.optim.Optimizer | None = None
        self.lr = config.lr
        self._given = _Given()

    @classmethod
    def undefined(cls) -> list[str]:
        """What a subclass has to define and does not."""
        return sorted(cls.__abstractmethods__)

    @classmethod
    def published_setting(cls, dataset: str, buffer_size: int | None, protocol: str) -> Setting | None:
        """The published learning rate and weights of this method, if there are any."""
        return find_setting(cls.name, dataset, buffer_size, protocol)

    @classmethod
    def resolve_auto(cls, values: dict[str, Any], norm: type[NormPart]) -> dict[str, Any]:
        """What `auto` stands for, by the name of the option. Raises UserError where a choice has no meaning."""
        return {}

    @classmethod
    def check(cls, values: dict[str, Any], num_classes: int | None) -> None:
        """Raise UserError for options that cannot be together; `num_classes` is None before the data are read."""

    @classmethod
    def identity_values(cls, values: dict[str, Any], backbone: type[BackbonePart]) -> dict[str, Any]:
        """The values of a run's active options, with those made one that give equal computations.

        Args:
            values: by the name of the option.
            backbone: that of the run.
        """
        schedule, unused = values.get("lr_schedule"), set()
        if schedule == cls.schedule:
            unused = {"lr_schedule"}  # as in records from when there was no other
        elif schedule not in (None, "step"):
            unused = {"milestones", "lr_decay"}
        values = {name: value for name, value in values.items() if name not in unused}
        if "best_epoch" in values and all(value == 1 for name, value in values.items() if name.endswith("epochs")):
            return values | {"best_epoch": "last"}  # the only one
        return values

    @classmethod
    def replays_at_once(cls, boundaries: str) -> bool:
        """Whether rows of memory are trained on from the first steps on, in a stream with such boundaries."""
        return cls.replays_in_first_task or boundaries == "none"

    @classmethod
    def warnings(cls, values: dict[str, Any], norm: type[NormPart]) -> list[str]:
        """What is not to be expected of a run with these options, in sentences that are shown before it begins."""
        return []

    @classmethod
    def measures_every_task(cls, head: str) -> bool:
        """Whether the network is trained in every task, so that there is something to measure after each."""
        return True

    @classmethod
    def stages(cls, config: Configuration, sizes: StreamSizes, task: int) -> list[Stage]:
        """What is trained during a task; one stage on its own data unless a method has another plan.

        Args:
            config: the options in force, as attributes.
            sizes: of the stream.
            task: counted from 0.
        """
        return [cls.stage(config, (task,))]

    @classmethod
    def stage(cls, config: Configuration, tasks: tuple[int, ...]) -> Stage:
        """A stage on the data of these tasks, with the run's epochs, learning rate and choice of the epoch."""
        data = Plain(Rows(tasks)) if head_grows(config) else TaskStream(tasks)
        return cls.stage_on(config, data, held_out=tasks)

    @classmethod
    def stage_on(cls, config: Configuration, data: DataPlan, held_out: tuple[int, ...]) -> Stage:
        """A stage on any data, with the run's epochs, learning rate and choice of the epoch."""
        schedule = (config.epochs, config.lr, config.milestones, config.lr_decay)
        return Stage(data, *schedule, keep=config.best_epoch, held_out=held_out, schedule=config.lr_schedule)

    @classmethod
    def num_exemplars(cls, config: Configuration, sizes: StreamSizes, num_seen: int) -> int:
        """Images in a memory that is filled after each task, once `num_seen` classes have been seen."""
        return 0

    @classmethod
    def forward_rows(cls, config: Configuration, task: int, num_rows: int, num_remembered: int) -> int:
        """Rows of the smallest training forward of a step; a norm layer may need more than one.

        A plug-in's method that makes forwards of its own may define this too; unless it does, a batch of too few rows
        ends its run when that batch comes, and not before training.

        Args:
            config: the options in force, as attributes.
            task: counted from 0.
            num_rows: of the batch of the stream.
            num_remembered: images in a memory that is filled row by row.
        """
        return num_rows

    @classmethod
    def trained_rows(cls, config: Configuration, task: int, num_rows: int, num_remembered: int) -> int:
        """Rows that go through the network and back in a step, which a budget is counted in (`utils/data/budget.py`).

        A plug-in's method that puts rows through more than once, or makes rows of its own, defines it too.

        Args:
            config, task, num_rows, num_remembered: as for `forward_rows`.
        """
        return num_rows

    def check_batches(self, counted: Sequence[Sequence[CountedStage]]) -> None:
        """Raise UserError if a step of some stage has fewer rows than the norm layers need."""
        needed, num_trained = rows_needed(self.network), 0
        if needed == 1 or not self._says_its_rows():
            return
        config, capacity = self.config, getattr(self.config, "buffer_size", None) or 0
        for each in (stage for stages in counted for stage in stages):
            num_batches = min(each.num_batches, config.debug_mode or each.num_batches)
            num_batches = each.stage.batches_of(0, num_batches)
            num_before = each.batch_size * (num_batches - 1)
            first = each.batch_size if each.num_batches > 1 else each.last_batch
            last = each.last_batch if num_batches == each.num_batches else each.batch_size
            for num_rows, num_seen in ((first, num_trained), (last, num_trained + num_before)):
                rows = self.forward_rows(config, each.task, num_rows, min(capacity, num_seen))
                if rows < needed:
                    raise UserError(
                        f"{each.label}: a batch of {num_rows} puts {rows} through the network at once, and "
                        f"{config.nl} needs {needed}, as the last maps of --backbone {config.backbone} are so small: "
                        f"give another {'--batch_size' if rows == num_rows else '--minibatch_size'}, or larger images"
                    )
            num_trained += each.stage.epochs * (num_before + last)

    @classmethod
    def _says_its_rows(cls) -> bool:
        """Whether `forward_rows` is about the forwards of this class: what a plug-in overrides may make other ones."""
        for each in cls.__mro__:
            if "forward_rows" in vars(each) or each.__module__.startswith("models."):
                return True
            if {"observe", "forward", "losses"} & vars(each).keys():
                return False
        return True

    def uncapturable(self) -> str | None:
        """Why a CUDA graph cannot hold the device's half of a step; None if it can."""
        norm: Any = self.config.parts.norm
        if not vars(type(self)).get("capturable", False):
            return f"--model {self.name} does not say that it is `capturable`"
        if not norm.__module__.startswith("backbone.norm.") and not vars(norm).get("capturable", False):
            return f"--nl {norm.name} does not say that it is `capturable`"
        return None

    def check_described(self, mixed: bool) -> None:
        """Raise UserError if rows of memory were trained on, and no layer that balances them knew of them.

        Args:
            mixed: whether there were batches of images and exemplars together.
        """
        drawn = mixed if self.keeps_exemplars else self.uses_memory and self.memory.num_draws > 0
        if drawn and num_described(self.network) == 0:
            raise UserError(
                f"--model {self.name} takes rows from memory but never describes them to --nl {self.config.nl}, so "
                "that it acts as plain batch normalization: forward them by `self.forward` or `self.described`"
            )

    def begin_task(self, task: int) -> None:
        """Add the outputs of the task that starts, counted from 0, and announce it to the norm layers."""
        self.task = task
        self.grow(task)
        if self.has_boundaries:
            self.norm_task = task
        begin_task(self.network, self.norm_task)

    @property
    def has_boundaries(self) -> bool:
        """Whether the stream lets a method know that another task begins."""
        return self.stream.boundaries != "none"

    def note_rows(self, batch: Draft) -> None:
        """Let the norm layers know of groups of classes that come for the first time, where there are no boundaries."""
        if not self.has_boundaries and (newest := int(batch.tasks.max())) > self.norm_task:
            self.norm_task = newest
            begin_task(self.network, newest)

    def grow(self, task: int) -> None:
        """Add the outputs of a task to a head that grows, drawn from a generator of their own."""
        if not self.growing:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.config.seed, "head", task))
            self.network.head.grow(len(self.stream.classes_of_task(task)))

    def grow_until(self, num_classes: int) -> None:
        """Add the outputs of task after task until there are so many."""
        while self.growing and self.network.head.num_classes < num_classes:
            self.grow(int(self.stream.task_of_class[self.network.head.num_classes]))

    def trained(self, stage: Stage) -> Iterable[nn.Parameter]:
        """The parameters that a stage trains; all of them unless a method freezes some."""
        return self.network.parameters()

    def begin_stage(self, stage: Stage) -> None:
        """Make the stage's optimizer. AdaB2N's task weights are never decayed (Lyu et al. use no weight decay)."""
        self.stage_name = stage.name
        spared = undecayed_parameters if self.config.decay_norms else norm_parameters
        undecayed = {id(parameter) for parameter in spared(self.network)}
        trained = list(self.trained(stage))
        self._learn_only(trained)
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in trained if id(parameter) not in undecayed]}
        ]
        apart = [parameter for parameter in trained if id(parameter) in undecayed]
        if apart:
            groups.append({"params": apart, "weight_decay": 0.0})
        self.optimizer = make_optimizer(groups, stage.lr, self.config)
        self.network.train()

    def _learn_only(self, trained: Iterable[nn.Parameter]) -> None:
        """No gradient is computed or kept for what a stage does not train."""
        learning = {id(parameter) for parameter in trained}
        for parameter in self.network.parameters():
            parameter.requires_grad_(id(parameter) in learning)

    def begin_epoch(self, stage: Stage, epoch: int) -> None:
        """Set the epoch's learning rate."""
        self.set_lr(stage.lr_at(epoch))

    def set_lr(self, lr: float) -> None:
        """Give all of the optimizer's groups a learning rate."""
        assert self.optimizer is not None  # made by `begin_stage`
        self.lr = lr
        for group in self.optimizer.param_groups:
            group["lr"].fill_(lr)

    def plan(self, batch: Draft) -> StepPlan:
        """The host's half of a step on a batch of the stream."""
        self.note_rows(batch)
        return StepPlan(batch)

    def step(self, plan: StepPlan, sent: Values) -> dict[str, Tensor]:
        """The device's half: what `observe` gives, from the plan's values on the device alone."""
        drafts, names = (plan.batch, *(plan.draws or ())), ["batch"]
        names += [f"draw {number}" for number in range(len(drafts) - 1)]
        batch, *draws = make_batches(drafts, [within(sent, name) for name in names])
        if plan.context is not None and plan.table is not None:
            plan.context.place(sent["table"])
        self._given = _Given(None if plan.draws is None else draws, sent.get("targets"), plan.context)
        try:
            return self.observe(batch)
        finally:
            self._given = _Given()

    @abstractmethod
    def observe(self, batch: Batch) -> dict[str, Tensor]:
        """One step on a batch of the stream; the loss terms, detached, stay on the device."""

    def end_task(self, task: int) -> None:
        """After the last step of a task, before it is evaluated."""

    def scores(self, images: Tensor) -> Tensor:
        """What evaluation compares: [N, K]. No row depends on the others, as images of all tasks come together."""
        return self.network(images)

    def logits(self, network: Network[Any], images: Tensor) -> Tensor:
        """What a cross-entropy is taken of, such as the validation loss, [N, K]; `network` may be a copy."""
        return network(images)

    def update(self, loss: Tensor) -> dict[str, Tensor]:
        """Step the optimizer down a loss."""
        assert self.optimizer is not None  # made by `begin_stage`
        self.optimizer.zero_grad()
        loss.backward()
        self.clip_gradients()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def clip_gradients(self) -> None:
        """Limit the gradients before the step, where a method does."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a step changes."""
        return {
            "task": self.task,
            "norm_task": self.norm_task,
            "num_classes": self.network.head.num_classes if self.growing else 0,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "memory": self.memory.state_dict() if self.memory is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; the optimizer's part is loaded when its stage begins again."""
        self.task = state["task"]
        self.norm_task = state.get("norm_task", self.task)  # as in checkpoints of earlier versions, which lack it
        self.grow_until(state["num_classes"])
        begin_task(self.network, self.norm_task)
        self.network.load_state_dict(state["network"])
        if self.memory is not None:
            self.load_memory(state["memory"])

    def load_memory(self, state: dict[str, Any]) -> None:
        """Restore the memory's part of a state."""
        self.memory.load_state_dict(state)


class MemoryMethod(Method):
    """Base of the methods whose batches hold rows of memory, which are described to the norm layers."""

    uses_memory = True

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        self.regularized = bool(self.config.parts.norm.regularizer_options) and self.config.lambd > 0
        self._norm_loss: Tensor | None = None

    @classmethod
    def identity_values(cls, values: dict[str, Any], backbone: type[BackbonePart]) -> dict[str, Any]:
        values = super().identity_values(values, backbone)
        stream = STREAMS.get(values.get("stream", DEFAULT_STREAM))  # a record from when there was one kind lacks it
        if values.get("ada_t0") == 1 and not cls.replays_at_once(stream.boundaries):
            return values | {"ada_t0": 0}  # one computation
        return values

    def plan_with(self, batch: Draft, draws: Sequence[Draft] | None, num_current: int | None) -> StepPlan:
        """The plan of a step, with the composition of its forward.

        Args:
            batch: of the stream.
            draws: from memory, after the rows of the batch; None if the method draws while it observes.
            num_current: rows of the forward that are current; None if the batch is not described to the norm layers.
        """
        self.note_rows(batch)
        drawn = None if draws is None else tuple(draws)
        if num_current is None:
            return StepPlan(batch, drawn)
        tasks = torch.cat([each.tasks for each in (batch, *(draws or ()))])
        context = BatchContext(self.norm_task, tasks, num_current)
        if num_described(self.network) is None:  # nobody reads it
            return StepPlan(batch, drawn, context=context)
        dtype = torch.promote_types(next(self.network.parameters()).dtype, torch.float32)
        return StepPlan(batch, drawn, context=context, table=context.table(dtype))

    def described(self, images: Tensor, tasks: Tensor, num_current: int, call: Callable[[Tensor], Any]) -> Any:
        """What `call` returns for a batch whose composition is described to the norm layers.

        Args:
            images: [N, C, H, W], the current rows first.
            tasks: of each row, [N] int64 on the host.
            num_current: rows that are current, the others come from memory.
            call: the network's forward, one.
        """
        context = self._given.context or BatchContext(self.norm_task, tasks, num_current)
        with batch_context(self.network, context):
            outputs = call(images)
        if self.regularized and self.norm_task >= self.config.ada_t0:
            self._norm_loss = norm_loss(self.network)
        return outputs

    def update(self, loss: Tensor) -> dict[str, Tensor]:
        """Step down loss + lambd · Σ_layers regularizer (Lyu et al., NeurIPS 2023), if the last forward has one."""
        if self._norm_loss is None:
            return super().update(loss)
        regularizer, self._norm_loss = self._norm_loss, None
        losses = super().update(loss + self.config.lambd * regularizer)
        return losses | {"norm_loss": regularizer.detach()}


class ReplayMethod(MemoryMethod):
    """Base of the methods that replay rows of a memory beside the stream's."""

    options = REPLAY_OPTIONS
    memory: Memory
    auto_forward: ClassVar[str] = "separate"  # how the ordinary norm layers are fed in the published runs
    num_draws: ClassVar[int | None] = None  # from memory in each step, if that is known before it

    @classmethod
    def resolve_auto(cls, values: dict[str, Any], norm: type[NormPart]) -> dict[str, Any]:
        """The batch composition in force: for `auto`, that of the online study (Lyu et al., NeurIPS 2023)."""
        forward = values["forward"]
        if forward == "separate" and norm.needs_joint:
            raise UserError(
                f"--forward separate: {norm.name} balances current against memory rows of one batch; "
                "use --forward joint or auto"
            )
        if forward == "auto":
            forward = "joint" if norm.needs_joint else cls.auto_forward
        return {"forward": forward}

    @classmethod
    def rows_of_draw(cls, config: Configuration, task: int, num_remembered: int) -> int:
        """Rows of a draw from memory."""
        replays = task > 0 or cls.replays_at_once(config.parts.stream.boundaries)
        return min(config.minibatch_size, num_remembered) if replays else 0

    @classmethod
    def forward_rows(cls, config: Configuration, task: int, num_rows: int, num_remembered: int) -> int:
        num_drawn = cls.rows_of_draw(config, task, num_remembered)
        if not num_drawn:
            return num_rows
        return num_rows + num_drawn if config.forward == "joint" else min(num_rows, num_drawn)

    @classmethod
    def trained_rows(cls, config: Configuration, task: int, num_rows: int, num_remembered: int) -> int:
        if cls.num_draws is None:
            raise UserError(
                f"--budget_steps: --model {cls.name} does not say how often it draws from memory (`num_draws`)"
            )
        return num_rows + cls.num_draws * cls.rows_of_draw(config, task, num_remembered)

    def plan(self, batch: Draft) -> StepPlan:
        """Draws, and where the batch goes in memory, for a method that says how often it draws."""
        if self.num_draws is None:
            return super().plan(batch)
        draws = [self.memory.choose(self.config.minibatch_size) for _ in range(self.num_draws) if self.replays]
        found = [draw for draw in draws if draw is not None]
        is_joint = bool(found) and self.config.forward == "joint"
        plan = self.plan_with(batch, found, len(batch) if is_joint else None)
        return replace(plan, targets=self.memory.offer(batch.tasks, batch.labels))

    @property
    def replays(self) -> bool:
        """Whether the present task draws from memory."""
        return self.task > 0 or self.replays_at_once(self.stream.boundaries)

    def uncapturable(self) -> str | None:
        if self.num_draws is None:
            return f"--model {self.name} does not say how often it draws from memory (`num_draws`)"
        return super().uncapturable()

    def replay(self, num_draws: int) -> list[Batch]:
        """Independent draws from memory; none while it is empty, and in a first task that is not to replay."""
        if self._given.draws is not None:
            if num_draws != self.num_draws:
                raise UserError(f"--model {self.name} draws {num_draws} times, and its `num_draws` is {self.num_draws}")
            return self._given.draws
        draws = (self.memory.draw(self.config.minibatch_size) for _ in range(num_draws) if self.replays)
        return [draw for draw in draws if draw is not None]

    def forward(self, current: Batch, draws: Sequence[Batch] = ()) -> list[Tensor]:
        """Logits of the current rows, then of each draw.

        Joint: one forward of [current; draw 1; draw 2; …], described to the norm layers. Separate: each part a batch of
        its own, in this order, in one forward where only the norm layers let rows depend on each other. Without draws
        nothing is described, so that every norm layer uses plain batch statistics.
        """
        parts = [current, *draws]
        sizes = [len(part) for part in parts]
        is_joint = self.config.forward == "joint"
        if len(parts) == 1 or not (is_joint or self.network.keeps_rows_apart):
            with self.network.autocast():
                return [self.network(part.images) for part in parts]
        images = torch.cat([part.images for part in parts])
        if is_joint:
            logits = self.described(images, torch.cat([part.tasks for part in parts]), len(current), self.network)
        else:
            with separate_batches(self.network, sizes):
                logits = self.network(images)
        return list(logits.split(sizes))

    def remember(self, batch: Batch, **extras: Tensor) -> None:
        """Offer the current rows to memory, unaugmented, after the step."""
        if self._given.targets is None:
            self.memory.insert(batch, **extras)
        else:
            self.memory.write(self._given.targets, raw=batch.raw, **extras)
