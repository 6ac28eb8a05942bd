"""Work of a captured step that nothing waits for at once, in a branch of its own of the CUDA graph.

A GPU is half idle in most kernels of a step, as its maps are small. A branch is recorded on another stream; its kernels
are the same as without, and give the same numbers.
"""

import functools
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


class Branch:
    """Work beside the stream that a step is captured on. Where nothing is captured, it is done in its turn.

    Memory is the stream's that asked for it: what is read on the other must not be freed before that has ended.

    Args:
        device: of the step.
        name: of the stream; branches of one name follow one another.

    Attributes:
        is_taken: whether a step is captured.
        is_open: whether it has been forked, and not joined since.
    """

    def __init__(self, device: torch.device, name: str) -> None:
        self.is_taken = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        self.is_open = False
        self._stream = _stream(device, name) if self.is_taken else None
        self._read: list[Tensor] = []

    def fork(self, *read: Tensor) -> None:
        """What comes on the branch waits for all that was done so far, such as the tensors that it reads."""
        if self._stream is not None:
            self.is_open = True
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            self._read += [each.detach() for each in read]  # memory alone: a backward pass that fails leaves no circle

    def on(self) -> AbstractContextManager[None]:
        """For the work of the branch."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def join(self) -> None:
        """What comes beside the branch waits for it from here on."""
        if self._stream is not None and self.is_open:
            self.is_open = False
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
            self._read.clear()


@functools.cache
def _stream(device: torch.device, name: str) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
