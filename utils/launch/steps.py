"""How many training steps a run takes: the method's own stages, over rows that are counted and not read."""

import inspect
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from utils.config.configuration import Configuration

if TYPE_CHECKING:
    from utils.launch.plan import Job

StageSteps = tuple[tuple[int, ...], ...]  # of each stage of each task
Counted = TypeVar("Counted")


class Steps:
    """The training steps of jobs, counted once for all that have the same ones."""

    def __init__(self) -> None:
        self._counted: dict[tuple[str, ...], StageSteps | None] = {}
        self._retuning: dict[str, int | None] = {}  # by identity
        self._of_job: dict[str, StageSteps | None] = {}  # by identity

    def of_stages(self, job: "Job") -> StageSteps | None:
        """The steps of each stage of each task; None if a plug-in's stages cannot be told before a run."""
        if job.identity not in self._of_job:
            self._of_job[job.identity] = self._count_once(job)
        return self._of_job[job.identity]

    def _count_once(self, job: "Job") -> StageSteps | None:
        config = job.config
        counting = config.chosen(option for option in config.options.values() if option.changes_result)
        searched = {option.name for option in (*config.parts.norm.options, *config.parts.norm.regularizer_options)}
        values = {name: value for name, value in counting.items() if name not in searched | {"seed", "nl"}}
        key = (job.data.fingerprint, repr(sorted(values.items())))
        if key not in self._counted:
            self._counted[key] = _count(count_steps, config, job.data.class_sizes)
        return self._counted[key]

    def of(self, job: "Job") -> int | None:
        """The steps of a whole run, None if they cannot be told."""
        stages = self.of_stages(job)
        return None if stages is None else sum(map(sum, stages))

    def of_retuning(self, job: "Job") -> int | None:
        """The steps that re-tune copies of a run's norm layers (`utils/run/diagnosis.py`), None as for `of`."""
        if not job.config.retune_norms:
            return 0
        if job.identity not in self._retuning:
            stages = self.of_stages(job)
            counted = None if stages is None else _count(_retuning_steps, job.config, job.data.class_sizes, stages)
            self._retuning[job.identity] = counted
        return self._retuning[job.identity]

    @staticmethod
    def are_exact(job: "Job") -> bool:
        """Whether every task has as many images whichever classes it gets; the order of classes is the run's."""
        return len(set(job.data.class_sizes)) == 1


def _count(count: Callable[..., Counted], *facts: Any) -> Counted | None:
    try:
        return count(*facts)
    except Exception:  # a plug-in's stages may need what only a run has; a user's mistake is the run's to tell
        return None


def count_steps(config: Configuration, class_sizes: Sequence[int]) -> StageSteps:
    """The training steps of each stage of each task.

    Exact where the tasks have equally many images; otherwise as if the classes came in the order of the data.

    Args:
        config: of the run.
        class_sizes: training images of each class, in the order of the data.

    Raises:
        UserError: a stage cannot fill a batch.
    """
    stream = _counted_stream(config, class_sizes)
    memory = _CountedExemplars(config, stream) if config.parts.method.keeps_exemplars else None
    loaders = _counted_loaders(config, stream, memory)
    # Not initialised, as that would take a network: stages are told by the configuration and the stream alone.
    method = config.parts.method.__new__(config.parts.method)
    method.config, method.stream, method.growing = config, stream, config.parts.head != "linear"
    counted = []
    for task in range(stream.num_tasks):
        steps = []
        for number, stage in enumerate(method.stages(task)):
            if memory is not None:
                memory.num_seen = stream.classes_of_task(task + _has_chosen(stage.data)).start
            num_passes = stage.epochs if stage.trains else 0
            steps.append(num_passes * loaders.of(stage.data, (task, number)).num_batches)
        counted.append(tuple(steps))
    return tuple(counted)


