"""Batches of one epoch, from one pool or from two side by side, as a pure function of seed, purpose, epoch and index.

The order of a pass over a pool is drawn from one generator, the augmentation of each batch from its own. So nothing
has to be kept to go on in the middle of an epoch, and a batch that comes again is augmented as it was.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from utils.data.batch import Batch
from utils.data.pools import Pool
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

    Raises:
        UserError: there is not one batch.
    """

    def __init__(
        self, pool: Pool, batch_size: int, augment: Augment, *, seed: int, purpose: Purpose, drop_last: bool
    ) -> None:
        self._rows = _Shuffler(pool, batch_size, augment, seed, purpose)
        self.num_batches = self._rows.num_full if drop_last else self._rows.num_batches
        if not len(pool):
            raise UserError("there are no images to train on: give a --dataset that has some")
        if not self.num_batches:
            raise UserError(f"--batch_size {batch_size} needs at least as many images, and there are {len(pool)}")

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, from batch `start` on; all of their rows are current."""
        for index in range(start, self.num_batches):
            yield Batch(*self._rows.batch((epoch,), index))


class Paired:
    """A fixed number of current rows, then of memory rows, in every batch (Cha et al., CVPR 2023).

    Two shuffled passes run side by side for as many steps as the longer one has batches; the shorter one begins again
    whenever it is at its end. A pair of which one part is not full is passed over.

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
        UserError: there is not one full pair, or the cycle is unknown.
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
        _check_pair(len(current), len(memory), num_current, num_memory)
        self._current = _Shuffler(current, num_current, augment, seed, purpose)
        self._memory = _Shuffler(memory, num_memory, augment, seed, purpose)
        self._plan = _pairs(self._current, self._memory, replays=cycle == "replay", drop_last=drop_last)
        self.num_batches = len(self._plan)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, from batch `start` on; the current rows come first."""
        for (current_pass, current_index), (memory_pass, memory_index) in self._plan[start:]:
            current = self._current.batch((epoch, "current", current_pass), current_index)
            memory = self._memory.batch((epoch, "memory", memory_pass), memory_index)
            joined = [torch.cat(parts) for parts in zip(current, memory, strict=True)]
            yield Batch(*joined, num_current=self._current.batch_size)


class _Shuffler:
    """Cuts shuffled passes over a pool into batches.

    Attributes:
        batch_size: rows of a full batch.
        num_batches, num_full: batches of a pass, and those of them that are full.
    """

    def __init__(self, pool: Pool, batch_size: int, augment: Augment, seed: int, purpose: Purpose) -> None:
        self.batch_size = batch_size
        self.num_batches, self.num_full = -(-len(pool) // batch_size), len(pool) // batch_size
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


def _pairs(
    current: _Shuffler, memory: _Shuffler, *, replays: bool, drop_last: bool
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Pass and index of both parts of every full pair; a part that replays stays in its first pass."""
    lengths = [part.num_full if drop_last else part.num_batches for part in (current, memory)]
    places = [[divmod(step, length) for length in lengths] for step in range(max(lengths))]
    full = [(ours, theirs) for ours, theirs in places if ours[1] < current.num_full and theirs[1] < memory.num_full]
    return [((0, ours[1]), (0, theirs[1])) for ours, theirs in full] if replays else full


def _check_pair(current: int, memory: int, num_current: int, num_memory: int) -> None:
    if num_current < 1 or num_memory < 1:
        raise UserError(
            f"pairs of {num_current} current and {num_memory} memory images cannot be formed: give a larger "
            "--batch_size"
        )
    if current < num_current:
        raise UserError(
            f"a batch takes {num_current} current images, and there are {current}: give a smaller --batch_size"
        )
    if memory < num_memory:
        raise UserError(
            f"a batch takes {num_memory} memory images, and there are {memory}: give a larger --buffer_size or a "
            "smaller --batch_size"
        )
