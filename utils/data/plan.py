"""What a stage trains on, described as data, and how many batches that makes.

Nothing here reads an image: what each stage trains on follows from the configuration and the stream's sizes alone.
The check before training, the launcher's count of steps and the loaders (`loaders.py`) all count here.
"""

import inspect
import math
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.config.configuration import Configuration
from utils.errors import UserError

if TYPE_CHECKING:
    from utils.data.pools import Stream


@dataclass(frozen=True)
class StreamSizes:
    """How many training images a stream has, and which classes each of its tasks brings.

    Attributes:
        class_sizes: training images of each class, by label.
        task_classes: the labels of each task; those of a task follow those of the task before.
        task_images: training images that come during each task; None: those of its classes.
    """

    class_sizes: tuple[int, ...]
    task_classes: tuple[range, ...]
    task_images: tuple[int, ...] | None = None

    @classmethod
    def of(cls, stream: "Stream") -> "StreamSizes":
        """The sizes of a stream (`datasets/stream.py`), without held-out images."""
        tasks = range(stream.num_tasks)
        counts = stream.pool(tasks).labels.bincount(minlength=stream.num_classes)
        classes = tuple(stream.classes_of_task(task) for task in tasks)
        return cls(tuple(counts.tolist()), classes, tuple(len(stream.pool((task,))) for task in tasks))

    @property
    def num_tasks(self) -> int:
        """T."""
        return len(self.task_classes)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_sizes)

    @property
    def task_sizes(self) -> tuple[int, ...]:
        """The number of classes of each task."""
        return tuple(map(len, self.task_classes))

    def classes_of_task(self, task: int) -> range:
        """The labels of a task, counted from 0."""
        return self.task_classes[task]

    def images_of(self, tasks: Iterable[int]) -> int:
        """Training images that come during these tasks together."""
        if self.task_images is not None:
            return sum(self.task_images[task] for task in tasks)
        return sum(self.class_sizes[label] for task in tasks for label in self.task_classes[task])


def sizes_in_words(sizes: Sequence[int]) -> str:
    """Such as `6 tasks of 50, 10, 10, 10, 10, 10 classes`; equal ones as `5 tasks, 10 classes` altogether."""
    if len(set(sizes)) == 1:
        return f"{len(sizes)} task{'s' if len(sizes) > 1 else ''}, {sum(sizes)} classes"
    return f"{len(sizes)} tasks of {', '.join(map(str, sizes))} classes"


@dataclass(frozen=True)
class Rows:
    """Training images that are shuffled together.

    Attributes:
        tasks: the tasks whose training images are among them.
        exemplars: how many times the exemplars are among them.
        balanced: only as many of the tasks' images, drawn at random, as there are exemplars.
    """

    tasks: tuple[int, ...] = ()
    exemplars: int = 0
    balanced: bool = False

    def count(self, num_images: int, num_exemplars: int) -> int:
        """How many rows these are, given the numbers of images of the tasks and of exemplars."""
        current = min(num_images, num_exemplars) if self.balanced else num_images
        return current + self.exemplars * num_exemplars


@dataclass(frozen=True)
class TaskStream:
    """The training images of some tasks, shuffled, a short last batch included: what online methods learn from.

    Attributes:
        tasks: their indices.
    """

    tasks: tuple[int, ...]

    @property
    def parts(self) -> tuple[Rows, ...]:
        """The rows that are shuffled together."""
        return (Rows(self.tasks),)


@dataclass(frozen=True)
class Plain:
    """Batches of the rows.

    Attributes:
        drop_last: whether a last batch that is not full is left out.
    """

    rows: Rows
    drop_last: bool = True

    @property
    def parts(self) -> tuple[Rows, ...]:
        """The rows that are shuffled together."""
        return (self.rows,)


@dataclass(frozen=True)
class Pairs:
    """Batches of a fixed number of current rows, then of memory rows, drawn side by side.

    Attributes:
        current, memory: where the two parts are drawn from.
        ratio: current rows to one memory row.
        cycle: `replay` repeats the first pass of the smaller part within an epoch, augmentation included; `reshuffle`
            draws anew.
        drop_last: a part that comes again does so before its last batch if that is not full.
    """

    current: Rows
    memory: Rows
    ratio: int
    cycle: str = "replay"
    drop_last: bool = False

    @property
    def parts(self) -> tuple[Rows, ...]:
        """The rows that are shuffled together, each part by itself."""
        return self.current, self.memory


DataPlan = TaskStream | Plain | Pairs


def mixes_memory(data: DataPlan) -> bool:
    """Whether images of tasks and exemplars are trained on together."""
    return any(rows.tasks for rows in data.parts) and any(rows.exemplars for rows in data.parts)


