"""Signals that ask to stop: once training runs, they wait for the end of the step, so that the state can be saved."""

import signal
from types import FrameType
from typing import Any

from utils.errors import Stopped, stop_signals
from utils.interruption import end_if_importing


class StopRequest:
    """Whether the run was asked to stop. Used as a context, which puts the former handlers back at its end.

    Before `defer` a signal ends the run at once, for there is nothing to save; after it, the first one is only noted
    in `signal_number`, and a second one ends the run at once.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._deferred = False
        self._former: dict[int, Any] = {}  # as `signal.signal` gives and takes them

    def __enter__(self) -> "StopRequest":
        self._former = {number: signal.signal(number, self._handle) for number in stop_signals()}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From now on there is a state worth saving."""
        self._deferred = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._deferred or self.signal_number is not None:
            end_if_importing(number, frame)
            raise Stopped(number)
        self.signal_number = number
