"""Memories of past images for replay, uint8 on the run's device: a reservoir, two that balance classes, and a ring.

Which slot a row goes to and which rows are drawn is decided on the host, from one generator, and only the chosen
indices are sent to the device. So the law is the same on every device, the task of every drawn row is known without
waiting for the device, and a step costs the same whatever the capacity.

The generator gives 63-bit integers, which are reduced modulo the number of choices (at most N/2⁶³ from uniform for N
choices). A memory takes from it, in this order: for every row that it is offered while it is full, one integer; for
every drawn row, one integer. A ring takes none on insertion. Rows one by one or in batches therefore make no
difference, and a memory restored by `load_state_dict` continues exactly.

Both halves of a step are here (`utils/data/batch.py`): the host chooses by `choose` and `offer`, the device fetches by
the draft and writes by `write`. `draw` and `insert` are both at once.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor

from utils.config.registry import check_known
from utils.data.augment import Augmentation
from utils.data.batch import Batch, Draft, Fetch, rows_of
from utils.data.staging import Values, send
from utils.errors import UserError
from utils.seeds import generator

_DISCARDED = -1
_UNFILLED = -1


class Memory:
    """Slots for images, their labels, tasks and what a method stores beside them; labels and tasks are on the host.

    The storage is allocated at the first insertion, which gives the shapes and types. It has a few more rows than
    slots, for images that are not kept: so every row of a batch is written somewhere, and each batch in the same way.

    Args:
        capacity: number of slots.
        device: where images, labels and extras are kept.
        augmentation: of every draw.
        random: generator on the host.

    Attributes:
        num_seen: rows offered so far, stored or not.
        num_draws: by this process so far.
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device | str,
        augmentation: Augmentation,
        random: torch.Generator,
    ) -> None:
        self.capacity = capacity
        self.num_seen = 0
        self.num_draws = 0
        self._device = torch.device(device)
        self._augmentation = augmentation
        self._random = random
        self._num_filled = 0
        self._num_spare = 0  # rows of the storage for what is not kept, as many as the first batch has
        self._filled = torch.zeros(capacity, dtype=torch.int64)  # filled slots, in the order of their first filling
        self._tasks = torch.full((capacity,), _UNFILLED)
        self._labels = torch.zeros_like(self._tasks)
        self._rows: dict[str, Tensor] = {}  # raw and the extras, [capacity + spare, ...]

    def __len__(self) -> int:
        """Number of rows that can be drawn."""
        return self._num_filled

    def insert(self, batch: Batch, **extras: Tensor) -> None:
        """Offer the rows of a batch, in their order, with their images unaugmented.

        Args:
            batch: B rows.
            extras: what is stored beside each row, [B, ...], on the device; the same names at every insertion.

        Raises:
            ValueError: the rows are not of these kinds.
        """
        rows = {"raw": batch.raw, **extras}
        self._check(rows, len(batch.tasks))
        targets = self.offer(batch.tasks, batch.host_labels)
        self.write(send({"targets": targets}, self._device)["targets"], **rows)

    def offer(self, tasks: Tensor, labels: Tensor) -> Tensor:
        """Decide where each of the rows of a batch goes, as if they came one by one, and count them as there.

        Args:
            tasks, labels: of each row, [B] int64, on the host.

        Returns:
            The rows of the storage to write them to, [B] int64 on the host.

        Raises:
            ValueError: a task that the memory does not have, or tasks or labels on the device.
        """
        if not tasks.device.type == labels.device.type == "cpu":
            raise ValueError("memory takes tasks and labels of the rows on the host: it must not wait for the device")
        slots = self._choose_slots(tasks.tolist(), labels.tolist())
        self.num_seen += len(slots)
        last = {slot: row for row, slot in enumerate(slots) if slot != _DISCARDED}  # of rows on the same slot it stays
        self._num_spare = self._num_spare or len(slots)
        targets = self.capacity + torch.arange(len(slots)) % self._num_spare
        if last:
            kept, rows = torch.tensor(list(last)), torch.tensor(list(last.values()))
            targets[rows] = kept
            fresh = kept[self._tasks[kept] == _UNFILLED]
            self._filled[self._num_filled : self._num_filled + len(fresh)] = fresh
            self._num_filled += len(fresh)
            self._tasks[kept], self._labels[kept] = tasks[rows], labels[rows]
        return targets

    @torch.no_grad()
    def write(self, targets: Tensor, **rows: Tensor) -> None:
        """Write the rows of a batch to the `targets` of `offer`, [B] int64 on the device; rows as for `insert`."""
        self._check(rows, len(targets))
        for name, values in rows.items() if len(targets) else ():
            if name not in self._rows:
                self._rows[name] = self._storage(values)
            with any_order():  # no row is written twice, but for those that are not kept
                self._rows[name].index_copy_(0, targets, values)

    def draw(self, num_rows: int) -> Batch | None:
        """Rows drawn uniformly without replacement, in random order; all of them if there are fewer than `num_rows`.

        Returns:
            The rows with their extras, the images newly augmented; None while memory is empty.
        """
        draft = self.choose(num_rows)
        return None if draft is None else draft.batch()

    def choose(self, num_rows: int) -> Draft | None:
        """The host's half of `draw`."""
        if not self._num_filled:
            return None
        self.num_draws += 1
        size = min(num_rows, self._num_filled)
        slots = self._filled[draw_without_replacement(self._num_filled, self._random_integers(size))]
        shape = (size, *self._rows["raw"].shape[1:])
        changes = self._augmentation.draw(shape, self._augmentation.generators["memory"])
        fetch = Fetch({"slots": slots}, self._fetch)
        tasks, labels = self._tasks[slots], self._labels[slots]
        return Draft((fetch,), tasks, labels, changes, self._augmentation.apply, self._device, num_images=0)

    def _fetch(self, sent: Values) -> dict[str, Tensor]:
        return {name: rows_of(stored, sent["slots"]) for name, stored in self._rows.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that insertions and draws change; tensors are not copied. Loadable with `weights_only=True`."""
        return {
            "num_seen": self.num_seen,
            "num_filled": self._num_filled,
            "filled": self._filled,
            "tasks": self._tasks,
            "labels": self._labels,
            "num_spare": self._num_spare,
            "rows": {name: stored[: self.capacity] for name, stored in self._rows.items()},
            "generator": self._random.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a copy of the state of a memory of the same capacity, wherever its tensors lie."""
        if len(state["tasks"]) != self.capacity:
            raise ValueError(f"the state of a memory of {len(state['tasks'])} slots does not fit {self.capacity}")
        self.num_seen = state["num_seen"]
        self._num_filled = state["num_filled"]
        self._num_spare = state["num_spare"]
        self._filled.copy_(state["filled"])
        self._tasks.copy_(state["tasks"])
        self._labels.copy_(state["labels"])
        self._rows = {name: self._storage(stored) for name, stored in state["rows"].items()}
        for name, stored in state["rows"].items():
            self._rows[name][: self.capacity] = stored
        self._random.set_state(state["generator"].cpu())

    def _choose_slots(self, tasks: Sequence[int], labels: Sequence[int]) -> list[int]:
        """The slot of each offered row, `_DISCARDED` for a row that is not kept."""
        raise NotImplementedError

    def _check(self, rows: dict[str, Tensor], number: int) -> None:
        if rows["raw"].dtype != torch.uint8:
            raise ValueError(f"memory keeps raw uint8 images, not {rows['raw'].dtype}")
        if self._rows and rows.keys() != self._rows.keys():
            raise ValueError(f"memory holds {', '.join(self._rows)}, but was offered {', '.join(rows)}")
        lengths = {name: len(values) for name, values in rows.items()} | {"tasks": number}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"rows of different numbers: {lengths}")

    def _storage(self, values: Tensor) -> Tensor:
        """Storage for rows like these, in every slot and in the spare rows."""
        shape = (self.capacity + self._num_spare, *values.shape[1:])
        return torch.zeros(shape, dtype=values.dtype, device=self._device)

    def _random_integers(self, number: int) -> list[int]:
        """Independent uniform integers below 2⁶³."""
        return torch.empty(number, dtype=torch.int64).random_(generator=self._random).tolist()


