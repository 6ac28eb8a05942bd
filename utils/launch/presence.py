"""Which launchers are running a group, so that another terminal can see and stop them (`run.py cancel`).

Each has a file of its own among the group's locks; the lock on it, not the file, says that it is alive. Nothing here
imports torch.
"""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import COMPLETE, UserError
from utils.launch.arguments import group_of, group_parser
from utils.launch.submission import cancel_all, open_submissions
from utils.locks import held, is_held
from utils.records.record import LOCKS
from utils.slurm import SlurmError

_LOOK_EVERY = 0.2  # seconds between two looks whether a launcher has stopped


@dataclass(frozen=True)
class Launcher:
    """A launcher that is alive.

    Attributes:
        process: its process ID.
        machine: name of the machine that it runs on.
        path: of its file.
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
        """Let its runs save their state and stop; asked again, it kills them."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGTERM)

    def is_alive(self) -> bool:
        """Whether it is still running."""
        return is_held(_lock_of(self.path))


@contextlib.contextmanager
def present(folder: Path) -> Iterator[None]:
    """Register this process as a launcher of a group, unless the group's folder cannot be written."""
    path = folder / LOCKS / f"launcher-{socket.gethostname()}-{os.getpid()}.json"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(held(_lock_of(path)))
            stack.callback(_take_away, path)
            path.write_text(json.dumps({"process": os.getpid(), "machine": socket.gethostname()}), encoding="utf-8")
        yield


def launchers_of(folder: Path) -> list[Launcher]:
    """The launchers that are running a group; a file that a killed one has left behind does not count."""
    found = [_read(path) for path in sorted((folder / LOCKS).glob("launcher-*.json")) if is_held(_lock_of(path))]
    return [launcher for launcher in found if launcher is not None]


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def _take_away(path: Path) -> None:
    for each in (path, _lock_of(path)):
        with contextlib.suppress(OSError):
            each.unlink()


def _read(path: Path) -> Launcher | None:
    try:
        content = json.loads(path.read_bytes())
        return Launcher(int(content["process"]), str(content["machine"]), path)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _cancel_jobs(folder: Path) -> list[str]:
    """Cancel the Slurm jobs of a group; gives their job ids."""
    try:
        return cancel_all(open_submissions(folder))
    except SlurmError as error:
        raise UserError(f"Slurm does not cancel the jobs of {folder}: {error}") from None


def cancel(words: Sequence[str]) -> int:
    """Cancel a group's Slurm jobs, ask its launchers to stop and wait until they have; the runs save their state."""
    description = "Stop the launchers and the Slurm jobs of a group; its runs save their state."
    options = group_parser("cancel", description).parse_args(words)
    folder = options.results_dir / group_of(options)
    arrays = _cancel_jobs(folder)
    if arrays:
        print(f"cancelled Slurm jobs {' '.join(arrays)}: their runs save their state; the same command resumes them")
    launchers = launchers_of(folder)
    here = [launcher for launcher in launchers if launcher.is_here]
    elsewhere = ", ".join(sorted({launcher.machine for launcher in launchers if not launcher.is_here}))
    if not here and not arrays:
        advice = f", but on {elsewhere}: cancel it there" if elsewhere else "; there is nothing to cancel"
        raise UserError(f"no launcher is running {folder} on this machine{advice}")
    for launcher in here:
        launcher.ask_to_stop()
        print(
            f"asked launcher {launcher.process} to stop: its runs save their state; ask again to kill them", flush=True
        )
    for launcher in here:
        while launcher.is_alive():
            time.sleep(_LOOK_EVERY)
        print(f"launcher {launcher.process} has stopped; the same command resumes its runs")
    if elsewhere:
        print(f"other launchers are running this group on {elsewhere}: cancel them there")
    return COMPLETE
