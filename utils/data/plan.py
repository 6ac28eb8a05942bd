"""What a stage trains on, described as data; `Loaders` turns a description into batches when the stage begins."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from utils.data.batch import Batch
from utils.data.loaders import Paired, Shuffled
from utils.data.pools import Pool, SubsetPool, UnionPool
from utils.errors import UserError
from utils.seeds import generator


@dataclass(frozen=True)
class TaskStream:
    """The training images of some tasks, shuffled, a short last batch included: what online methods learn from.

    Attributes:
        tasks: their indices.
    """

    tasks: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """Training images that are shuffled together.

    Attributes:
        tasks: the tasks whose training images are among them.
        exemplars: how many times those of memory are.
        balanced: only as many of the tasks' images, drawn at random, as there are exemplars.
    """

    tasks: tuple[int, ...] = ()
    exemplars: int = 0
    balanced: bool = False


@dataclass(frozen=True)
class Plain:
    """Batches of the rows.

    Attributes:
        drop_last: whether a last batch that is not full is left out.
    """

    rows: Rows
    drop_last: bool = True


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


class Loader(Protocol):
    """Gives the batches of an epoch, from any of them on."""

    num_batches: int

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...


def part_sizes(batch_size: int, ratio: int) -> tuple[int, int]:
    """Current and memory rows of a batch: int(B r / (r + 1)) and int(B / (r + 1)) (Cha et al., CVPR 2023)."""
    return batch_size * ratio // (ratio + 1), batch_size // (ratio + 1)


def check_ratio(batch_size: int, ratio: int) -> None:
    """Raise UserError unless the parts of a batch are all of it: a pair of fewer rows would be passed over."""
    num_current, num_memory = part_sizes(batch_size, ratio)
    if not min(num_current, num_memory):
        raise UserError(
            f"--batch_size {batch_size} leaves no row for one of the parts at --batch_ratio {ratio}; give at least "
            f"--batch_size {ratio + 1}"
        )
    if num_current + num_memory != batch_size:
        lower = batch_size // (ratio + 1) * (ratio + 1)
        raise UserError(
            f"--batch_size {batch_size} cannot be split at --batch_ratio {ratio} into whole parts; give --batch_size "
            f"{lower} or {lower + ratio + 1}"
        )


@dataclass(frozen=True)
class Sizes:
    """How many images there are for a stage.

    Attributes:
        tasks: training images of each task.
        exemplars: images in memory.
    """

    tasks: Sequence[int]
    exemplars: int

    def of(self, rows: Rows) -> int:
        """The number of these rows."""
        current = sum(self.tasks[task] for task in rows.tasks)
        return (min(current, self.exemplars) if rows.balanced else current) + rows.exemplars * self.exemplars


def check_filled(data: TaskStream | Plain | Pairs, sizes: Sizes, batch_size: int, place: str) -> None:
    """Raise UserError, beginning with `place`, if not one full batch can be formed where only such are trained on."""
    if isinstance(data, TaskStream) or (isinstance(data, Plain) and not data.drop_last):
        return
    pairs = isinstance(data, Pairs)
    num_current, num_memory = part_sizes(batch_size, data.ratio) if pairs else (batch_size, 0)
    rows = data.current if pairs else data.rows
    if sizes.of(rows) < num_current:
        change = "a larger --buffer_size or a smaller --batch_size" if rows.exemplars else "a smaller --batch_size"
        raise UserError(f"{place} has {sizes.of(rows)} images for the {num_current} rows of a batch: give {change}")
    if pairs and sizes.of(data.memory) < num_memory:
        raise UserError(
            f"{place} has {sizes.of(data.memory)} exemplars for the {num_memory} memory rows of a batch: give a larger "
            "--buffer_size or a smaller --batch_size"
        )


@dataclass(frozen=True)
class Loaders:
    """Makes the loader of a stage.

    Attributes:
        stream: gives tasks (`datasets/stream.py`).
        memory: gives exemplars, None for a method without memory.
        augmentation: of the images (`utils/run/training.py`).
        batch_size: rows of a batch.
        seed: of the run.
    """

    stream: Any
    memory: Any
    augmentation: Any
    batch_size: int
    seed: int

    def of(self, data: TaskStream | Plain | Pairs, purpose: tuple[int, ...]) -> Loader:
        """The loader of a stage.

        Args:
            data: what it trains on.
            purpose: task and stage, so that each has draws of its own.

        Raises:
            UserError: no full batch can be formed.
        """
        makers: dict[type, Callable[..., Loader]] = {TaskStream: self._stream, Plain: self._plain, Pairs: self._pairs}
        return makers[type(data)](data, purpose)

    def _stream(self, data: TaskStream, purpose: tuple[int, ...]) -> Loader:
        return _StreamLoader(self.stream, self.augmentation.of_stream, data.tasks, self.batch_size)

    def _plain(self, data: Plain, purpose: tuple[int, ...]) -> Loader:
        return Shuffled(
            self._pool(data.rows, purpose),
            self.batch_size,
            self.augmentation.transform,
            seed=self.seed,
            purpose=purpose,
            drop_last=data.drop_last,
        )

    def _pairs(self, data: Pairs, purpose: tuple[int, ...]) -> Loader:
        return Paired(
            self._pool(data.current, purpose),
            self._pool(data.memory, purpose),
            *part_sizes(self.batch_size, data.ratio),
            self.augmentation.transform,
            seed=self.seed,
            purpose=purpose,
            cycle=data.cycle,
            drop_last=data.drop_last,
        )

    def _pool(self, rows: Rows, purpose: tuple[int, ...]) -> Pool:
        pools = [self.stream.pool(rows.tasks)] if rows.tasks else []
        if rows.exemplars:
            exemplars = self.memory.pool()
            if rows.balanced:
                pools = [self._sample(pools[0], len(exemplars), purpose)]
            pools += [exemplars] * rows.exemplars
        return pools[0] if len(pools) == 1 else UnionPool(pools)

    def _sample(self, pool: Pool, number: int, purpose: tuple[int, ...]) -> Pool:
        """At most so many rows of a pool, drawn at random once per stage."""
        draws = generator(self.seed, "sample", *purpose)
        return SubsetPool(pool, torch.randperm(len(pool), generator=draws)[:number])


class _StreamLoader:
    """Batches in the stream's own order, augmented from the run's running generator."""

    def __init__(
        self, stream: Any, augment: Callable[[Tensor], Tensor], tasks: tuple[int, ...], batch_size: int
    ) -> None:
        self._stream = stream
        self._augment = augment
        self._tasks = tasks
        self._batch_size = batch_size
        self.num_batches = stream.num_batches(tasks, batch_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for raw, labels, tasks in self._stream.batches(self._tasks, epoch, self._batch_size, start=start):
            yield Batch(self._augment(raw), labels, raw, tasks)
