"""Tasks that share no class: equal ones, or a large first one and equal ones after it."""

from dataclasses import replace
from typing import Any, ClassVar

from datasets.arrangement import N_TASKS, Arrangement, even_sizes
from utils.config.options import Option, ranged
from utils.config.registry import STREAMS
from utils.errors import UserError


@STREAMS.register()
class Split(Arrangement):
    """`--first_task_classes 50 --classes_per_task 5` is what Hou et al. (LUCIR, CVPR 2019) start from and go on by."""

    options: ClassVar = (
        replace(N_TASKS, excludes=("classes_per_task",)),
        Option(
            "first_task_classes",
            ranged(int, 1),
            None,
            "classes of the first task; the others share the rest equally",
            source="as the other tasks",
            min_tasks=2,
        ),
        Option(
            "classes_per_task",
            ranged(int, 1),
            None,
            "classes of every task, or of every task but the first",
            source="by --n_tasks",
            excludes=("n_tasks",),
        ),
    )

    @classmethod
    def identity_values(cls, values: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """Sizes that are the dataset's own are one stream, however they were typed."""
        if values.get("classes_per_task") is not None:
            values = {name: value for name, value in values.items() if name != "n_tasks"}  # which it takes the place of
        options = {option.name: values[option.name] for option in cls.options if option.name in values}
        if dataset.num_classes is None:
            return values
        typed, own = (each.task_sizes(dataset.num_classes, 0) for each in (cls(dataset, **options), cls(dataset)))
        return {name: value for name, value in values.items() if typed != own or name not in options}

    def num_tasks(self, num_classes: int | None) -> int | None:
        first, each = self.settings["first_task_classes"], self.settings["classes_per_task"]
        if each is None:
            return super().num_tasks(num_classes)
        if num_classes is None:
            return None
        return (first is not None) + -(-max(0, num_classes - (first or 0)) // each)

    def task_sizes(self, num_classes: int, seed: int) -> tuple[int, ...]:
        first, each = self.settings["first_task_classes"], self.settings["classes_per_task"]
        if first is None and each is None:
            return super().task_sizes(num_classes, seed)
        if first is not None and first >= num_classes:
            raise UserError(
                f"--first_task_classes {first} leaves no class for a second task: there are {num_classes}; give at "
                f"most {num_classes - 1}"
            )
        rest, where = num_classes - (first or 0), " after the first task" if first else ""
        begun = () if first is None else (first,)
        if each is None:
            num_others = (super().num_tasks(num_classes) or 1) - 1
            if rest < num_others:
                raise UserError(
                    f"--first_task_classes {first} leaves a task without classes: {num_others} tasks would share "
                    f"{rest} class{'es' if rest != 1 else ''} after the first one; give fewer, or fewer --n_tasks"
                )
            return begun + (even_sizes(rest, num_others) if num_others else ())
        if rest % each:
            fitting = ", ".join(str(size) for size in range(1, rest + 1) if rest % size == 0)
            raise UserError(
                f"--classes_per_task {each}: the {rest} classes{where} do not make whole tasks of {each}; possible are "
                f"{fitting}"
            )
        return begun + (each,) * (rest // each)
