"""The stream of tasks: held-out parts, and pools of images, on the run's device or on disk."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datasets.arrangement import Arrangement
from datasets.arrays import Arrays, chunks_of_rows, rows_by_label
from utils.data.held_out import hold_out
from utils.data.long_tail import LongTail
from utils.data.pools import DiskPool, Pool, TensorPool, UnionPool
from utils.errors import UserError
from utils.inference import device_memory
from utils.seeds import generator

TEST_SHARE = 1 / 20  # of a GPU's memory, which test images may take that are otherwise read from disk


class Stream:
    """The tasks of a dataset, with its images on the device, or on disk.

    On a GPU they stay on disk if there are too many; test images, which are needed after every task, are on it
    nevertheless if they take less than `TEST_SHARE` of its memory. On a CPU images that are mapped from a file stay
    there, so that all runs of a machine share them.

    Images are sorted by task and label, so that those of a task are contiguous; within a label they keep the order of
    the data.

    Args:
        arrays: the data; they are copied, unless they stay on disk, and may be released afterwards. Files that stay in
            use must not be written to meanwhile.
        arrangement: which classes each task brings, and when every training image comes.
        label_of_class: [K] int64, from `class_order`.
        validation: fraction of each class's training images that is held out and replaces the test set; 0: none.
        long_tail: how many of the rest are kept, the test images being what they are; None: all.
        held_out: fraction of what is left that is held out as the split `validation`; 0: none.
        seed: of the run.
        device: of the images.

    Attributes:
        num_tasks, num_classes: T and K.
        task_sizes: the number of classes of each task.
        image_shape: (C, H, W).
        task_of_class: task that each label belongs to, [K] int64, on the host.
        first_tasks: the first task during which an image of each label comes, [K] int64, on the host.
        boundaries: of the arrangement.
        label_of_class: as given.

    Raises:
        UserError: a task has no class, a class has too few images to hold some out, or training
            images cannot replace the test set.
    """

    def __init__(
        self,
        arrays: Arrays,
        *,
        arrangement: Arrangement,
        label_of_class: np.ndarray,
        validation: float = 0.0,
        long_tail: LongTail | None = None,
        held_out: float = 0.0,
        seed: int,
        device: torch.device | str,
    ) -> None:
        self.num_classes = arrays.num_classes
        self.label_of_class = label_of_class
        self.task_sizes = arrangement.task_sizes(self.num_classes, seed)
        self.num_tasks = len(self.task_sizes)
        self._starts = (0, *itertools.accumulate(self.task_sizes))
        self.image_shape = (arrays.train_x.shape[3], *arrays.train_x.shape[1:3])
        self.task_of_class = torch.arange(self.num_tasks).repeat_interleave(torch.tensor(self.task_sizes))
        self.boundaries: str = arrangement.boundaries
        self._is_shuffled = arrangement.is_shuffled
        self._seed = seed
        self._device = torch.device(device)
        train_y = label_of_class[arrays.train_y]
        rows = rows_by_label(train_y)
        self._test, rows = self._test_part(arrays, train_y, rows, validation)
        if long_tail is not None:
            rows = rows[long_tail.keep(train_y[rows])]
        self._held_out = None
        if held_out:
            chosen, rows = _parted(rows, train_y, held_out, seed, "--val_fraction")
            self._held_out = self._part(arrays.train_x, arrays.on_disk, train_y, chosen)
        arranged = arrangement.arrange(train_y[rows], self.task_of_class.numpy(), seed)
        self._train = self._part(arrays.train_x, arrays.on_disk, train_y, rows[arranged.rows], starts=arranged.starts)
        self.first_tasks = _first_tasks(self._train, self.num_classes)
        if arrangement.boundaries != "none":
            self._train.pool.tasks = torch.from_numpy(self._train.segments)

    def classes_of_task(self, task: int) -> range:
        """The labels of a task."""
        return range(self._starts[task], self._starts[task + 1])

    def order(self, tasks: Sequence[int], epoch: int) -> Tensor:
        """The order in which the training images of some tasks come in an epoch, each once.

        They are shuffled, unless they are of one task of a stream that has an order of its own. The order depends only
        on the run's seed, the tasks and the epoch, so that a resumed run continues exactly.

        Args:
            tasks: their indices.
            epoch: from 0.

        Returns:
            Rows of `pool(tasks)`, [N] int64 on the host.
        """
        draws = generator(self._seed, "stream", ",".join(map(str, tasks)), epoch)
        num_rows = sum(len(self._train.rows_of_task(task)) for task in tasks)
        if not self._is_shuffled and len(tasks) == 1:
            return torch.arange(num_rows)
        return torch.randperm(num_rows, generator=draws)

    def pool(self, tasks: Sequence[int], split: str = "train") -> Pool:
        """The images of some tasks, task after task; those of neighbouring tasks are one section of the split.

        Args:
            tasks: their indices.
            split: `train`, `validation` (what was held out of it) or `test`.

        Raises:
            UserError: nothing was held out.
        """
        part = {"train": self._train, "validation": self._held_out, "test": self._test}[split]
        if part is None:
            raise UserError("nothing is held out of the training images: set --val_fraction, for instance to 0.1")
        pools = [part.of_tasks(run) for run in _neighbours(tasks)]
        return pools[0] if len(pools) == 1 else UnionPool(pools)

    def _test_part(
        self, arrays: Arrays, train_y: np.ndarray, rows: np.ndarray, validation: float
    ) -> tuple["_Part", np.ndarray]:
        """The images to test on, and the training rows that remain; with `validation`, some of them are tested on."""
        if not validation:
            test_y = self.label_of_class[arrays.test_y]
            return self._part(arrays.test_x, arrays.on_disk, test_y, rows_by_label(test_y), is_test=True), rows
        if arrays.test_apart:
            raise UserError(
                "--validation tests on training images, which --test_crop does not change: leave out one of the two"
            )
        chosen, rows = _parted(rows, train_y, validation, self._seed, "--validation")
        return self._part(arrays.train_x, arrays.on_disk, train_y, chosen, is_test=True), rows

    def _part(
        self,
        images: np.ndarray,
        on_disk: bool,
        labels: np.ndarray,
        rows: np.ndarray,
        *,
        is_test: bool = False,
        starts: np.ndarray | None = None,
    ) -> "_Part":
        """A split of some rows of the data; those of a task begin at `starts`, or are those of the task's classes."""
        host_labels = torch.from_numpy(labels[rows])
        tasks = self.task_of_class[host_labels]
        if stay_on_disk(images, on_disk, self._device, len(rows) if is_test else None):
            mapped = np.asarray(images)  # the same memory, without the bookkeeping of `np.memmap` in every read
            return _Part(DiskPool(mapped, rows, host_labels, tasks, self._device), self.num_tasks, starts)
        loaded = torch.empty((len(rows), *self.image_shape), dtype=torch.uint8, device=self._device)
        filled = 0
        for chunk in chunks_of_rows(images, rows):
            loaded[filled : filled + len(chunk)] = torch.from_numpy(chunk).permute(0, 3, 1, 2)
            filled += len(chunk)
        return _Part(TensorPool(loaded, host_labels.to(self._device), tasks), self.num_tasks, starts)


