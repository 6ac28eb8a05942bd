"""Images that batches are taken from by row: on the run's device, on disk, or both together."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from utils.data.batch import Fetch, below, rows_of, within
from utils.data.staging import Values, send


class Stream(Protocol):
    """The tasks of a run and their images, as `datasets/stream.py` makes them.

    Attributes:
        num_tasks, num_classes: T and K.
        image_shape: (C, H, W).
        task_of_class: task that each label belongs to, [K] int64, on the host.
        first_tasks: the first task during which an image of each label comes, [K] int64, on the host.
        boundaries: `sharp`: each task has classes of its own; `blurred`: tasks share some; `none`: they are segments.
    """

    num_tasks: int
    num_classes: int
    image_shape: tuple[int, ...]
    task_of_class: Tensor
    first_tasks: Tensor
    boundaries: str

    def classes_of_task(self, task: int) -> range:
        """The labels of a task."""
        ...

    def order(self, tasks: Sequence[int], epoch: int) -> Tensor:
        """The rows of `pool(tasks)` in the order in which they come in an epoch, [N] int64 on the host."""
        ...

    def pool(self, tasks: Sequence[int], split: str = "train") -> "Pool":
        """The images of some tasks: `train`, `validation` (what was held out of it) or `test`."""
        ...


class Pool(ABC):
    """N images.

    Attributes:
        labels, tasks: of each image, [N] int64 on the host.
        device: where batches go.
        image_shape: (C, H, W).
        is_memory: whether they are exemplars, which came from the stream earlier.
    """

    labels: Tensor
    tasks: Tensor
    device: torch.device
    image_shape: tuple[int, ...]
    is_memory: bool = False

    def __len__(self) -> int:
        return len(self.tasks)

    def count_of_stream(self, rows: Tensor) -> int:
        """How many of some rows [n] come from the stream and not from memory."""
        return 0 if self.is_memory else len(rows)

    @abstractmethod
    def select(self, rows: Tensor) -> dict[str, Tensor]:
        """What the device needs to fetch some rows, on the host.

        Args:
            rows: [n] int64 on the host; -1 for a row that is not needed, for which any image may be returned.
        """

    @abstractmethod
    def rows(self, sent: Values) -> dict[str, Tensor]:
        """`raw` images [n, C, H, W] uint8, from what was selected, sent to the device."""

    def fetch(self, rows: Tensor) -> Fetch:
        """Some rows [n] of a draft."""
        return Fetch(self.select(rows), self.rows)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images of some rows, without waiting for the device.

        Args:
            rows: [n] int64 on the host.

        Returns:
            Raw images [n, C, H, W] uint8 and labels [n] on the device, their tasks [n] on the host.
        """
        sent = send(self.select(rows) | {"labels": self.labels[rows]}, self.device)
        return self.rows(sent)["raw"], sent["labels"], self.tasks[rows]


class TensorPool(Pool):
    """Images that lie on the device, [N, C, H, W] uint8, with their labels there and their tasks on the host."""

    def __init__(self, images: Tensor, labels: Tensor, tasks: Tensor, is_memory: bool = False) -> None:
        self.is_memory = is_memory
        self.images = images
        self.labels = labels.cpu()
        self.tasks = tasks
        self.device = images.device
        self.image_shape = tuple(images.shape[1:])
        self._device_labels = labels

    def select(self, rows: Tensor) -> dict[str, Tensor]:
        return {"rows": rows.clamp(min=0)}

    def rows(self, sent: Values) -> dict[str, Tensor]:
        return {"raw": rows_of(self.images, sent["rows"])}

    def everything(self) -> tuple[Tensor, Tensor]:
        """All images and labels on the device, not copied."""
        return self.images, self._device_labels

    def section(self, rows: slice) -> "TensorPool":
        """Some neighbouring rows, not copied."""
        part = copy.copy(self)
        part.images, part._device_labels = self.images[rows], self._device_labels[rows]
        part.labels, part.tasks = self.labels[rows], self.tasks[rows]
        return part


