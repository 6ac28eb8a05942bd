"""Base of the offline methods: exemplars chosen after each task, batches of a fixed ratio, a teacher."""

import copy
import operator
from abc import abstractmethod
from functools import partial, reduce
from typing import Any, ClassVar

import torch
from torch import Tensor

from models.base import MemoryMethod, Stage, StepPlan, head_grows
from models.heads import Head, Network, Outputs
from utils.config.configuration import Configuration
from utils.config.options import Condition, Option, chosen, grouped, ranged
from utils.config.parts import BackbonePart, NormPart
from utils.data.batch import Batch, Draft
from utils.data.exemplars import EXEMPLAR_OPTIONS, ExemplarMemory, exemplars_per_class
from utils.data.plan import DataPlan, Pairs, Plain, Rows, StreamSizes, check_ratio
from utils.errors import UserError
from utils.inference import evaluating

_RATIO = chosen("batching", "ratio")

PAIR_OPTIONS = grouped(
    "memory",
    Option(
        "forward",
        str,
        "auto",
        "current and memory rows as one batch to the norm layers",
        choices=("auto", "joint"),
        active_when=(Condition((), lambda: False, "current and memory rows are always one batch here"),),
        always_in_identity=True,  # as tables show it
    ),
    Option(
        "batch_ratio",
        ranged(int, 1),
        3,
        "current rows per memory row in a batch, from the second task on",
        active_when=(_RATIO,),
    ),
    Option(
        "batching",
        str,
        "auto",
        "batches: fixed ratio of current and memory rows, or shuffled union of both; auto: set by the method",
        choices=("auto", "ratio", "union"),
    ),
    Option(
        "ratio_cycle",
        str,
        "replay",
        "how the smaller part is repeated within an epoch: as before, or reshuffled and augmented anew",
        choices=("replay", "reshuffle"),
        active_when=(_RATIO,),
    ),
    Option(
        "current_pool",
        str,
        "auto",
        "source of current rows: the task, or its union with the exemplars; auto: set by the method",
        choices=("auto", "task", "union"),
        active_when=(_RATIO,),
    ),
    min_tasks=2,
)


