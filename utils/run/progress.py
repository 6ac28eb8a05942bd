"""A run's progress: a live bar on a terminal, else a few plain lines a minute; and `progress.json`."""

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from utils.errors import Stopped
from utils.machine import discard_output
from utils.records.progress import Progress, clock
from utils.records.record import Record

PLAIN_INTERVAL = 20.0  # seconds between plain lines
LIVE_INTERVAL = 0.1  # seconds between updates of the live bar
SHORTEST_BAR = 4  # columns, below which rich cuts the text beside it
FILE_INTERVAL = 0.4  # seconds between two writings of `progress.json`
PHASES = {
    "evaluation": "evaluating",
    "exemplars": "choosing exemplars",
    "measuring": "measuring",
    "norms": "measuring norm layers",
}  # of the kinds of time (`utils/run/measurements.py`) that a reader may want to know of


class _Console(Console):
    """Ends the run, as a signal does, when nobody reads its output any more, as after `| head`."""

    def on_broken_pipe(self) -> None:
        discard_output()
        raise Stopped(signal.SIGPIPE)


class Screen:
    """Says lines, and shows how far a run is.

    Args:
        verbose: False leaves out everything that is said with `detail`, and the progress.
        console: where to print; the standard output by default.
    """

    def __init__(self, verbose: bool = True, console: Console | None = None) -> None:
        self.log: Callable[[str], None] | None = None  # a second place for every said line
        self._verbose = verbose
        self._console = console or _Console(highlight=False, soft_wrap=True)
        self._bar: Bar | None = None

    def say(self, text: str, detail: bool = False) -> None:
        """Print a line, and log it."""
        if self._verbose or not detail:
            self._console.print(text, markup=False)
        if self.log is not None:
            self.log(text)

    def begin(self) -> None:
        """Start to show progress."""
        if self._verbose and self._console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[status]}"),
                console=self._console,
                expand=True,
                transient=True,
            )
            self._bar.add_task("", total=None, status="")
            self._bar.start()

    @property
    def interval(self) -> float:
        """Seconds between updates of the screen."""
        return LIVE_INTERVAL if self._bar else PLAIN_INTERVAL

    def show(self, progress: Progress) -> None:
        """Show the progress."""
        pace, left = progress.seconds_per_step, progress.seconds_left(progress.updated)
        speed = "–" if not pace else f"{1 / pace:.1f}"
        eta = "unknown" if left is None else clock(left)
        parts = [progress.steps, f"loss {progress.loss_text}", f"{speed} steps/s", f"ETA {eta}"]
        if self._bar:
            total, title = progress.total_steps, progress.title
            status = _fitting(parts, (1, 2, 0), self._console.width - len(title) - SHORTEST_BAR - 2)
            self._bar.update(
                self._bar.task_ids[0], description=title, total=total, completed=progress.step, status=status
            )
        else:
            self.say("  ".join([progress.title, *parts]), detail=True)

    def end(self) -> None:
        """The run is over, or stops."""
        if self._bar:
            self._bar.stop()
            self._bar = None


def _fitting(parts: Sequence[str], unimportant: Sequence[int], width: int) -> str:
    """The parts in a line of at most so many columns: those at the unimportant places are left out, the first first."""
    kept = dict(enumerate(parts))
    for place in unimportant:
        if len("  ".join(kept.values())) > width:
            del kept[place]
    return "  ".join(kept.values())


class ProgressReport:
    """Reports progress on the screen and in `progress.json`, each at its own interval.

    A step costs a look at the clock; nothing waits for a device.

    Args:
        record, screen: where to report it.
        num_tasks: of the run.
        total_steps: of the whole run, None if they cannot be known before.
        memory: gives the largest memory so far, as `utils.run.environment.peak_memory` does.
    """

    def __init__(
        self,
        record: Record,
        screen: Screen,
        num_tasks: int,
        total_steps: int | None,
        memory: Callable[[], dict[str, int]] = dict,
    ) -> None:
        self._record = record
        self._screen = screen
        self._memory = memory
        now = time.time()
        self._reported = Progress(os.getpid(), now, 0, now, num_tasks, total_steps, step=0)
        self._latest: dict[str, Any] = {}  # what has changed since then
        self._write_at = self._show_at = float("inf")  # nothing is reported before the run begins

    @contextlib.contextmanager
    def during_run(self, step: int) -> Iterator[None]:
        """Report the training that begins now, after a step."""
        now = time.time()
        self._reported = dataclasses.replace(self._reported, started=now, first_step=step, step=step)
        self._screen.begin()
        self._write_at, self._show_at = 0.0, time.monotonic() + self._screen.interval
        try:
            self.refresh()
            yield
        finally:
            self._write_at = 0.0
            self.refresh()
            self._write_at = self._show_at = float("inf")
            self._screen.end()

    @contextlib.contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Report that something other than training is going on."""
        former = self._latest.get("phase", self._reported.phase)
        if kind == "exemplars":  # nothing is reported again until they are chosen
            self._write_at = min(self._write_at, time.monotonic())
        self.update(phase=PHASES[kind])
        try:
            yield
        finally:
            self.update(phase=former)

    def update(self, **changes: Any) -> None:
        """Record a change, by the names of `Progress`."""
        self._latest |= changes
        self.refresh()

    def advance(self, step: int, stage_step: int, loss: float | None) -> None:
        """Record a step of the whole run and a batch of the stage; `loss` is the last one read."""
        self._latest |= {"step": step, "stage_step": stage_step, "loss": loss}
        self.refresh()

    def refresh(self) -> None:
        """Write the file and update the screen, each if its interval has passed."""
        now = time.monotonic()
        if now < self._write_at and now < self._show_at:
            return
        changes = self._latest | self._memory()
        self._reported = dataclasses.replace(self._reported, **changes, updated=time.time())
        self._latest = {}
        if now >= self._write_at:
            self._record.write_progress(self._reported)
            self._write_at = now + FILE_INTERVAL
        if now >= self._show_at:
            self._screen.show(self._reported)
            self._show_at = now + self._screen.interval
