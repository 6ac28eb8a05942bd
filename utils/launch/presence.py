"""Which launchers are at a group now, so that another terminal can see and stop them.

Each holds a file `.launcher-<process>` in the group's folder while it runs; the lock on it, not the file, says that it
is alive.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Launcher:
    """A launcher that is alive.

    Attributes:
        process: its number.
        machine: the name of the one it runs on.
        path: the file that it holds.
    """

    process: int
    machine: str
    path: Path

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.machine == socket.gethostname()

    @property
    def is_this(self) -> bool:
        """Whether it is this process."""
        return self.is_here and self.process == os.getpid()

    def ask_to_stop(self) -> None:
        """Let it save its runs and stop; asked again, it ends them at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGTERM)

    def is_alive(self) -> bool:
        """Whether it is still at the group."""
        return _is_held(self.path)


@contextlib.contextmanager
def present(folder: Path) -> Iterator[None]:
    """Be known as a launcher of a group; where its folder cannot be written, the launcher is not known."""
    path = folder / f".launcher-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a+b"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stack.callback(path.unlink, missing_ok=True)
            file.truncate(0)
            file.write(json.dumps({"process": os.getpid(), "machine": socket.gethostname()}).encode())
            file.flush()
        yield


def launchers_of(folder: Path) -> list[Launcher]:
    """The launchers that are at a group; what a killed one has left behind is none."""
    found = [_read(path) for path in sorted(folder.glob(".launcher-*")) if _is_held(path)]
    return [launcher for launcher in found if launcher is not None]


def _is_held(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def _read(path: Path) -> Launcher | None:
    try:
        content = json.loads(path.read_bytes())
        return Launcher(int(content["process"]), str(content["machine"]), path)
    except (OSError, ValueError, LookupError, TypeError):
        return None
