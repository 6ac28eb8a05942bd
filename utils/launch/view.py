"""What the launcher shows: one live screen on a terminal, plain lines elsewhere."""

import json
import os
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from utils.launch.engine import Child, tail
from utils.launch.plan import Job
from utils.launch.remaining import Remaining
from utils.launch.scheduler import Outcome, Progress
from utils.launch.screen import clock, draw
from utils.record import Record

REFRESH = 1.0  # seconds between two pictures of the live screen


class View:
    """Says what happens, and keeps a live screen if there is a terminal.

    Args:
        title: of the plan.
        estimate: seconds that a run will take, None if unknown.
        console: where to show it; the standard output by default.

    Attributes:
        refresh: seconds after which the screen wants to be shown again; None: only when something happens.
    """

    def __init__(
        self,
        title: str,
        estimate: Callable[[Job], float | None] = lambda job: None,
        console: Console | None = None,
    ) -> None:
        self._title = title
        self._console = console or Console(highlight=False)
        self._remaining = Remaining(estimate)
        self._live = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self.refresh = REFRESH if self._live else None

    def say(self, text: str) -> None:
        """One line, above the live screen."""
        self._write(lambda: self._console.print(text, markup=False, soft_wrap=True))

    def started(self, child: Child) -> None:
        """A run has begun."""
        if self._live is None:
            self.say(f"started {child.job.name} on {child.place.label}")

    def ended(self, job: Job, outcome: Outcome, reason: str, child: Child | None, progress: Progress) -> None:
        """A job is over; a failed one shows its own last lines."""
        if child is None and outcome is not Outcome.FAILED:
            return  # it was so before
        number = f"[{len(progress.outcomes)}/{progress.num_jobs}]"
        took = clock(time.monotonic() - child.started) if child else "0:00:00"
        if outcome is Outcome.COMPLETE:
            self.say(f"{number} {job.name}: {_final(job.record)}, {took}, ETA {self._eta(progress)}")
            return
        self.say(f"{number} {job.name} {outcome.value} after {took}: {reason}")
        if child and outcome is Outcome.FAILED:
            for line in child.last_lines():
                self.say(f"    {line}")
            self.say(f"    (all of it: {child.log_path})")

    def show(self, progress: Progress) -> None:
        """Draw the live screen; called when nothing more can be started for now."""
        self._remaining.note_places(progress)
        if self._live is not None:
            screen = draw(self._title, progress, self._eta(progress), tuple(self._console.size), _tell)
            self._write(lambda: self._live.update(screen, refresh=True))

    def close(self) -> None:
        """Take the live screen away."""
        if self._live is not None:
            self._write(self._live.stop)
            self._live = None

    def _write(self, write: Callable[[], None]) -> None:
        """A terminal that is gone, or a reader that has seen enough, stops no run: nothing more is shown."""
        try:
            write()
        except (OSError, SystemExit):  # rich ends the program where a pipe breaks
            self._console.quiet, self._live, self.refresh = True, None, None
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _eta(self, progress: Progress) -> str:
        seconds = self._remaining.seconds(progress)
        return "unknown" if seconds is None else clock(seconds)


def _tell(child: Child) -> str:
    return last_progress(child.job.record) or "starting"


def last_progress(record: Record) -> str:
    """The last line of a run's `metrics.jsonl` in words, empty if there is none."""
    lines = tail(record.metrics_path)
    try:
        line = json.loads(lines[-1])
        place = f"task {line['task'] + 1}, step {line['step']}"
        return f"{place}, loss {line['loss']:.3f}" if "loss" in line else place
    except (IndexError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _final(record: Record) -> str:
    try:
        value = record.read_result()["metrics"]["class_il"]["A_f"]
    except Exception:  # a damaged result is the report's to name
        return "complete"
    return "complete" if value is None else f"final Class-IL {value:.2f} %"
