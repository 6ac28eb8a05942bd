"""The rows of one training step, whether they come from the stream or from memory.

A step has two halves. The host chooses rows and draws the random changes of their images: a `Draft`, made of small
tensors on the host. The device fetches and augments the rows: a `Batch`, made from those tensors on the device alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from utils.data.staging import Values, send


@dataclass(frozen=True)
class Batch:
    """N rows.

    Attributes:
        images: augmented and normalised, [N, C, H, W] float, on the run's device.
        labels: [N] int64, on the run's device.
        raw: the same images as stored, [N, C, H, W] uint8, on the run's device.
        tasks: index of each row's task, [N] int64, on the host: whoever needs it there must not wait for the device.
        host_labels: the labels, [N] int64, on the host, for the same reason.
        extras: what a method stored beside a row, such as its logits [N, K], on the run's device.
        num_current: leading rows that come from the current stream, the others come from memory; None: all of one kind.
    """

    images: Tensor
    labels: Tensor
    raw: Tensor
    tasks: Tensor
    host_labels: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)
    num_current: int | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Fetch:
    """Some rows of one source.

    Attributes:
        values: which rows, on the host, or on disk streams the rows themselves.
        rows: the values on the device -> `raw` images [n, C, H, W] uint8, and what else lies beside them, [n, ...].
    """

    values: Values
    rows: Callable[[Values], dict[str, Tensor]]


@dataclass(frozen=True)
class Draft:
    """A batch as the host has chosen it.

    Attributes:
        fetches: its rows, source after source.
        tasks, labels: of each row, [N] int64, on the host.
        changes: what becomes of each image, on the host, images in the last axis (`utils/data/augment.py`).
        apply: raw images and the changes on the device -> augmented images.
        device: where the batch is made.
        num_images: rows that come from the stream; exemplars may be among the current ones.
        num_current: as in `Batch`.
    """

    fetches: tuple[Fetch, ...]
    tasks: Tensor
    labels: Tensor
    changes: Values
    apply: Callable[[Tensor, Values], Tensor]
    device: torch.device
    num_images: int
    num_current: int | None = None

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def values(self) -> dict[str, Tensor]:
        """Everything that the device needs, by name, on the host."""
        values = below("changes", self.changes) | {"labels": self.labels.clone()}  # a batch's own on the CPU, too
        for number, fetch in enumerate(self.fetches):
            values |= below(str(number), fetch.values)
        return values

    def make(self, sent: Values) -> Batch:
        """The batch, from the values on the device; nothing here waits for it, or looks at the draft's own values."""
        (batch,) = make_batches([self], [sent])
        return batch

    def fetched(self, sent: Values) -> dict[str, Tensor]:
        """The rows, as `Fetch.rows` gives them."""
        parts = [fetch.rows(within(sent, str(number))) for number, fetch in enumerate(self.fetches)]
        return parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def batch(self) -> Batch:
        """The batch, its values sent now."""
        return self.make(send(self.values, self.device))

    def beside(self, other: "Draft") -> "Draft":
        """One batch of these rows, as the current ones, followed by the rows of another draft."""
        changes = {name: torch.cat([values, other.changes[name]], -1) for name, values in self.changes.items()}
        tasks, labels = torch.cat([self.tasks, other.tasks]), torch.cat([self.labels, other.labels])
        num_images = self.num_images + other.num_images
        fetches = self.fetches + other.fetches
        return Draft(fetches, tasks, labels, changes, self.apply, self.device, num_images, len(self))


def make_batches(drafts: Sequence[Draft], sent: Sequence[Values]) -> list[Batch]:
    """The batches of drafts; where all have the same `apply`, it is asked once for all their images."""
    if any((each.apply, each.changes.keys()) != (drafts[0].apply, drafts[0].changes.keys()) for each in drafts):
        return [draft.make(values) for draft, values in zip(drafts, sent, strict=True)]
    rows = [draft.fetched(values) for draft, values in zip(drafts, sent, strict=True)]
    raws = [each.pop("raw") for each in rows]
    changes = [within(values, "changes") for values in sent]
    together = {name: _joined([each[name] for each in changes], -1) for name in changes[0]}
    images = drafts[0].apply(_joined(raws, 0), together).split([len(raw) for raw in raws])
    return [
        Batch(own, values["labels"], raw, draft.tasks, draft.labels, extras, draft.num_current)
        for draft, values, own, raw, extras in zip(drafts, sent, images, raws, rows, strict=True)
    ]


def _joined(parts: list[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


def rows_of(stored: Tensor, rows: Tensor) -> Tensor:
    """Rows [n, ...] of a tensor [N, ...], by their numbers [n] on its device."""
    return stored[rows] if stored.is_cuda else stored.index_select(0, rows)  # each the faster one there


def within(values: Values, name: str) -> dict[str, Tensor]:
    """The values whose names begin with a prefix, such as `0/rows`, by the rest of the name."""
    start = f"{name}/"
    return {key[len(start) :]: value for key, value in values.items() if key.startswith(start)}


def below(name: str, values: Values) -> dict[str, Tensor]:
    """The values, a prefix put before each name, such as `0/rows`."""
    return {f"{name}/{key}": value for key, value in values.items()}