def all_until(task: int) -> Plain:
    """All training images of the tasks up to this one, in full batches: what norm layers are re-tuned on."""
    return Plain(Rows(tuple(range(task + 1))))


def part_sizes(batch_size: int, ratio: int) -> tuple[int, int]:
    """Current and memory rows of a batch: int(B r / (r + 1)) and int(B / (r + 1)) (Cha et al., CVPR 2023)."""
    return batch_size * ratio // (ratio + 1), batch_size // (ratio + 1)


def check_ratio(batch_size: int, ratio: int) -> None:
    """Raise UserError unless the two parts make up the whole batch."""
    num_current, num_memory = part_sizes(batch_size, ratio)
    if not min(num_current, num_memory):
        raise UserError(
            f"--batch_size {batch_size} leaves one of the parts without a row at --batch_ratio {ratio}; give at least "
            f"--batch_size {ratio + 1}"
        )
    if num_current + num_memory != batch_size:
        lower = batch_size // (ratio + 1) * (ratio + 1)
        raise UserError(
            f"--batch_size {batch_size} cannot be split at --batch_ratio {ratio} into whole parts; give --batch_size "
            f"{lower} or {lower + ratio + 1}"
        )


def count_plain(num_rows: int, batch_size: int, drop_last: bool) -> int:
    """Batches of a pass over these rows, including an incomplete last one unless it is dropped."""
    return num_rows // batch_size if drop_last else -(-num_rows // batch_size)


Turn = tuple[int, int]  # pass over a part, and batch in it


