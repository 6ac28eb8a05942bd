"""Batches of one epoch, from one pool or from two side by side, as a pure function of seed, purpose, epoch and index.

`Loaders` makes the loader of what a stage trains on (`plan.py`), when the stage begins.

The order of a pass over a pool is drawn from one generator, the augmentation of each batch from its own. So nothing
has to be kept to go on in the middle of an epoch, and a batch that comes again is augmented as it was.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor

from utils.data.augment import Augmentation
from utils.data.batch import Batch
from utils.data.plan import DataPlan, Plain, Rows, TaskStream, count_batches, count_plain, pair_up, part_sizes
from utils.data.pools import Pool, Stream, SubsetPool, UnionPool
from utils.errors import UserError
from utils.seeds import generator

CYCLES = ("replay", "reshuffle")

Augment = Callable[[Tensor, torch.Generator], Tensor]
Purpose = Sequence[str | int]


class Shuffled:
    """One pool, each row once an epoch.

    Args:
        pool: the rows.
        batch_size: rows of a batch.
        augment: raw [n, C, H, W] uint8, and a generator on their device -> float images.
        seed: of the run.
        purpose: tells these draws from all others of the run, such as task and stage.
        drop_last: leave out a last batch that is not full.

    Attributes:
        num_batches: of an epoch.
    """

    def __init__(
        self, pool: Pool, batch_size: int, augment: Augment, *, seed: int, purpose: Purpose, drop_last: bool
    ) -> None:
        self._rows = _Shuffler(pool, batch_size, augment, seed, purpose)
        self.num_batches = count_plain(len(pool), batch_size, drop_last)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, from batch `start` on; all of their rows are current."""
        for index in range(start, self.num_batches):
            yield Batch(*self._rows.batch((epoch,), index))


class Paired:
    """A fixed number of current rows, then of memory rows, in every batch (Cha et al., CVPR 2023).

    Two shuffled passes run side by side (`plan.pair_up`). A pair of which one part is not full is passed over.

    Args:
        current, memory: the two pools.
        num_current, num_memory: rows of each in a batch.
        augment: raw [n, C, H, W] uint8, and a generator on their device -> float images; called for each part.
        seed: of the run.
        purpose: tells these draws from all others of the run, such as task and stage.
        cycle: `replay`: a part that begins again gives the same batches, with the same augmented images, until the
            end of the epoch; `reshuffle`: it is shuffled and augmented anew.
        drop_last: a part that begins again does so before its last batch if that is not full, so that no pair is lost.

    Attributes:
        num_batches: of an epoch, those that are passed over not counted.

    Raises:
        UserError: the cycle is unknown.
    """

    def __init__(
        self,
        current: Pool,
        memory: Pool,
        num_current: int,
        num_memory: int,
        augment: Augment,
        *,
        seed: int,
        purpose: Purpose,
        cycle: str,
        drop_last: bool = False,
    ) -> None:
        if cycle not in CYCLES:
            raise UserError(f"unknown --ratio_cycle {cycle!r}. Known: {', '.join(CYCLES)}.")
        self._current = _Shuffler(current, num_current, augment, seed, purpose)
        self._memory = _Shuffler(memory, num_memory, augment, seed, purpose)
        num_rows, sizes = (len(current), len(memory)), (num_current, num_memory)
        self._plan = pair_up(num_rows, sizes, replays=cycle == "replay", drop_last=drop_last)
        self.num_batches = len(self._plan)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, from batch `start` on; the current rows come first."""
        for (current_pass, current_index), (memory_pass, memory_index) in self._plan[start:]:
            current = self._current.batch((epoch, "current", current_pass), current_index)
            memory = self._memory.batch((epoch, "memory", memory_pass), memory_index)
            images, labels, raw, tasks = (torch.cat(parts) for parts in zip(current, memory, strict=True))
            yield Batch(images, labels, raw, tasks, num_current=self._current.batch_size)


class _Shuffler:
    """Cuts shuffled passes over a pool into batches.

    Attributes:
        batch_size: rows of a full batch.
    """

    def __init__(self, pool: Pool, batch_size: int, augment: Augment, seed: int, purpose: Purpose) -> None:
        self.batch_size = batch_size
        self._pool = pool
        self._augment = augment
        self._seed = seed
        self._purpose = tuple(purpose)
        self._last_pass: tuple[str | int, ...] = ()
        self._order = torch.empty(0, dtype=torch.int64)

    def batch(self, place: tuple[str | int, ...], index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Augmented images, labels, raw images and tasks of one batch.

        Args:
            place: names the pass.
            index: of the batch in it.
        """
        first = index * self.batch_size
        raw, labels, tasks = self._pool.take(self._order_of(place)[first : first + self.batch_size])
        draws = generator(self._seed, "augmentation", *self._purpose, *place, index, device=raw.device)
        return self._augment(raw, draws), labels, raw, tasks

    def _order_of(self, place: tuple[str | int, ...]) -> Tensor:
        if place != self._last_pass:
            draws = generator(self._seed, "stream", *self._purpose, *place)
            self._last_pass, self._order = place, torch.randperm(len(self._pool), generator=draws)
        return self._order


