"""Batches of one epoch, from one pool or from two side by side, as a pure function of seed, purpose, epoch and index.

`Loaders` makes the loader of what a stage trains on (`plan.py`), when the stage begins.

The order of a pass over a pool is drawn from one generator, the augmentation of each batch from its own. So
resuming in the middle of an epoch needs no stored state, and a batch that is repeated is augmented as before.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from utils.config.registry import check_known
from utils.data.augment import Augmentation
from utils.data.batch import Batch, Draft
from utils.data.plan import DataPlan, Plain, Rows, TaskStream, count_batches, count_plain, pair_up, part_sizes
from utils.data.pools import Pool, Stream, SubsetPool, UnionPool
from utils.seeds import generator

CYCLES = ("replay", "reshuffle")

Purpose = Sequence[str | int]


class Loader(ABC):
    """Gives the batches of an epoch, from any of them on.

    Attributes:
        num_batches: of an epoch.
    """

    num_batches: int

    @abstractmethod
    def drafts(self, epoch: int, start: int = 0, number: int | None = None) -> Iterator[Draft]:
        """The batches of an epoch, counted from 0, as the host chooses them.

        Args:
            epoch: counted from 0.
            start: the first that is wanted.
            number: how many the epoch has in this case; None: all. Of the stream, they are spread evenly over it.
        """

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, made on the device."""
        return (draft.batch() for draft in self.drafts(epoch, start))


def draft_of(pool: Pool, rows: Tensor, augmentation: Augmentation, draws: torch.Generator) -> Draft:
    """Some rows [n] of a pool, and what becomes of their images."""
    changes = augmentation.draw((len(rows), *pool.image_shape), draws)
    fetches = (pool.fetch(rows),)
    tasks, labels, num_images = pool.tasks[rows], pool.labels[rows], pool.count_of_stream(rows)
    return Draft(fetches, tasks, labels, changes, augmentation.apply, pool.device, num_images)


class Shuffled(Loader):
    """One pool, each row once an epoch.

    Args:
        pool: the rows.
        batch_size: rows of a batch.
        augmentation: of the images.
        seed: of the run.
        purpose: distinguishes these draws from all others of the run, such as task and stage.
        drop_last: leave out a last batch that is not full.

    Attributes:
        num_batches: of an epoch.
    """

    def __init__(
        self, pool: Pool, batch_size: int, augmentation: Augmentation, *, seed: int, purpose: Purpose, drop_last: bool
    ) -> None:
        self._rows = _Shuffler(pool, batch_size, augmentation, seed, purpose)
        self.num_batches = count_plain(len(pool), batch_size, drop_last)

    def drafts(self, epoch: int, start: int = 0, number: int | None = None) -> Iterator[Draft]:
        """As `Loader.drafts`; all rows are current."""
        for index in range(start, self.num_batches if number is None else number):
            yield self._rows.draft((epoch,), index)


class Paired(Loader):
    """A fixed number of current rows, then of memory rows, in every batch (Cha et al., CVPR 2023).

    Two shuffled passes run side by side (`plan.pair_up`). A pair is skipped if one of its parts is not full.

    Args:
        current, memory: the two pools.
        num_current, num_memory: rows of each in a batch.
        augmentation: of the images; drawn for each part.
        seed: of the run.
        purpose: distinguishes these draws from all others of the run, such as task and stage.
        cycle: `replay`: a part that starts again repeats its batches, with the same augmented images, until the end of
            the epoch; `reshuffle`: it is shuffled and augmented anew.
        drop_last: a part that starts again does so before its last batch if that is not full, so that no pair is lost.

    Attributes:
        num_batches: of an epoch, without those that are skipped.

    Raises:
        UserError: the cycle is unknown.
    """

    def __init__(
        self,
        current: Pool,
        memory: Pool,
        num_current: int,
        num_memory: int,
        augmentation: Augmentation,
        *,
        seed: int,
        purpose: Purpose,
        cycle: str,
        drop_last: bool = False,
    ) -> None:
        check_known("--ratio_cycle", [cycle], CYCLES)
        self._current = _Shuffler(current, num_current, augmentation, seed, purpose)
        self._memory = _Shuffler(memory, num_memory, augmentation, seed, purpose)
        num_rows, sizes = (len(current), len(memory)), (num_current, num_memory)
        self._plan = pair_up(num_rows, sizes, replays=cycle == "replay", drop_last=drop_last)
        self.num_batches = len(self._plan)

    def drafts(self, epoch: int, start: int = 0, number: int | None = None) -> Iterator[Draft]:
        """As `Loader.drafts`; the current rows come first."""
        for (current_pass, current_index), (memory_pass, memory_index) in self._plan[start:number]:
            current = self._current.draft((epoch, "current", current_pass), current_index)
            yield current.beside(self._memory.draft((epoch, "memory", memory_pass), memory_index))


class _Shuffler:
    """Cuts shuffled passes over a pool into batches.

    Attributes:
        batch_size: rows of a full batch.
    """

    def __init__(self, pool: Pool, batch_size: int, augmentation: Augmentation, seed: int, purpose: Purpose) -> None:
        self.batch_size = batch_size
        self._pool = pool
        self._augmentation = augmentation
        self._seed = seed
        self._purpose = tuple(purpose)
        self._last_pass: tuple[str | int, ...] = ()
        self._order = torch.empty(0, dtype=torch.int64)

    def draft(self, pass_name: tuple[str | int, ...], index: int) -> Draft:
        """One batch, its augmentation drawn anew.

        Args:
            pass_name: names the pass.
            index: of the batch in it.
        """
        first = index * self.batch_size
        rows = self._order_of(pass_name)[first : first + self.batch_size]
        draws = generator(self._seed, "augmentation", *self._purpose, *pass_name, index)
        return draft_of(self._pool, rows, self._augmentation, draws)

    def _order_of(self, pass_name: tuple[str | int, ...]) -> Tensor:
        if pass_name != self._last_pass:
            draws = generator(self._seed, "stream", *self._purpose, *pass_name)
            self._last_pass, self._order = pass_name, torch.randperm(len(self._pool), generator=draws)
        return self._order


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
            return _StreamLoader(self.stream, pools[0], self.augmentation, data.tasks, self.batch_size, num_batches)
        augmentation, draws = self.augmentation, _Draws(seed=self.seed, purpose=purpose)
        if isinstance(data, Plain):
            return Shuffled(pools[0], self.batch_size, augmentation, drop_last=data.drop_last, **draws)
        current, memory = pools
        sizes = part_sizes(self.batch_size, data.ratio)
        return Paired(current, memory, *sizes, augmentation, cycle=data.cycle, drop_last=data.drop_last, **draws)

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


class _StreamLoader(Loader):
    """Batches in the stream's own order, augmented from the run's running generator."""

    def __init__(
        self,
        stream: Stream,
        pool: Pool,
        augmentation: Augmentation,
        tasks: tuple[int, ...],
        batch_size: int,
        num_batches: int,
    ) -> None:
        self._stream = stream
        self._pool = pool
        self._augmentation = augmentation
        self._tasks = tasks
        self._batch_size = batch_size
        self.num_batches = num_batches

    def drafts(self, epoch: int, start: int = 0, number: int | None = None) -> Iterator[Draft]:
        order = self._stream.order(self._tasks, epoch)
        number = self.num_batches if number is None else number
        for index in (place * self.num_batches // number for place in range(start, number)):
            rows = order[index * self._batch_size : (index + 1) * self._batch_size]
            yield draft_of(self._pool, rows, self._augmentation, self._augmentation.generators["stream"])
