"""Images that batches are taken from by row: on the run's device, on disk, or both together."""

import copy
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Pool(Protocol):
    """N images.

    Attributes:
        labels, tasks: of each image, [N] int64 on the host.
    """

    labels: Tensor
    tasks: Tensor

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images of some rows, without waiting for the device.

        Args:
            rows: [n] int64 on the host.

        Returns:
            Raw images [n, C, H, W] uint8 and labels [n] on the device, their tasks [n] on the host.
        """
        ...


class Stream(Protocol):
    """The tasks of a run and their images, as `datasets/stream.py` makes them.

    Attributes:
        num_tasks, num_classes: T and K.
        image_shape: (C, H, W).
        task_of_class: task of each label, [K] int64, on the host.
    """

    num_tasks: int
    num_classes: int
    image_shape: tuple[int, ...]
    task_of_class: Tensor

    def classes_of_task(self, task: int) -> range:
        """The labels of a task."""
        ...

    def batches(
        self, tasks: Sequence[int], epoch: int, batch_size: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Raw images, labels and tasks of the batches of one epoch, from batch `start` on."""
        ...

    def pool(self, tasks: Sequence[int], split: str = "train") -> Pool:
        """The images of some tasks: `train`, `validation` (what was held out of it) or `test`."""
        ...

    def evaluation_set(self, task: int) -> tuple[Tensor, Tensor]:
        """Raw test images and labels of a task, on the device."""
        ...


class TensorPool:
    """Images that lie on the device, [N, C, H, W] uint8, with their labels there and their tasks on the host."""

    def __init__(self, images: Tensor, labels: Tensor, tasks: Tensor) -> None:
        self.images = images
        self.labels = labels.cpu()
        self.tasks = tasks
        self._device_labels = labels

    def __len__(self) -> int:
        return len(self.tasks)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        on_device = _send(rows, self.images.device)
        images, labels = (each.index_select(0, on_device) for each in (self.images, self._device_labels))
        return images, labels, self.tasks[rows]

    def everything(self) -> tuple[Tensor, Tensor]:
        """All images and labels on the device, not copied."""
        return self.images, self._device_labels

    def section(self, rows: slice) -> "TensorPool":
        """Some neighbouring rows, not copied."""
        part = copy.copy(self)
        part.images, part._device_labels = self.images[rows], self._device_labels[rows]
        part.labels, part.tasks = self.labels[rows], self.tasks[rows]
        return part


class DiskPool:
    """Images in a memory-mapped array, [M, H, W, C] uint8; only those that are asked for are read.

    Args:
        images: the array.
        places: row of the array of each image, [N].
        labels, tasks: [N] int64 on the host.
        device: where batches go.
    """

    def __init__(
        self, images: np.ndarray, places: np.ndarray, labels: Tensor, tasks: Tensor, device: torch.device | str
    ) -> None:
        self.labels = labels
        self.tasks = tasks
        self._images = images
        self._places = places
        self._device = torch.device(device)

    def __len__(self) -> int:
        return len(self.tasks)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images = _send(self._read(self._places[rows.numpy()]), self._device).permute(0, 3, 1, 2).contiguous()
        return images, _send(self.labels[rows], self._device), self.tasks[rows]

    def everything(self) -> tuple[Tensor, Tensor]:
        """All images and labels on the device, read now."""
        images, labels, _ = self.take(torch.arange(len(self)))
        return images, labels

    def section(self, rows: slice) -> "DiskPool":
        """Some neighbouring rows."""
        return DiskPool(self._images, self._places[rows], self.labels[rows], self.tasks[rows], self._device)

    def _read(self, places: np.ndarray) -> Tensor:
        """[n, H, W, C], ready to be sent."""
        shape = (len(places), *self._images.shape[1:])
        read = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        for image, place in zip(read.numpy(), places, strict=True):
            image[...] = self._images[place]
        return read


class SubsetPool:
    """Some rows of a pool, [N] int64 on the host, in this order."""

    def __init__(self, pool: Pool, rows: Tensor) -> None:
        self.labels = pool.labels[rows]
        self.tasks = pool.tasks[rows]
        self._pool = pool
        self._rows = rows

    def __len__(self) -> int:
        return len(self.tasks)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._pool.take(self._rows[rows])


class UnionPool:
    """The rows of several pools, one after another; a pool may come more than once."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self.labels = torch.cat([pool.labels for pool in pools])
        self.tasks = torch.cat([pool.tasks for pool in pools])
        self._pools = pools
        self._starts = torch.tensor([0, *(len(pool) for pool in pools)]).cumsum(0)

    def __len__(self) -> int:
        return len(self.tasks)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        owners = torch.bucketize(rows, self._starts[1:], right=True)
        parts = [
            self._pools[owner].take(rows[owners == owner] - self._starts[owner])
            for owner in owners.unique().tolist() or [0]
        ]
        images, labels, _ = (torch.cat(part) for part in zip(*parts, strict=True))
        back = _send(owners.argsort(stable=True).argsort(), images.device)
        return images.index_select(0, back), labels.index_select(0, back), self.tasks[rows]


def _send(values: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device; only from pinned memory is it sent without waiting."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
