"""What the launcher shows: one live screen on a terminal, plain lines elsewhere."""

import json
import os
import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from utils.launch.engine import Child
from utils.launch.plan import Job
from utils.launch.scheduler import Outcome, Progress
from utils.record import Record

REFRESH = 0.5  # seconds between two pictures of the live screen
_TAIL_BYTES = 4096


class View:
    """Says what happens, and keeps a live screen if there is a terminal.

    Attributes:
        refresh: seconds after which the screen wants to be shown again; None: only when something happens.
    """

    def __init__(self, title: str, width: int, console: Console | None = None) -> None:
        self._title = title
        self._width = max(1, width)  # runs that go on at the same time
        self._console = console or Console(highlight=False)
        self._live = None
        self._started = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self.refresh = REFRESH if self._live else None

    def say(self, text: str) -> None:
        """One line, above the live screen."""
        self._console.print(text, markup=False, soft_wrap=True)

    def started(self, child: Child) -> None:
        """A run has begun."""
        if self._live is None:
            self.say(f"started {child.job.name} on {child.place.label}")

    def ended(self, job: Job, outcome: Outcome, reason: str, child: Child | None, progress: Progress) -> None:
        """A job is over; a failed one shows its own last lines."""
        number = f"[{len(progress.outcomes)}/{progress.num_jobs}]"
        if child is None:
            return  # it was complete before
        took = f"{time.monotonic() - child.started:.0f} s"
        if outcome is Outcome.COMPLETE:
            self.say(f"{number} {job.name}: {_final(job.record)}, {took}, ETA {self._eta(progress)}")
            return
        self.say(f"{number} {job.name} {outcome.value} after {took}: {reason}")
        if outcome is Outcome.FAILED:
            for line in child.last_lines():
                self.say(f"    {line}")
            self.say(f"    (all of it: {child.log_path})")

    def show(self, progress: Progress) -> None:
        """Draw the live screen."""
        if self._live is not None:
            self._live.update(self._screen(progress), refresh=True)

    def close(self) -> None:
        """Take the live screen away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _screen(self, progress: Progress) -> Group:
        counts = [f"{progress.count(outcome)} {outcome.value}" for outcome in Outcome if progress.count(outcome)]
        counts += [f"{len(progress.running)} running", f"{progress.num_waiting} waiting"]
        head = f"{self._title}: {progress.num_jobs} runs, {', '.join(counts)}, ETA {self._eta(progress)}"
        table = Table(box=None, pad_edge=False)
        for column in ("where", "run", "time", "progress"):
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        for child in progress.running.values():
            took = _clock(time.monotonic() - child.started)
            table.add_row(child.place.label, child.job.name, took, last_progress(child.job.record))
        return Group(Text(head), table)

    def _eta(self, progress: Progress) -> str:
        """From the wall time of the runs that are over."""
        if not progress.seconds:
            return "unknown"
        mean = sum(progress.seconds) / len(progress.seconds)
        spent = sum(min(mean, time.monotonic() - child.started) for child in progress.running.values())
        left = mean * (progress.num_waiting + len(progress.running)) - spent
        return _clock(max(0.0, left) / min(self._width, max(1, progress.num_jobs)))


def last_progress(record: Record) -> str:
    """The last line of a run's `metrics.jsonl` in words, empty if there is none."""
    try:
        with record.metrics_path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        line: dict[str, Any] = json.loads(lines[-1])
        place = f"task {line['task'] + 1}, step {line['step']}"
        return f"{place}, loss {line['loss']:.3f}" if "loss" in line else place
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return ""


def _final(record: Record) -> str:
    try:
        value = record.read_result()["metrics"]["class_il"]["A_f"]
    except Exception:  # a damaged result is the report's to name
        return "complete"
    return "complete" if value is None else f"final Class-IL {value:.2f} %"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"