class ExemplarMethod(MemoryMethod):
    """Learns a task from batches of current and memory rows, then chooses its exemplars.

    Attributes:
        default_batching: `ratio`, current and memory rows of fixed numbers; `union`, all of them shuffled together.
        default_pool: where current rows come from in the published runs, `task` or `union`.
        drops_last: whether a last batch of current rows that is not full is left out before it is paired.
        has_teacher: whether the network is copied after each task, for the next one to be distilled from.
        reads_maps: whether losses are of the backbone's maps, which are not kept otherwise.
    """

    options = EXEMPLAR_OPTIONS + PAIR_OPTIONS
    keeps_exemplars = True
    needs_boundaries = True
    replays_in_first_task = False
    heads: ClassVar[tuple[str, ...]] = ("growing",)
    protocol = "offline"
    default_batching: ClassVar[str] = "ratio"
    default_pool: ClassVar[str] = "task"
    drops_last: ClassVar[bool] = False
    has_teacher: ClassVar[bool] = False
    reads_maps: ClassVar[bool] = False

    memory: ExemplarMemory

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        self.teacher: Network[Head] | None = None

    @classmethod
    def resolve_auto(cls, values: dict[str, Any], norm: type[NormPart]) -> dict[str, Any]:
        """Rows always go through the network together; a layer that balances them needs parts of fixed sizes."""
        batching, pool = values["batching"], values["current_pool"]
        if batching == "union" and norm.needs_joint:
            raise UserError(
                f"--batching union: {norm.name} balances current against memory rows, which a union mixes; "
                "use --batching ratio or auto"
            )
        if batching == "auto":
            batching = "ratio" if norm.needs_joint else cls.default_batching
        pool = cls.default_pool if pool == "auto" else pool
        return {"forward": "joint", "batching": batching, "current_pool": pool}

    @classmethod
    def check(cls, values: dict[str, Any], num_classes: int | None) -> None:
        if num_classes and values["buffer_size"] < num_classes:
            raise UserError(
                f"--buffer_size {values['buffer_size']} is less than one image for each of the {num_classes} classes"
            )
        batch_ratio = next(option for option in cls.options if option.name == "batch_ratio")
        if not batch_ratio.inactive_because(values):
            check_ratio(values["batch_size"], values["batch_ratio"])

    @classmethod
    def identity_values(cls, values: dict[str, Any], backbone: type[BackbonePart]) -> dict[str, Any]:
        values = super().identity_values(values, backbone)
        if values.get("batching") == "union":
            return values | {"current_pool": cls.default_pool}  # as in records from when it was allowed
        return values

    @classmethod
    def num_exemplars(cls, config: Configuration, sizes: StreamSizes, num_seen: int) -> int:
        if not num_seen:
            return 0
        quota = exemplars_per_class(config.buffer_size, config.quota, num_seen, sizes.num_classes)
        return sum(min(size, quota) for size in sizes.class_sizes[:num_seen])

    @property
    def num_old(self) -> int:
        """Classes of the tasks before this one."""
        return self.stream.classes_of_task(self.task).start

    @property
    def num_seen(self) -> int:
        """Classes of all tasks so far."""
        return self.stream.classes_of_task(self.task).stop

    def columns(self, task: int) -> slice:
        """The outputs of a task."""
        classes = self.stream.classes_of_task(task)
        return slice(classes.start, classes.stop)

    @classmethod
    def stages(cls, config: Configuration, sizes: StreamSizes, task: int) -> list[Stage]:
        return [cls.main_stage(config, task)]

    @classmethod
    def main_stage(cls, config: Configuration, task: int) -> Stage:
        """The first task alone; a later one with the exemplars beside it, or among its own images."""
        if task == 0:
            return cls.stage(config, (0,))
        if config.batching == "union":
            data: DataPlan = Plain(Rows((task,), exemplars=1), drop_last=head_grows(config))
        else:
            data = cls.pairs(config, Rows((task,), exemplars=int(config.current_pool == "union")))
        return cls.stage_on(config, data, held_out=(task,))

    @classmethod
    def pairs(cls, config: Configuration, current: Rows) -> Pairs:
        """Batches of these current rows beside the exemplars."""
        return Pairs(current, Rows(exemplars=1), config.batch_ratio, config.ratio_cycle, cls.drops_last)

    def begin_stage(self, stage: Stage) -> None:
        if stage.chooses_exemplars and not self.memory.holds(self.num_seen - 1):
            self.choose_exemplars()
        super().begin_stage(stage)

    def plan(self, batch: Draft) -> StepPlan:
        return self.plan_with(batch, (), self.num_current(batch))

    def num_current(self, batch: Batch | Draft) -> int | None:
        """Current rows of a batch, as described to the norm layers; None if they get no description."""
        return batch.num_current

    def observe(self, batch: Batch) -> dict[str, Tensor]:
        terms = self.losses(batch)
        losses = self.update(reduce(operator.add, terms.values()))
        return {name: term.detach() for name, term in terms.items()} | losses

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss by name, which are summed."""

    def forward(self, batch: Batch) -> Outputs:
        """Scores, features and any maps of a batch; its memory rows are described to the norm layers."""
        call = partial(self.network.outputs, maps=self.reads_maps)
        num_current = self.num_current(batch)
        if num_current is None:
            return call(batch.images)
        return self.described(batch.images, batch.tasks, num_current, call)

    @torch.no_grad()
    def teach(self, images: Tensor) -> Outputs:
        """Scores, features and any maps of the network as it was after the last task."""
        assert self.teacher is not None  # from the end of the first task on
        return self.teacher.outputs(images, maps=self.reads_maps)

    def end_task(self, task: int) -> None:
        self.choose_exemplars()
        if self.has_teacher:
            self.teacher = frozen_copy(self.network)

    def choose_exemplars(self) -> None:
        """Fill memory for all classes seen, in evaluation mode and with the transform of test images."""
        with evaluating(self.network):
            self.memory.update(self.features_of, self.stream.pool((self.task,)), self.num_seen)

    def features_of(self, raw: Tensor) -> Tensor:
        """Features [N, D] of raw images [N, C, H, W]."""
        assert self.prepare is not None  # given to every method that is trained
        return self.network.outputs(self.prepare(raw)).features

    def state_dict(self) -> dict[str, Any]:
        teacher = None
        if self.teacher is not None:
            teacher = {"num_classes": self.teacher.head.num_classes, "network": self.teacher.state_dict()}
        return super().state_dict() | {"teacher": teacher}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["teacher"] is not None:
            self.grow_until(state["teacher"]["num_classes"])
            self.teacher = frozen_copy(self.network)
            self.teacher.load_state_dict(state["teacher"]["network"])
        super().load_state_dict(state)

    def load_memory(self, state: dict[str, Any]) -> None:
        """Fetch the exemplars of a state from the training images again."""
        self.memory.load_state_dict(state, self.stream.pool(range(self.stream.num_tasks)))


def frozen_copy(network: Network[Head]) -> Network[Head]:
    """A copy in evaluation mode that learns nothing more."""
    return copy.deepcopy(network).eval().requires_grad_(False)
