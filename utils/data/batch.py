"""The rows of one training step, whether they come from the stream or from memory."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """N rows.

    Attributes:
        images: augmented and normalised, [N, C, H, W] float, on the run's device.
        labels: [N] int64, on the run's device.
        raw: the same images as stored, [N, C, H, W] uint8, on the run's device.
        tasks: index of each row's task, [N] int64, on the host: whoever needs it there must not wait for the device.
        extras: what a method stored beside a row, such as its logits [N, K], on the run's device.
        num_current: leading rows that come from the current stream, the others come from memory; None: all of one kind.
    """

    images: Tensor
    labels: Tensor
    raw: Tensor
    tasks: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)
    num_current: int | None = None

    def __len__(self) -> int:
        return len(self.labels)
