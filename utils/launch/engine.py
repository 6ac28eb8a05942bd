"""Runs as child processes of this machine, each a command line that one can read and run by hand."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.launch.plan import Job, Where
from utils.registry import ROOT

NUM_LAST_LINES = 12


@dataclass
class Child:
    """A run under way.

    Attributes:
        job: what it runs.
        place: where.
        log_path: what it prints.
        started: by the monotonic clock.
    """

    job: Job
    place: Any
    process: subprocess.Popen
    log_path: Path
    started: float = field(default_factory=time.monotonic)

    def last_lines(self, number: int = NUM_LAST_LINES) -> list[str]:
        """The last lines it printed, such as its error."""
        try:
            text = self.log_path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return [line.rstrip() for line in text.splitlines() if line.strip()][-number:]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask it to save and stop, or with SIGKILL end it, together with what it has started."""
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)


class LocalEngine:
    """Starts runs on this machine.

    Args:
        where: the places that all runs share.
        interpreter: the Python to run them with.
        log_dir: where their output goes.
        more: further words of every command line, such as those for wandb.
        program: what is run; the suite's `utils/main.py`.
    """

    def __init__(
        self,
        where: Where,
        log_dir: Path,
        interpreter: str = sys.executable,
        more: tuple[str, ...] = (),
        program: Path = ROOT / "utils" / "main.py",
    ) -> None:
        self._where = where
        self._log_dir = log_dir
        self._interpreter = interpreter
        self._more = more
        self._program = program

    def command(self, job: Job, place: Any) -> list[str]:
        """The command line of a job at a place."""
        where = self._where
        shared = ["--group", where.group, "--results_dir", str(where.results_dir), "--data_root", str(where.data_root)]
        return [self._interpreter, str(self._program), *job.words, *shared, *self._more, *place.arguments]

    def start(self, job: Job, place: Any, ended: Callable[[Child, int], None]) -> Child:
        """Start a job; `ended(child, exit code)` is called from another thread when it is over.

        Raises:
            OSError: the interpreter cannot be started, or the log not be written.
        """
        self._log_dir.mkdir(parents=True, exist_ok=True)
        log_path = self._log_dir / f"{job.name}.txt"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                self.command(job, place),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | place.environment,
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which stops its children itself
            )
        child = Child(job, place, process, log_path)
        threading.Thread(target=lambda: ended(child, process.wait()), name=job.name, daemon=True).start()
        return child
