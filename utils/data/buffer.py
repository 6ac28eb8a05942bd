"""Memories of past images for replay: reservoir and ring, uint8 on the run's device.

Which slot a row goes to and which rows are drawn is decided on the host, from one generator, and only the chosen
indices are sent to the device. So the law is the same on every device, the task of every drawn row is known without
waiting for the device, and a step costs the same whatever the capacity.

The generator gives 63-bit integers, which are reduced modulo the number of choices (at most N/2⁶³ from uniform for N
choices). A memory takes from it, in this order: for every row that a full reservoir is offered, one integer; for every
drawn row, one integer. A ring takes none on insertion. Rows one by one or in batches therefore make no difference,
and a memory restored by `load_state_dict` continues exactly.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from utils.data.batch import Batch
from utils.errors import UserError
from utils.seeds import generator

_DISCARDED = -1
_UNFILLED = -1


class Memory:
    """Slots for images, their labels, tasks and what a method stores beside them.

    The storage is made at the first insertion, which tells the shapes and types.

    Args:
        capacity: number of slots.
        device: where images, labels and extras are kept.
        augment: raw uint8 [N, C, H, W] -> float images, applied to every draw.
        random: generator on the host.

    Attributes:
        num_seen: rows offered so far, stored or not.
        num_draws: by this process so far.
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device | str,
        augment: Callable[[Tensor], Tensor],
        random: torch.Generator,
    ) -> None:
        self.capacity = capacity
        self.num_seen = 0
        self.num_draws = 0
        self._device = torch.device(device)
        self._augment = augment
        self._random = random
        self._num_filled = 0
        self._filled = torch.zeros(capacity, dtype=torch.int64)  # filled slots, in the order of their first filling
        self._tasks = torch.full((capacity,), _UNFILLED)
        self._rows: dict[str, Tensor] = {}  # raw, labels and the extras, by slot

    def __len__(self) -> int:
        """Number of rows that can be drawn."""
        return self._num_filled

    @torch.no_grad()
    def insert(self, raw: Tensor, labels: Tensor, tasks: Tensor, **extras: Tensor) -> None:
        """Offer the rows of a batch, in their order.

        Args:
            raw: unaugmented images, [B, C, H, W] uint8, on the device.
            labels: [B] int64, on the device.
            tasks: index of each row's task, [B] int64, on the host.
            extras: what is stored beside each row, [B, ...], on the device; the same names at every insertion.

        Raises:
            ValueError: the rows are not of these kinds.
        """
        rows = {"raw": raw, "labels": labels, **extras}
        self._check(rows, tasks)
        slots = self._choose_slots(tasks.tolist())
        if not self._rows:
            self._rows = {name: self._storage(values) for name, values in rows.items()}
        self.num_seen += len(slots)
        # Of the rows of one batch that fall on the same slot the last stays, as if they had come one by one.
        row_of_slot = {slot: row for row, slot in enumerate(slots) if slot != _DISCARDED}
        if row_of_slot:
            self._write(rows, tasks, list(row_of_slot.values()), list(row_of_slot))

    def draw(self, num_rows: int) -> Batch | None:
        """Rows drawn uniformly without replacement, in random order; all of them if there are fewer than `num_rows`.

        Returns:
            The rows with their extras, the images newly augmented; None while memory is empty.
        """
        if not self._num_filled:
            return None
        self.num_draws += 1
        size = min(num_rows, self._num_filled)
        drawn = draw_without_replacement(self._num_filled, self._random_integers(size))
        slots = self._filled[drawn]
        tasks = self._tasks[slots]
        on_device = self._send(slots)
        rows = {name: stored.index_select(0, on_device) for name, stored in self._rows.items()}
        raw, labels = rows.pop("raw"), rows.pop("labels")
        return Batch(self._augment(raw), labels, raw, tasks, rows)

    def state_dict(self) -> dict[str, Any]:
        """Everything that insertions and draws change; tensors are not copied. Loadable with `weights_only=True`."""
        return {
            "num_seen": self.num_seen,
            "num_filled": self._num_filled,
            "filled": self._filled,
            "tasks": self._tasks,
            "rows": self._rows,
            "generator": self._random.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a copy of the state of a memory of the same capacity, wherever its tensors lie."""
        if len(state["tasks"]) != self.capacity:
            raise ValueError(f"the state of a memory of {len(state['tasks'])} slots does not fit {self.capacity}")
        self.num_seen = state["num_seen"]
        self._num_filled = state["num_filled"]
        self._filled.copy_(state["filled"])
        self._tasks.copy_(state["tasks"])
        self._rows = {name: stored.to(self._device, copy=True) for name, stored in state["rows"].items()}
        self._random.set_state(state["generator"].cpu())

    def _choose_slots(self, tasks: Sequence[int]) -> list[int]:
        """The slot of each offered row, `_DISCARDED` for a row that is not kept."""
        raise NotImplementedError

    def _check(self, rows: dict[str, Tensor], tasks: Tensor) -> None:
        if rows["raw"].dtype != torch.uint8:
            raise ValueError(f"memory keeps raw uint8 images, not {rows['raw'].dtype}")
        if tasks.device.type != "cpu":
            raise ValueError("memory takes the tasks of the rows on the host: reading them would wait for the device")
        if self._rows and rows.keys() != self._rows.keys():
            raise ValueError(f"memory holds {', '.join(self._rows)}, but was offered {', '.join(rows)}")
        lengths = {name: len(values) for name, values in rows.items()} | {"tasks": len(tasks)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"rows of different numbers: {lengths}")

    def _storage(self, values: Tensor) -> Tensor:
        return torch.zeros(self.capacity, *values.shape[1:], dtype=values.dtype, device=self._device)

    def _write(self, rows: dict[str, Tensor], tasks: Tensor, sources: list[int], slots: list[int]) -> None:
        """Copy the rows at `sources` to the slots, which are all different."""
        indices = torch.tensor([sources, slots])
        on_host, targets = indices
        fresh = targets[self._tasks[targets] == _UNFILLED]
        self._filled[self._num_filled : self._num_filled + len(fresh)] = fresh
        self._num_filled += len(fresh)
        self._tasks[targets] = tasks[on_host]
        from_rows, to_slots = self._send(indices)
        for name, stored in self._rows.items():
            stored[to_slots] = rows[name].index_select(0, from_rows)

    def _random_integers(self, number: int) -> list[int]:
        """Independent uniform integers below 2⁶³."""
        return torch.empty(number, dtype=torch.int64).random_(generator=self._random).tolist()

    def _send(self, indices: Tensor) -> Tensor:
        """Indices on the device; from pinned memory, so that nothing waits for the device."""
        if self._device.type != "cuda":
            return indices.to(self._device)
        return indices.pin_memory().to(self._device, non_blocking=True)


class Reservoir(Memory):
    """Keeps every row of the stream so far with equal probability (Vitter, 1985, algorithm R).

    Row n, counted from 0, goes to slot n while n < capacity; afterwards to a slot uniform on {0, …, n}, and is
    discarded if there is no such slot.
    """

    def _choose_slots(self, tasks: Sequence[int]) -> list[int]:
        end = self.num_seen + len(tasks)
        slots = list(range(self.num_seen, min(end, self.capacity)))
        rows = range(self.num_seen + len(slots), end)
        for row, integer in zip(rows, self._random_integers(len(rows)), strict=True):
            slot = integer % (row + 1)
            slots.append(slot if slot < self.capacity else _DISCARDED)
        return slots


class Ring(Memory):
    """Keeps the last rows of every task in an equal portion of the slots, capacity // num_tasks.

    Row n of the stream, counted from 0 and over all tasks, goes in task t to slot n mod portion + t·portion. As in the
    ring buffer of Lyu et al. (NeurIPS 2023), but only filled slots are drawn, whatever the lengths of the tasks.

    Args:
        num_tasks: tasks of the stream; slots that remain from the division stay unused.
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device | str,
        augment: Callable[[Tensor], Tensor],
        random: torch.Generator,
        num_tasks: int,
    ) -> None:
        super().__init__(capacity, device, augment, random)
        self._num_tasks = num_tasks
        self._portion = capacity // num_tasks

    def _choose_slots(self, tasks: Sequence[int]) -> list[int]:
        if tasks and not 0 <= min(tasks) <= max(tasks) < self._num_tasks:
            raise ValueError(
                f"a task that a ring of {self._num_tasks} tasks does not have: {min(tasks)} to {max(tasks)}"
            )
        return [row % self._portion + task * self._portion for row, task in enumerate(tasks, self.num_seen)]


def make_memory(
    mode: str,
    capacity: int,
    *,
    num_tasks: int,
    device: torch.device | str,
    augment: Callable[[Tensor], Tensor],
    seed: int,
) -> Memory:
    """An empty memory.

    Args:
        mode: `reservoir` or `ring`.
        capacity: images kept at most.
        num_tasks: tasks of the stream, among which a ring divides its slots.
        device: where the images are kept.
        augment: raw uint8 [N, C, H, W] -> float images, applied to every draw.
        seed: of the run.

    Raises:
        UserError: the mode is unknown, or the capacity is too small.
    """
    if capacity < 1:
        raise UserError(f"--buffer_size {capacity}: memory needs room for at least 1 image")
    random = generator(seed, "memory")
    if mode == "reservoir":
        return Reservoir(capacity, device, augment, random)
    if mode == "ring":
        if capacity < num_tasks:
            raise UserError(f"--buffer_size {capacity} leaves a ring no slot per task: give at least {num_tasks}")
        return Ring(capacity, device, augment, random, num_tasks)
    raise UserError(f"unknown --buffer_mode {mode!r}. Known: reservoir, ring.")


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