class Reservoir(Memory):
    """Keeps every row of the stream so far with equal probability (Vitter, 1985, algorithm R).

    Row n, counted from 0, goes to slot n while n < capacity; afterwards to a slot uniform on {0, …, n}, and is
    discarded if there is no such slot.
    """

    def _choose_slots(self, tasks: Sequence[int], labels: Sequence[int]) -> list[int]:
        end = self.num_seen + len(tasks)
        slots = list(range(self.num_seen, min(end, self.capacity)))
        rows = range(self.num_seen + len(slots), end)
        for row, integer in zip(rows, self._random_integers(len(rows)), strict=True):
            slot = integer % (row + 1)
            slots.append(slot if slot < self.capacity else _DISCARDED)
        return slots


class Balancing(Memory):
    """Base of the memories in which a new row takes the place of one of the largest class.

    Row n of the stream, counted from 0, goes to slot n while n < capacity. What is kept of the later ones, as a
    subclass decides, replaces a row of the largest class, each with equal probability; of all the largest, if there are
    several. How large classes are is counted before the new row is among them.
    """

    def __init__(
        self, capacity: int, device: torch.device | str, augmentation: Augmentation, random: torch.Generator
    ) -> None:
        super().__init__(capacity, device, augmentation, random)
        self._slots_of_class: dict[int, list[int]] = {}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"slots_of_class": self._slots_of_class}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._slots_of_class = {label: list(slots) for label, slots in state["slots_of_class"].items()}

    def _choose_slots(self, tasks: Sequence[int], labels: Sequence[int]) -> list[int]:
        chosen = []
        num_free = min(max(0, self.capacity - self.num_seen), len(labels))
        integers = iter(self._random_integers(len(labels) - num_free))
        for row, label in enumerate(labels, self.num_seen):
            slot = row if row < self.capacity else self._vacate(row, label, next(integers))
            if slot != _DISCARDED:
                self._slots_of_class.setdefault(label, []).append(slot)
            chosen.append(slot)
        return chosen

    def _vacate(self, row: int, label: int, integer: int) -> int:
        """Take a row out for one of the stream; its slot, `_DISCARDED` if the stream's is not kept."""
        sizes = {each: len(slots) for each, slots in self._slots_of_class.items() if slots}
        choice = self._choice(row, sizes.get(label, 0), sizes.values(), integer)
        if choice is None:
            return _DISCARDED
        size = max(sizes.values())
        largest = sorted(each for each in sizes if sizes[each] == size)
        slots = self._slots_of_class[largest[choice // size % len(largest)]]
        place = choice % size
        slots[place], slots[-1] = slots[-1], slots[place]
        return slots.pop()

    def _choice(self, row: int, size: int, sizes: Collection[int], integer: int) -> int | None:
        """A uniform integer, by which the row that is replaced is chosen; None to discard the stream's.

        Args:
            row: number of the stream's row, from 0.
            size: of its class in memory.
            sizes: of all classes in memory.
            integer: uniform below 2⁶³.
        """
        raise NotImplementedError


class ClassBalanced(Balancing):
    """The greedy balancing sampler of GDumb (Prabhu et al., ECCV 2020).

    Once memory is full, a row is kept unless its class is one of the largest. So the classes become as equal as their
    numbers of rows allow, whatever their order.

    Algorithm 1 of the paper keeps a row of a new class, or of one with fewer than capacity / (classes so far) rows, and
    no other while there is room. Where every class brings that many, both end in the same sizes, equal but for one row;
    where some bring fewer, their share stays empty there, and is given to the others here.
    """

    def _choice(self, row: int, size: int, sizes: Collection[int], integer: int) -> int | None:
        return None if size == max(sizes) else integer


class BalancedReservoir(Balancing):
    """Balanced reservoir sampling (Buzzega et al., Rethinking Experience Replay: a Bag of Tricks, ICPR 2020).

    Once memory is full, row n of the stream, counted from 0, is kept as in a reservoir, with probability
    capacity / (n + 1), and for certain if its class is smaller than the median of those in memory: the latter is what
    the `balancoir` of mammoth adds to the algorithm of the paper.
    """

    def _choice(self, row: int, size: int, sizes: Collection[int], integer: int) -> int | None:
        rest, slot = divmod(integer, row + 1)  # as good as independent, and both uniform
        return rest if slot < self.capacity or size < median(sizes) else None


class Ring(Memory):
    """Keeps the last rows of every task in an equal portion of the slots, capacity // num_tasks.

    Row n of the stream, counted from 0 and over all tasks, goes in task t to slot n mod portion + t·portion. As in the
    ring buffer of Lyu et al. (NeurIPS 2023), but only filled slots are drawn, whatever the lengths of the tasks.

    Args:
        num_tasks: tasks of the stream; slots that remain from the division stay empty.
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device | str,
        augmentation: Augmentation,
        random: torch.Generator,
        num_tasks: int,
    ) -> None:
        super().__init__(capacity, device, augmentation, random)
        self._num_tasks = num_tasks
        self._portion = capacity // num_tasks

    def _choose_slots(self, tasks: Sequence[int], labels: Sequence[int]) -> list[int]:
        if tasks and not 0 <= min(tasks) <= max(tasks) < self._num_tasks:
            raise ValueError(
                f"a task that a ring of {self._num_tasks} tasks does not have: {min(tasks)} to {max(tasks)}"
            )
        return [row % self._portion + task * self._portion for row, task in enumerate(tasks, self.num_seen)]


BUFFER_MODES: dict[str, type[Memory]] = {
    "reservoir": Reservoir,
    "reservoir_balanced": BalancedReservoir,
    "class_balanced": ClassBalanced,
    "ring": Ring,
}


def make_memory(
    mode: str,
    capacity: int,
    *,
    num_tasks: int,
    device: torch.device | str,
    augmentation: Augmentation,
    seed: int,
) -> Memory:
    """An empty memory.

    Args:
        mode: one of `BUFFER_MODES`.
        capacity: images kept at most.
        num_tasks: tasks of the stream, among which a ring divides its slots.
        device: where the images are kept.
        augmentation: of every draw.
        seed: of the run.

    Raises:
        UserError: the mode is unknown, or the capacity is too small.
    """
    check_known("--buffer_mode", [mode], BUFFER_MODES)
    if capacity < 1:
        raise UserError(f"--buffer_size {capacity}: memory needs room for at least 1 image")
    parts = (capacity, device, augmentation, generator(seed, "memory"))
    if mode != "ring":
        return BUFFER_MODES[mode](*parts)
    if capacity < num_tasks:
        raise UserError(f"--buffer_size {capacity} leaves a ring no slot per task: give at least {num_tasks}")
    return Ring(*parts, num_tasks)


@contextmanager
def any_order() -> Iterator[None]:
    """PyTorch's kernels need not be deterministic: without it, a GPU would sort the rows first."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def draw_without_replacement(num_items: int, integers: Sequence[int]) -> list[int]:
    """As many different indices below `num_items` as there are integers, every ordered choice equally likely.

    The first steps of a Fisher-Yates shuffle that remembers only the items it has moved, so that time and memory
    depend on the number of draws alone.

    Args:
        num_items: at least the number of integers.
        integers: uniform on a range much larger than `num_items`.
    """
    moved: dict[int, int] = {}
    drawn = []
    for position, integer in enumerate(integers):
        target = position + integer % (num_items - position)
        drawn.append(moved.get(target, target))
        moved[target] = moved.get(position, position)
    return drawn
