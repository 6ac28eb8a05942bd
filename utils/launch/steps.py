"""How many training steps a run takes, counted before the run and without its images."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from utils.config.configuration import Configuration
from utils.launch.job import Job, naming

if TYPE_CHECKING:
    from utils.data.plan import StreamSizes

StageSteps = tuple[tuple[int, ...], ...]  # of each stage of each task


class StepCounts:
    """The training steps of jobs, counted once for all that have the same ones."""

    def __init__(self) -> None:
        self._counted: dict[tuple[Any, ...], StageSteps] = {}
        self._retuning: dict[str, int] = {}  # by identity
        self._of_job: dict[str, StageSteps] = {}  # by identity

    def of_stages(self, job: Job) -> StageSteps:
        """The steps of each stage of each task.

        Raises:
            UserError: a stage cannot fill a batch, or the method's `stages` fails.
        """
        if job.identity not in self._of_job:
            self._of_job[job.identity] = self._count_once(job)
        return self._of_job[job.identity]

    def _count_once(self, job: Job) -> StageSteps:
        with naming(job):
            key = (*_counting(job), _drawn(job.config, len(job.data.class_sizes)))
            if key not in self._counted:
                self._counted[key] = count_steps(job.config, job.data.class_sizes)
        return self._counted[key]

    def of(self, job: Job) -> int:
        """The steps of a whole run."""
        return sum(map(sum, self.of_stages(job)))

    def of_retuning(self, job: Job) -> int:
        """The steps that re-tune copies of a run's norm layers (`utils/run/diagnosis.py`)."""
        if not job.config.retune_norms:
            return 0
        if job.identity not in self._retuning:
            stages = self.of_stages(job)
            with naming(job):
                self._retuning[job.identity] = _retuning_steps(job.config, job.data.class_sizes, stages)
        return self._retuning[job.identity]

    @staticmethod
    def are_exact(job: Job) -> bool:
        """Whether every task has as many images whichever classes it gets; the order of classes is the run's."""
        is_sharp = job.config.parts.stream.boundaries == "sharp"
        return is_sharp and job.config.imbalance == "none" and len(set(job.data.class_sizes)) == 1


def _counting(job: Job) -> tuple[str, str]:
    """The data and the values that a run's steps depend on, but for its seed."""
    config = job.config
    counting = config.chosen(option for option in config.options.values() if option.changes_result)
    searched = {option.name for option in (*config.parts.norm.options, *config.parts.norm.regularizer_options)}
    values = {name: value for name, value in counting.items() if name not in searched | {"seed", "nl"}}
    return job.data.fingerprint, repr(sorted(values.items()))


def _drawn(config: Configuration, num_classes: int) -> tuple[int, ...]:
    """What the seed decides of a run's steps: the classes of each task, or the whole, if images are drawn for them."""
    draws_images = config.parts.stream.boundaries != "sharp" or config.imbalance != "none"
    return (config.seed,) if draws_images else config.arrangement.task_sizes(num_classes, config.seed)


def check_evaluations(jobs: Iterable[Job]) -> None:
    """Raises UserError if a run could not be evaluated inside its tasks as it is asked to."""
    first: dict[Any, Job] = {}
    for job in jobs:
        if job.config.eval_every and job.data.test_sizes:
            first.setdefault((_counting(job), job.config.seed), job)
    for job in first.values():
        with naming(job):
            _check_evaluations(job.config, job.data.class_sizes, job.data.test_sizes)


def _check_evaluations(config: Configuration, class_sizes: Sequence[int], test_sizes: Sequence[int]) -> None:
    from utils.data.budget import plan_stages
    from utils.data.class_order import class_order_of
    from utils.data.held_out import num_held_out
    from utils.data.inside import check_inside

    if config.validation:
        test_sizes = [num_held_out(size, config.validation) for size in class_sizes]
    classes = class_order_of(config, len(class_sizes)).argsort()  # by label
    planned = plan_stages(config, _sizes(config, [class_sizes[each] for each in classes]))
    check_inside(config, planned, [test_sizes[each] for each in classes])


def count_steps(config: Configuration, class_sizes: Sequence[int]) -> StageSteps:
    """The training steps of each stage of each task.

    Exact where the tasks have equally many images; otherwise as if the classes came in the order of the data.

    Args:
        config: of the run.
        class_sizes: training images of each class, in the order of the data.

    Raises:
        UserError: a stage cannot fill a batch, the method's `stages` fails, or the budget does not fit the run.
    """
    from utils.data.budget import plan_stages

    planned = plan_stages(config, _sizes(config, class_sizes))
    return tuple(tuple(stage.num_steps for stage in stages) for stages in planned.by_task)


def _retuning_steps(config: Configuration, class_sizes: Sequence[int], stages: StageSteps) -> int:
    """After every task up to which something was trained, epochs over all tasks seen."""
    from utils.data.plan import all_until, count_batches

    if not _has_anything_to_retune(config):
        return 0
    sizes = _sizes(config, class_sizes)
    measured = [task for task in range(sizes.num_tasks) if any(map(any, stages[: task + 1]))]
    plans = [all_until(task) for task in measured]
    counts = (count_batches(plan, [sizes.images_of(plan.rows.tasks)], config.batch_size) for plan in plans)
    return config.retune_norms * sum(counts)


def _has_anything_to_retune(config: Configuration) -> bool:
    """Whether the norm layers have parameters or statistics; neither depends on their number of channels."""
    return bool(config.parts.norm_layer(config.values, 64, 8).state_dict())


def _sizes(config: Configuration, class_sizes: Sequence[int]) -> "StreamSizes":
    """Those of a run's stream, by the images of each class in its order, of which shares are held out."""
    import numpy as np

    from utils.data.held_out import num_held_out
    from utils.data.long_tail import make_long_tail
    from utils.data.plan import StreamSizes

    long_tail = make_long_tail(config)
    class_sizes = [size - num_held_out(size, config.validation) for size in class_sizes]
    class_sizes = class_sizes if long_tail is None else long_tail.sizes(class_sizes)
    class_sizes = [size - num_held_out(size, config.val_fraction) for size in class_sizes]
    arrangement, labels = config.arrangement, np.repeat(np.arange(len(class_sizes)), class_sizes)
    sizes = arrangement.task_sizes(len(class_sizes), config.seed)
    arranged = arrangement.arrange(labels, np.repeat(np.arange(len(sizes)), sizes), config.seed)
    ends = list(accumulate(sizes))
    classes = tuple(range(end - size, end) for end, size in zip(ends, sizes, strict=True))
    return StreamSizes(tuple(class_sizes), classes, tuple(np.diff(arranged.starts).tolist()))
