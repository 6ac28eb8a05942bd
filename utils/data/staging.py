"""How the host's decisions for a step reach the device: as numbers side by side in one buffer, in a single copy.

The buffers are made once for steps of one kind. The host fills the pinned one, and the copy to the device waits for
nothing; several pinned ones take turns, so that the host may be ahead of the device.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

NUM_AHEAD = 4  # steps by which the host may be ahead before it waits
_ALIGNMENT = 16  # bytes

Values = Mapping[str, Tensor]


def send(values: Values, device: torch.device) -> dict[str, Tensor]:
    """Host tensors on a device, once; from pinned memory, so that nothing waits for the device."""
    if device.type != "cuda":
        return {name: value.to(device) for name, value in values.items()}
    return {name: value.pin_memory().to(device, non_blocking=True) for name, value in values.items()}


class Staging:
    """Buffers on the device for values of fixed shapes and types, filled again for every step.

    Args:
        values: of the first step, on the host; later ones have the same names, shapes and types.
        device: of the run.

    Attributes:
        sent: the values on the device, always the same tensors.
    """

    def __init__(self, values: Values, device: torch.device) -> None:
        ends, size = {}, 0
        for name, value in values.items():
            start = -(-size // _ALIGNMENT) * _ALIGNMENT
            size = start + value.numel() * value.element_size()
            ends[name] = (start, size)
        self._is_apart = device.type == "cuda"
        on_device = torch.empty(size, dtype=torch.uint8, device=device)
        buffers = [on_device]  # the host writes to the CPU's own memory
        if self._is_apart:
            buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in range(NUM_AHEAD)]
        self._copies = [_Copy(buffer, _views(buffer, ends, values)) for buffer in buffers]
        self._on_device = on_device
        self._next = 0
        self.sent = _views(on_device, ends, values)

    def fill(self, values: Values) -> None:
        """Put the values of a step into the buffers; the device receives them in the order of its other work."""
        copy = self._copies[self._next]
        self._next = (self._next + 1) % len(self._copies)
        if copy.sent is not None:
            copy.sent.synchronize()  # only where the host is ahead by all of the buffers
        for name, view in copy.views.items():
            view.copy_(values[name])
        if self._is_apart:
            self._on_device.copy_(copy.buffer, non_blocking=True)
            copy.sent = copy.sent or torch.cuda.Event()
            copy.sent.record()


class _Copy:
    """A buffer on the host, and when the device has had it."""

    def __init__(self, buffer: Tensor, views: dict[str, Tensor]) -> None:
        self.buffer = buffer
        self.views = views
        self.sent: torch.cuda.Event | None = None


def _views(buffer: Tensor, ends: Mapping[str, tuple[int, int]], values: Values) -> dict[str, Tensor]:
    """The parts of a buffer of bytes as tensors like the values."""
    return {
        name: buffer[start:end].view(values[name].dtype).view(values[name].shape) for name, (start, end) in ends.items()
    }
