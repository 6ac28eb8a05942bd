"""What Ctrl-C does while a program imports what it needs, and at its end: nothing is under way, so it ends quietly."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import FrameType


def interrupt_quietly() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt or, in the middle of an import, ends the process at once.

    A program calls it before its own imports. Where SIGINT is ignored, it stays so.
    """
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def leave(exit_code: int) -> NoReturn:
    """End the program, whose work is done; Ctrl-C while the interpreter clears up changes nothing any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(exit_code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    end_if_importing(number, frame)
    raise KeyboardInterrupt


def end_if_importing(number: int, frame: FrameType | None) -> None:
    """End the process if the signal came within an import.

    An exception there would pass through C++ code, which aborts, or through a library that takes it for its own.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
            os._exit(128 + number)
        frame = frame.f_back