class Loader(Protocol):
    """Gives the batches of an epoch, from any of them on."""

    num_batches: int

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...


class _Draws(TypedDict):
    seed: int
    purpose: Purpose


@dataclass(frozen=True)
class Loaders:
    """Makes the loader of a stage.

    Attributes:
        stream: gives tasks (`datasets/stream.py`).
        memory: gives exemplars, None for a method without memory.
        augmentation: of the images.
        batch_size: rows of a batch.
        seed: of the run.
    """

    stream: Stream
    memory: Any  # an `ExemplarMemory` where a stage asks for exemplars
    augmentation: Augmentation
    batch_size: int
    seed: int

    def of(self, data: DataPlan, purpose: tuple[str | int, ...]) -> Loader:
        """The loader of a stage.

        Args:
            data: what it trains on.
            purpose: task and stage, so that each has draws of its own.

        Raises:
            UserError: no full batch can be formed.
        """
        pools = [self._pool(rows, purpose) for rows in data.parts]
        num_batches = count_batches(data, [len(pool) for pool in pools], self.batch_size)
        if isinstance(data, TaskStream):
            return _StreamLoader(self.stream, self.augmentation.of_stream, data.tasks, self.batch_size, num_batches)
        augment, draws = self.augmentation.transform, _Draws(seed=self.seed, purpose=purpose)
        if isinstance(data, Plain):
            return Shuffled(pools[0], self.batch_size, augment, drop_last=data.drop_last, **draws)
        current, memory = pools
        sizes = part_sizes(self.batch_size, data.ratio)
        return Paired(current, memory, *sizes, augment, cycle=data.cycle, drop_last=data.drop_last, **draws)

    def _pool(self, rows: Rows, purpose: tuple[str | int, ...]) -> Pool:
        pools = [self.stream.pool(rows.tasks)] if rows.tasks else []
        if rows.exemplars:
            exemplars = self.memory.pool()
            if rows.balanced:
                pools = [self._sample(pools[0], len(exemplars), purpose)]
            pools += [exemplars] * rows.exemplars
        return pools[0] if len(pools) == 1 else UnionPool(pools)

    def _sample(self, pool: Pool, number: int, purpose: tuple[str | int, ...]) -> Pool:
        """At most so many rows of a pool, drawn at random once per stage."""
        draws = generator(self.seed, "sample", *purpose)
        return SubsetPool(pool, torch.randperm(len(pool), generator=draws)[:number])


class _StreamLoader:
    """Batches in the stream's own order, augmented from the run's running generator."""

    def __init__(
        self,
        stream: Stream,
        augment: Callable[[Tensor], Tensor],
        tasks: tuple[int, ...],
        batch_size: int,
        num_batches: int,
    ) -> None:
        self._stream = stream
        self._augment = augment
        self._tasks = tasks
        self._batch_size = batch_size
        self.num_batches = num_batches

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for raw, labels, tasks in self._stream.batches(self._tasks, epoch, self._batch_size, start=start):
            yield Batch(self._augment(raw), labels, raw, tasks)