def _retuning_steps(config: Configuration, class_sizes: Sequence[int], stages: StageSteps) -> int:
    """After every task up to which something was trained, epochs over all tasks seen."""
    from utils.data.plan import Plain, Rows

    if not _has_anything_to_retune(config):
        return 0
    stream = _counted_stream(config, class_sizes)
    loaders = _counted_loaders(config, stream, None)
    measured = [task for task in range(stream.num_tasks) if any(map(any, stages[: task + 1]))]
    plans = (Plain(Rows(tuple(range(task + 1)))) for task in measured)
    return config.retune_norms * sum(loaders.of(plan, ("retune", 0)).num_batches for plan in plans)


def _has_anything_to_retune(config: Configuration) -> bool:
    """Whether the norm layers have parameters or statistics; neither depends on their number of channels."""
    norm = config.parts.norm
    more = {"num_tasks": 2} if "num_tasks" in inspect.signature(norm).parameters else {}
    return bool(norm(64, spatial_size=8, affine=config.affine, **more).state_dict())


def _counted_stream(config: Configuration, class_sizes: Sequence[int]) -> "_CountedStream":
    dataset = config.parts.dataset(**config.chosen(config.parts.dataset.options))
    return _CountedStream(dataset.num_tasks, _trained_on(class_sizes, config))


def _counted_loaders(config: Configuration, stream: "_CountedStream", memory: "_CountedExemplars | None") -> Any:
    from utils.data.plan import Loaders

    augmentation = SimpleNamespace(of_stream=None, transform=None)
    return Loaders(stream, memory, augmentation, config.batch_size, config.seed)


def _trained_on(class_sizes: Sequence[int], config: Configuration) -> list[int]:
    """Images of each class that are left when the shares of `datasets/stream.py` are held out, one after the other."""
    from utils.data.held_out import num_held_out

    left = list(class_sizes)
    for share in (config.validation, config.val_fraction):
        left = [size - num_held_out(size, share) for size in left]
    return left


def _has_chosen(data: Any) -> bool:
    """Whether the task's own exemplars are chosen before a stage: it trains on exemplars alone."""
    from utils.data.plan import Plain

    return isinstance(data, Plain) and not data.rows.tasks


class _CountedStream:
    """A stream (`datasets/stream.py`) whose images have no pixels."""

    def __init__(self, num_tasks: int, class_sizes: Sequence[int]) -> None:
        self.num_tasks = num_tasks
        self.num_classes = len(class_sizes)
        self.class_sizes = class_sizes

    def classes_of_task(self, task: int) -> range:
        size = self.num_classes // self.num_tasks
        return range(task * size, (task + 1) * size)

    def num_batches(self, tasks: Sequence[int], batch_size: int) -> int:
        return -(-self._count(tasks) // batch_size)

    def pool(self, tasks: Sequence[int]) -> Any:
        return _pool_of(self._count(tasks))

    def _count(self, tasks: Sequence[int]) -> int:
        return sum(self.class_sizes[label] for task in tasks for label in self.classes_of_task(task))


class _CountedExemplars:
    """The exemplars (`utils/data/exemplars.py`) of the first `num_seen` classes, without pixels."""

    def __init__(self, config: Configuration, stream: _CountedStream) -> None:
        from utils.data.exemplars import ExemplarMemory

        self.num_seen = 0
        self._class_sizes = stream.class_sizes
        self._memory = ExemplarMemory(
            config.buffer_size,
            selection=config.exemplar_selection,
            quota=config.quota,
            reherd=config.reherd,
            num_classes=stream.num_classes,
            device="cpu",
            seed=config.seed,
        )

    def pool(self) -> Any:
        quota = self._memory.num_per_class(self.num_seen)
        return _pool_of(sum(min(size, quota) for size in self._class_sizes[: self.num_seen]))


def _pool_of(number: int) -> Any:
    import torch

    from utils.data.pools import TensorPool

    nothing = torch.zeros(number, dtype=torch.int64)
    return TensorPool(torch.empty(number, 0, 0, 0, dtype=torch.uint8), nothing, nothing)
