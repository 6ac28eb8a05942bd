"""What a stream is, as a part that `--stream` names: which classes each task brings, and when every image comes."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from utils.config.options import Option, ranged
from utils.errors import UserError

N_TASKS = Option(
    "n_tasks",
    ranged(int, 1),
    None,
    "number of tasks; where the classes do not divide evenly, the first tasks have one class more",
    source="set by the dataset",
)


@dataclass(frozen=True)
class Arranged:
    """The training images in the order of their tasks.

    Attributes:
        rows: of the labels that were arranged, [N] int64, each once, task after task.
        starts: those that come during task t are `rows[starts[t] : starts[t + 1]]`, [T + 1] int64.
    """

    rows: np.ndarray
    starts: np.ndarray

    @classmethod
    def by_task(cls, tasks: np.ndarray, labels: np.ndarray, num_tasks: int) -> "Arranged":
        """Images sorted by their task [N], then by label [N], then as the data has them."""
        rows = np.lexsort((labels, tasks))
        return cls(rows, np.searchsorted(tasks[rows], np.arange(num_tasks + 1)))


class Arrangement:
    """Base of the streams. Labels are numbered so that those of a task follow those of the task before.

    Everything is a pure function of the arguments, so that the launcher counts steps by it and a resumed run continues.

    Args:
        dataset: what is split, whose own tasks are the default; None: `n_tasks` decides.
        options: the values of `options`, by name.

    Attributes:
        boundaries: `sharp`: the images of a class come in one task alone; `blurred`: tasks share classes; `none`: the
            classes change so gradually that nobody could say where a task begins. The last two have tasks that are
            segments of the stream, after which it is evaluated.
        is_shuffled: whether the images of a task are shuffled in every epoch, or come in the order of the stream.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[Option, ...]] = (N_TASKS,)
    boundaries: ClassVar[Literal["sharp", "blurred", "none"]] = "sharp"
    is_shuffled: ClassVar[bool] = True

    def __init__(self, dataset: Any = None, **options: Any) -> None:
        self.settings = {option.name: options.get(option.name, option.default) for option in self.options}
        own = getattr(dataset, "task_sizes", None)
        self._own_sizes: tuple[int, ...] | None = own if self.settings["n_tasks"] is None else None
        self._num_tasks: Any = self.settings["n_tasks"] or (len(own) if own else getattr(dataset, "num_tasks", None))

    @classmethod
    def undefined(cls) -> list[str]:
        """What a subclass has to define and does not."""
        return []

    @classmethod
    def identity_values(cls, values: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """The values of a run's active options, where options that give the same stream get the same values."""
        return values

    def num_tasks(self, num_classes: int | None) -> int | None:
        """T; None if it follows from a number of classes that is not known yet."""
        return self._num_tasks

    def task_sizes(self, num_classes: int, seed: int) -> tuple[int, ...]:
        """The number of classes of each task, which a class belongs to even where its images come in others too.

        Args:
            num_classes: K.
            seed: of the run.

        Raises:
            UserError: a task would have none.
        """
        if self._own_sizes is None:
            return even_sizes(num_classes, self._num_tasks)
        if sum(self._own_sizes) != num_classes or min(self._own_sizes) < 1:
            sizes = ", ".join(map(str, self._own_sizes))
            raise UserError(
                f"the dataset's `task_sizes` ({sizes}) do not split its {num_classes} classes into tasks: give sizes "
                f"of at least 1 that add up to {num_classes}, or --n_tasks"
            )
        return tuple(self._own_sizes)

    def arrange(self, labels: np.ndarray, task_of_class: np.ndarray, seed: int) -> Arranged:
        """When every training image comes; in the task of its class unless a stream has another rule.

        Args:
            labels: [N] int64.
            task_of_class: the task that each class belongs to, [K] int64, by `task_sizes`.
            seed: of the run.
        """
        return Arranged.by_task(task_of_class[labels], labels, int(task_of_class[-1]) + 1)


def even_sizes(num_classes: int, num_tasks: int) -> tuple[int, ...]:
    """Sizes as equal as possible: where the classes do not divide evenly, the first tasks have one class more.

    Args:
        num_classes: to split.
        num_tasks: at least 1.

    Raises:
        UserError: there are fewer classes than tasks.
    """
    if num_classes < num_tasks:
        raise UserError(
            f"--n_tasks leaves a task without classes: {num_tasks} tasks would share {num_classes} "
            f"class{'es' if num_classes != 1 else ''}; give fewer"
        )
    size, rest = divmod(num_classes, num_tasks)
    return (size + 1,) * rest + (size,) * (num_tasks - rest)
