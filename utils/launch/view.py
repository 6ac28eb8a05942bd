"""What the launcher shows: one live screen on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from utils.launch.engine import Child
from utils.launch.output import discard_output, wrap
from utils.launch.plan import Job
from utils.launch.remaining import Remaining
from utils.launch.scheduler import Progress
from utils.launch.screen import draw, setting_of
from utils.records.content import UnreadableRecord
from utils.records.progress import clock
from utils.records.record import Record
from utils.records.state import RunState

REFRESH = 1.0  # seconds between two pictures of the live screen
PLAIN_REFRESH = 5.0  # seconds between two looks at what the runs have told, until they tell when all will be over


class View:
    """Says what happens, and keeps a live screen if there is a terminal.

    Args:
        title: of the plan.
        remaining: tells how long it still takes.
        console: where to show it; the standard output by default.

    Attributes:
        refresh: seconds after which the screen wants to be shown again; None: only when something happens.
        num_following: gives how many runs will follow the searches that are under way, and are no jobs yet.
    """

    def __init__(
        self,
        title: str,
        remaining: Remaining | None = None,
        console: Console | None = None,
    ) -> None:
        self._title = title
        self._console = console or Console(highlight=False)
        self._remaining = remaining or Remaining()
        self.num_following: Callable[[], int] = lambda: 0
        self._num_saved = 0
        self._live = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self.refresh: float | None = REFRESH if self._live else PLAIN_REFRESH

    def say(self, text: str) -> None:
        """One line, above the live screen; a terminal gets it broken between words."""
        if self._console.is_terminal:
            text = wrap(text, self._console.width)
        self._write(lambda: self._console.print(text, markup=False, soft_wrap=True))

    def started(self, child: Child) -> None:
        """A run has begun."""
        if self._live is None:
            self.say(f"started {_title(child.job)} on {child.place.label}")

    def ended(self, job: Job, outcome: RunState, reason: str, child: Child | None, progress: Progress) -> None:
        """A job is over; a failed one shows its own last lines."""
        if child is None and outcome is not RunState.FAILED:
            return  # it was so before
        self._num_saved += outcome is RunState.STOPPED and job.record.started
        number = f"[{len(progress.outcomes)}/{self._num_runs(progress)}]"
        took = clock(time.monotonic() - child.started) if child else "0:00:00"
        if outcome is RunState.COMPLETE:
            self.say(f"{number} {_title(job)}: {_final(job.record)}, {took}, ETA {self._eta(progress)}")
            return
        self.say(f"{number} {_title(job)} {outcome.value} after {took}: {reason}")
        if child and outcome is RunState.FAILED:
            for line in child.last_lines():
                self.say(f"    {line}")
            self.say(f"    (all of it: {child.log_path})")

    def show(self, progress: Progress) -> None:
        """Draw the live screen; called when nothing more can be started for now."""
        self._remaining.note(progress)
        live = self._live
        if live is not None:
            width, height = self._console.size
            screen = draw(self._title, progress, self._eta(progress), (width, height), _tell, self.num_following())
            self._write(lambda: live.update(screen, refresh=True))
        elif self.refresh is not None and (seconds := self._seconds(progress)):
            self.refresh = None
            done = f"{len(progress.outcomes)} of {self._num_runs(progress)} runs done"
            self.say(f"{done}, {len(progress.running)} running, ETA {clock(seconds)}")

    def close(self) -> None:
        """Take the live screen away."""
        if self._live is not None:
            self._write(self._live.stop)
            self._live = None

    def closing_lines(self, progress: Progress, stopped: bool) -> list[str]:
        """What has become of the plan, and after a stop what is saved."""
        lines = [f"{progress.count(RunState.COMPLETE)} of {self._num_runs(progress)} runs complete"]
        if stopped and progress.count(RunState.STOPPED):
            saved = f"{self._num_saved} of {progress.count(RunState.STOPPED)} stopped runs"
            lines.append(f"the state of {saved} is saved; the same command goes on from there")
        return lines

    def _num_runs(self, progress: Progress) -> int:
        return progress.num_jobs + self.num_following()

    def _write(self, write: Callable[[], None]) -> None:
        """A terminal that is gone, or a reader that has seen enough, stops no run: nothing more is shown."""
        try:
            write()
        except (OSError, SystemExit):  # rich ends the program where a pipe breaks
            self._console.quiet, self._live, self.refresh = True, None, None
            discard_output()

    def _eta(self, progress: Progress) -> str:
        if progress.count(RunState.STOPPED):
            return "–"
        seconds = self._seconds(progress)
        return "unknown" if seconds is None else clock(seconds)

    def _seconds(self, progress: Progress) -> float | None:
        return self._remaining.seconds(progress, self.num_following())


def _title(job: Job) -> str:
    setting = setting_of(job)
    return f"{job.name} ({setting})" if setting else job.name


def _tell(child: Child) -> str:
    progress = child.job.record.read_progress()
    return progress.words if progress else "starting"


def _final(record: Record) -> str:
    try:
        result = record.read_result()
    except UnreadableRecord:  # which is the report's to name
        return "complete"
    value = result.metrics["class_il"]["A_f"] if result else None
    return "complete" if value is None else f"final Class-IL {value:.2f} %"