class DiskPool(Pool):
    """Images in a memory-mapped array, [M, H, W, C] uint8; only those that are asked for are read.

    Args:
        images: the array.
        array_rows: row of the array of each image, [N].
        labels, tasks: [N] int64 on the host.
        device: where batches go.
    """

    def __init__(
        self, images: np.ndarray, array_rows: np.ndarray, labels: Tensor, tasks: Tensor, device: torch.device | str
    ) -> None:
        self.labels = labels
        self.tasks = tasks
        self.device = torch.device(device)
        height, width, channels = images.shape[1:]
        self.image_shape = (channels, height, width)
        self._images = images
        self._array_rows = array_rows

    def select(self, rows: Tensor) -> dict[str, Tensor]:
        rows = rows.clamp(min=0)
        read = np.ascontiguousarray(self._images[self._array_rows[rows.numpy()]])
        return {"raw": torch.from_numpy(read)}

    def rows(self, sent: Values) -> dict[str, Tensor]:
        return {"raw": sent["raw"].permute(0, 3, 1, 2).contiguous()}

    def everything(self) -> tuple[Tensor, Tensor]:
        """All images and labels on the device, read now."""
        images, labels, _ = self.take(torch.arange(len(self)))
        return images, labels

    def section(self, rows: slice) -> "DiskPool":
        """Some neighbouring rows."""
        return DiskPool(self._images, self._array_rows[rows], self.labels[rows], self.tasks[rows], self.device)


class SubsetPool(Pool):
    """Some rows of a pool, [N] int64 on the host, in this order."""

    def __init__(self, pool: Pool, rows: Tensor) -> None:
        self.labels = pool.labels[rows]
        self.tasks = pool.tasks[rows]
        self.device = pool.device
        self.image_shape = pool.image_shape
        self._pool = pool
        self._rows = rows

    def count_of_stream(self, rows: Tensor) -> int:
        return self._pool.count_of_stream(self._rows[rows])

    def select(self, rows: Tensor) -> dict[str, Tensor]:
        return self._pool.select(torch.where(rows < 0, -1, self._rows[rows]))

    def rows(self, sent: Values) -> dict[str, Tensor]:
        return self._pool.rows(sent)


class UnionPool(Pool):
    """The rows of several pools, one after another; a pool may come more than once.

    A batch is fetched from each of the pools as a whole, and every row is taken from where it belongs: so the device
    does the same for every batch, however its rows are spread.
    """

    def __init__(self, pools: Sequence[Pool]) -> None:
        self.labels = torch.cat([pool.labels for pool in pools])
        self.tasks = torch.cat([pool.tasks for pool in pools])
        self.device = pools[0].device
        self.image_shape = pools[0].image_shape
        self._pools = list(dict.fromkeys(pools))
        self._owners = torch.cat([torch.full((len(pool),), self._pools.index(pool)) for pool in pools])
        self._rows = torch.cat([torch.arange(len(pool)) for pool in pools])

    def count_of_stream(self, rows: Tensor) -> int:
        owners, own_rows = self._owners[rows], self._rows[rows]
        return sum(pool.count_of_stream(own_rows[owners == number]) for number, pool in enumerate(self._pools))

    def select(self, rows: Tensor) -> dict[str, Tensor]:
        owners, own_rows = self._owners[rows], self._rows[rows]
        selected = {"owners": torch.where(rows < 0, 0, owners)}
        for number, pool in enumerate(self._pools):
            mine = torch.where((owners == number) & (rows >= 0), own_rows, -1)
            selected |= below(str(number), pool.select(mine))
        return selected

    def rows(self, sent: Values) -> dict[str, Tensor]:
        first, *others = (pool.rows(within(sent, str(number))) for number, pool in enumerate(self._pools))
        for number, other in enumerate(others, 1):
            is_other = sent["owners"] == number
            first["raw"] = torch.where(is_other[:, None, None, None], other["raw"], first["raw"])
        return first