def stay_on_disk(images: np.ndarray, on_disk: bool, device: torch.device, num_tested: int | None) -> bool:
    """Whether batches of an array are read from it when they are needed; see `Stream`.

    Args:
        images: [N, H, W, C] uint8.
        on_disk: whether the dataset has too many for a device.
        device: of the run.
        num_tested: how many of them are test images; None if they are trained on.
    """
    if device.type != "cuda":
        return on_disk or isinstance(images, np.memmap)
    size = (num_tested or math.inf) * math.prod(images.shape[1:])
    return on_disk and size > TEST_SHARE * device_memory(device)


def _parted(
    rows: np.ndarray, labels: np.ndarray, share: float, seed: int, option: str
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are held out, and the others."""
    is_held_out = hold_out(labels[rows], share, seed, option)
    return rows[is_held_out], rows[~is_held_out]


def _first_tasks(part: "_Part", num_classes: int) -> Tensor:
    """The first task during which an image of each class comes, [K] int64."""
    first = np.full(num_classes, part.segments[-1])
    np.minimum.at(first, part.pool.labels.numpy(), part.segments)
    return torch.from_numpy(first)


def _neighbours(tasks: Sequence[int]) -> list[range]:
    """The tasks in their order, each run of consecutive ones as a range."""
    runs: list[range] = []
    for task in tasks:
        if runs and runs[-1].stop == task:
            runs[-1] = range(runs[-1].start, task + 1)
        else:
            runs.append(range(task, task + 1))
    return runs


class _Part:
    """The images of one split, task after task."""

    def __init__(self, pool: TensorPool | DiskPool, num_tasks: int, starts: np.ndarray | None) -> None:
        self.pool = pool
        starts = np.searchsorted(pool.tasks.numpy(), np.arange(num_tasks + 1)) if starts is None else starts
        self._starts: list[int] = starts.tolist()

    @property
    def segments(self) -> np.ndarray:
        """The task during which each image comes, [N] int64."""
        return np.repeat(np.arange(len(self._starts) - 1), np.diff(self._starts))

    def rows_of_task(self, task: int) -> range:
        return range(self._starts[task], self._starts[task + 1])

    def of_tasks(self, tasks: range) -> TensorPool | DiskPool:
        return self.pool.section(slice(self._starts[tasks.start], self._starts[tasks.stop]))