def pair_up(num_rows: Sequence[int], sizes: Sequence[int], *, replays: bool, drop_last: bool) -> list[tuple[Turn, ...]]:
    """The two batches of every full pair of an epoch.

    Two shuffled passes run side by side for as many steps as the longer one has batches; the shorter one starts again
    whenever it ends.

    Args:
        num_rows: of the current and of the memory part.
        sizes: rows of each in a batch.
        replays: a part that starts again repeats its first pass.
        drop_last: a part starts again before its last batch if that is not full.
    """
    lengths = [count_plain(number, size, drop_last) for number, size in zip(num_rows, sizes, strict=True)]
    num_full = [number // size for number, size in zip(num_rows, sizes, strict=True)]
    turns = [tuple(divmod(step, length) for length in lengths) for step in range(max(lengths) if all(lengths) else 0)]
    full = [pair for pair in turns if all(index < limit for (_, index), limit in zip(pair, num_full, strict=True))]
    return [tuple((0, index) for _, index in pair) for pair in full] if replays else full


def count_batches(data: DataPlan, num_rows: Sequence[int], batch_size: int) -> int:
    """Batches of an epoch, without those that are skipped.

    Args:
        data: what is trained on.
        num_rows: of each of its parts.
        batch_size: rows of a batch.

    Raises:
        UserError: there is none.
    """
    if isinstance(data, Pairs):
        sizes = part_sizes(batch_size, data.ratio)
        _check_filled(num_rows[0], sizes[0], f"{sizes[0]} rows", data.current)
        _check_filled(num_rows[1], sizes[1], f"{sizes[1]} memory rows", data.memory)
        return len(pair_up(num_rows, sizes, replays=data.cycle == "replay", drop_last=data.drop_last))
    if not num_rows[0]:
        raise UserError("there are no images to train on: choose fewer tasks, or data with more images")
    if isinstance(data, TaskStream) or not data.drop_last:
        return count_plain(num_rows[0], batch_size, drop_last=False)
    _check_filled(num_rows[0], batch_size, f"{batch_size} rows", data.rows)
    return count_plain(num_rows[0], batch_size, drop_last=True)


def _check_filled(num_rows: int, size: int, part: str, rows: Rows) -> None:
    if num_rows >= size:
        return
    what = "images" if rows.tasks else "exemplars"
    change = "a larger --buffer_size or a smaller --batch_size" if rows.exemplars else "a smaller --batch_size"
    raise UserError(f"there are {num_rows} {what} for the {part} of a batch: give {change}")


@dataclass(frozen=True)
class Stage:
    """One stage of training on a task.

    Attributes:
        data: the images.
        epochs: passes over them.
        lr: learning rate of the first epoch; multiplied by `lr_decay` at every milestone.
        milestones: epochs, counted from 0, at whose start the learning rate is decayed.
        keep: the epoch whose weights are kept, `last` or the one with the lowest `val_loss`.
        held_out: tasks on whose held-out images that loss is taken.
        name: by which a method with several stages recognizes them.
        schedule: `step`, at the milestones; `cosine`, from `lr` towards 0 with every step (Loshchilov & Hutter, ICLR
            2017, without restarts); `epoch_cosine`, with every epoch, an epoch late, as in the program of PODNet.
        trains: False for passes that change no parameter, whose batches are not training steps.
        chooses_exemplars: whether exemplars of the task's own classes are chosen before the stage and used in it.
        length: epochs after which it ends, within the last one; None: after all of them.
    """

    data: DataPlan
    epochs: int
    lr: float
    milestones: tuple[int, ...] = ()
    lr_decay: float = 1.0
    keep: str = "last"
    held_out: tuple[int, ...] = ()
    name: str = "main"
    schedule: str = "step"
    trains: bool = True
    chooses_exemplars: bool = False
    length: float | None = None

    def num_steps(self, num_batches: int) -> int:
        """Steps of the whole stage, with so many batches in an epoch."""
        return self.epochs * num_batches if self.length is None else round(self.length * num_batches)

    def batches_of(self, epoch: int, num_batches: int) -> int:
        """How many of the batches of an epoch, counted from 0, are trained on."""
        return min(num_batches, self.num_steps(num_batches) - epoch * num_batches)

    def lr_at(self, epoch: int, share: float = 0.0) -> float:
        """Learning rate of a step.

        Args:
            epoch: counted from 0.
            share: of the epoch's steps that come before.
        """
        if self.schedule == "step":
            return self.lr * self.lr_decay ** sum(epoch >= milestone for milestone in self.milestones)
        done = epoch + share if self.schedule == "cosine" else max(epoch - 1, 0)
        return self.lr / 2 * (1 + math.cos(math.pi * done / (self.length or self.epochs)))


@dataclass(frozen=True)
class CountedStage:
    """A stage of a run, before it runs.

    Attributes:
        stage: of the method.
        task: during which it is trained, from 0.
        label: the stage and task, in words.
        num_batches: of an epoch.
        batch_size: rows of every batch but the last.
        last_batch: rows of the last one.
    """

    stage: Stage
    task: int
    label: str
    num_batches: int
    batch_size: int
    last_batch: int

    @property
    def num_steps(self) -> int:
        """Training steps, 0 for a stage that trains nothing."""
        return self.stage.num_steps(self.num_batches) if self.stage.trains else 0


def count_stages(config: Configuration, sizes: StreamSizes) -> tuple[tuple[CountedStage, ...], ...]:
    """Every stage of every task of a run.

    Args:
        config: of the run.
        sizes: of its stream.

    Raises:
        UserError: a stage cannot fill a batch, or the method's `stages` fails.
    """
    tasks = range(sizes.num_tasks)
    planned = [_stages_of(config, sizes, task) for task in tasks]
    return tuple(tuple(_count_stage(config, sizes, task, *each) for each in enumerate(planned[task])) for task in tasks)


def _stages_of(config: Configuration, sizes: StreamSizes, task: int) -> list[Stage]:
    """The stages of a task. Raises UserError for a method of a plug-in that fails."""
    method = config.parts.method
    if not inspect.ismethod(method.stages):
        raise UserError(f"--model {method.name}: make it `@classmethod def stages(cls, config, sizes, task)`")
    try:
        stages = list(method.stages(config, sizes, task))
    except UserError:
        raise
    except Exception as error:  # of whatever kind: it is the plug-in's
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"--model {method.name}: its `stages` fails for task {task + 1} with {type(error).__name__}: {error} "
            f"({frame.filename}, line {frame.lineno})"
        ) from error
    for stage in stages:
        if not isinstance(getattr(stage, "data", None), DataPlan):
            raise UserError(f"--model {method.name}: its `stages` gives {stage!r}; give a list of models.base.Stage")
    return stages


def _count_stage(config: Configuration, sizes: StreamSizes, task: int, number: int, stage: Stage) -> CountedStage:
    label = f"stage {number + 1} of task {task + 1}" if number else f"task {task + 1}"
    classes, data, batch_size = sizes.classes_of_task(task), stage.data, config.batch_size
    num_seen = classes.stop if stage.chooses_exemplars else classes.start
    num_exemplars = config.parts.method.num_exemplars(config, sizes, num_seen)
    num_rows = [rows.count(sizes.images_of(rows.tasks), num_exemplars) for rows in data.parts]
    try:
        num_batches = count_batches(data, num_rows, batch_size)
    except UserError as error:
        raise UserError(f"{label}: {error}") from None
    if isinstance(data, Pairs):
        batch_size = sum(part_sizes(batch_size, data.ratio))
    is_full = isinstance(data, Pairs) or (isinstance(data, Plain) and data.drop_last)
    last_batch = batch_size if is_full else (num_rows[0] - 1) % batch_size + 1
    return CountedStage(stage, task, label, num_batches, batch_size, last_batch)
