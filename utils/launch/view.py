"""What the launcher shows: one live screen on a terminal, plain lines elsewhere."""

import itertools
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from utils.launch.engine import Attempt
from utils.launch.estimates import Remaining
from utils.launch.grid import setting_text
from utils.launch.job import Job
from utils.launch.scheduler import PlanProgress
from utils.machine import discard_output
from utils.records.content import UnreadableRecord
from utils.records.progress import clock
from utils.records.record import Record
from utils.records.state import RunState

REFRESH = 1.0  # seconds between two pictures of the live screen
PLAIN_REFRESH = 5.0  # seconds between two looks at the progress of the runs, until the end can be estimated
MOST_FAILURES = 3  # shown at a time; the lines above the screen have named them all
_ENOUGH_FOR_A_NAME = 24
_COLORS = {RunState.COMPLETE: "green", RunState.FAILED: "red", RunState.DIVERGED: "yellow", RunState.STOPPED: "yellow"}


def show(lines: Iterable[str]) -> None:
    """Print lines, on a terminal broken between words."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        lines = [wrap(line, width) for line in lines]
    print(*lines, sep="\n", flush=True)


def wrap(line: str, width: int) -> str:
    """A line broken between words, what follows the first break being indented; a longer word stays whole."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    room = max(len(indent) + 1, width)
    lines = textwrap.wrap(line, room, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


class View:
    """Says what happens, and keeps a live screen if there is a terminal.

    Args:
        title: of the plan.
        remaining: estimates how long it still takes.
        console: where to show it; the standard output by default.

    Attributes:
        refresh: seconds after which the screen wants to be shown again; None: only when something happens.
        num_following: gives how many runs will follow the searches that are under way, and are no jobs yet.
    """

    def __init__(self, title: str, remaining: Remaining, console: Console | None = None) -> None:
        self._title = title
        self._console = console or Console(highlight=False)
        self._remaining = remaining
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

    def started(self, attempt: Attempt) -> None:
        """A run has begun."""
        if self._live is None:
            self.say(f"started {_title(attempt.job)} on {attempt.label}")

    def ended(self, job: Job, outcome: RunState, reason: str, attempt: Attempt | None, progress: PlanProgress) -> None:
        """A job is over; a failed one shows its own last lines."""
        if attempt is None and outcome is not RunState.FAILED:
            return  # it was so before
        self._num_saved += outcome is RunState.STOPPED and job.record.started
        number = f"[{len(progress.outcomes)}/{self._num_runs(progress)}]"
        took = clock(time.monotonic() - attempt.started) if attempt else "0:00:00"
        if outcome is RunState.COMPLETE:
            self.say(f"{number} {_title(job)}: {_final(job.record)}, {took}, ETA {self._eta(progress)}")
            return
        where = f" on {attempt.label}" if attempt and outcome is RunState.FAILED else ""
        self.say(f"{number} {_title(job)} {outcome.value}{where} after {took}: {reason}")
        if attempt and outcome is RunState.FAILED:
            for line in attempt.last_lines():
                self.say(f"    {line}")
            self.say(f"    (full log: {attempt.log_path})")

    def show(self, progress: PlanProgress) -> None:
        """Draw the live screen; called when nothing more can be started for now."""
        self._remaining.note(progress)
        live = self._live
        if live is not None:
            width, height = self._console.size
            screen = draw(self._title, progress, self._eta(progress), (width, height), self.num_following())
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

    def closing_lines(self, progress: PlanProgress, stopped: bool) -> list[str]:
        """What has become of the plan, and after a stop what is saved."""
        lines = [f"{progress.count(RunState.COMPLETE)} of {self._num_runs(progress)} runs complete"]
        if stopped and progress.count(RunState.STOPPED):
            stopped_runs = f"{self._num_saved} of {progress.count(RunState.STOPPED)} stopped runs"
            lines.append(f"{stopped_runs} saved their state; the same command resumes them")
        if progress.under_way:
            number = len(progress.under_way)
            going_on = "1 run goes on" if number == 1 else f"{number} runs go on"
            lines.append(f"{going_on} without the launcher; the same command finds them again")
        return lines

    def _num_runs(self, progress: PlanProgress) -> int:
        return progress.num_jobs + self.num_following()

    def _write(self, write: Callable[[], None]) -> None:
        """Write to the console; once the terminal or the reader of the output is gone, nothing more is shown."""
        try:
            write()
        except (OSError, SystemExit):  # rich ends the program where a pipe breaks
            self._console.quiet, self._live, self.refresh = True, None, None
            discard_output()

    def _eta(self, progress: PlanProgress) -> str:
        if progress.count(RunState.STOPPED):
            return "–"
        seconds = self._seconds(progress)
        return "unknown" if seconds is None else clock(seconds)

    def _seconds(self, progress: PlanProgress) -> float | None:
        return self._remaining.seconds(progress, self.num_following())


def _title(job: Job) -> str:
    setting = setting_of(job)
    return f"{job.name} ({setting})" if setting else job.name


def _final(record: Record) -> str:
    try:
        result = record.read_result()
    except UnreadableRecord:  # which is the report's to name
        return "complete"
    value = result.metrics["class_il"]["A_f"] if result else None
    return "complete" if value is None else f"final Class-IL {value:.2f} %"


class _Row(NamedTuple):
    """What is shown of a running attempt."""

    device: str
    name: str
    setting: str
    took: str
    progress: str


def draw(title: str, progress: PlanProgress, eta: str, size: tuple[int, int], num_following: int = 0) -> Group:
    """The whole screen.

    Args:
        title: of the plan.
        progress: of its jobs.
        eta: when it will be over, in words.
        size: columns and lines of the terminal.
        num_following: runs that will follow and are no jobs yet.
    """
    width, height = size
    done, total = len(progress.outcomes) - progress.count(RunState.STOPPED), progress.num_jobs + num_following
    failures = _failures(progress, width)
    num_rows = max(1, height - 4 - len(failures))  # title, bar, counts, and the cursor's line
    return Group(
        _head(f"{title}: {done} of {total} runs done", f"ETA {eta}", width),
        _bar(done / max(1, total), width),
        _counts(progress, num_following),
        *_running(list(progress.running.values()), width, num_rows),
        *failures,
    )


def _head(left: str, right: str, width: int) -> Text:
    room = max(1, width - len(right) - 2)
    return Text(shorten(left, room).ljust(room) + "  " + right, "bold", no_wrap=True, overflow="crop")


def _bar(share: float, width: int) -> Text:
    filled = int(share * width)
    return Text.assemble(("━" * filled, "green"), ("━" * (width - filled), "dim"), no_wrap=True, overflow="crop")


def _counts(progress: PlanProgress, num_following: int) -> Text:
    parts = [
        Text(f"{progress.count(outcome)} {outcome.value}", _COLORS[outcome])
        for outcome in RunState
        if progress.count(outcome)
    ]
    parts += [Text(f"{len(progress.running)} running"), Text(f"{progress.num_waiting} waiting")]
    parts += [Text(f"{num_following} to follow")] if num_following else []
    return Text("  ").join(parts)


def _running(attempts: list[Attempt], width: int, num_rows: int) -> list[Text]:
    """One line per running attempt, those of one device together; the last line counts those that have no room."""
    attempts.sort(key=lambda attempt: (len(attempt.label), attempt.label))
    hidden = len(attempts) - num_rows + 1 if len(attempts) > num_rows else 0
    shown = attempts[: len(attempts) - hidden]
    lines = _aligned([_row(attempt) for attempt in shown], width)
    return [*lines, Text(f"and {hidden} more", "dim")] if hidden else lines


def _row(attempt: Attempt) -> _Row:
    took, progress = clock(time.monotonic() - attempt.started), attempt.job.record.read_progress()
    words = progress.words if progress else "ending" if attempt.job.record.complete else "starting"
    return _Row(attempt.label, attempt.job.name, setting_of(attempt.job), took, words)


def _aligned(rows: list[_Row], width: int) -> list[Text]:
    """Device, name, setting, time and progress in columns; the name gives way first, then what follows the task."""
    if not rows:
        return []
    device, name, setting, took, progress = (max(map(len, column)) for column in zip(*rows, strict=True))
    gap = 2 if setting else 0
    room = width - device - took - 6 - setting - gap
    if room - progress < _ENOUGH_FOR_A_NAME:
        rows = [row._replace(progress=row.progress.partition(",")[0]) for row in rows]
        progress = max(len(row.progress) for row in rows)
    name = max(8, min(name, room - progress))
    return [
        Text(
            f"{row.device:<{device}}  {shorten_name(row.name, name):<{name}}  {row.setting:<{setting + gap}}"
            f"{row.took:>{took}}  {row.progress}",
            no_wrap=True,
            overflow="crop",
        )
        for row in rows
    ]


def setting_of(job: Job) -> str:
    """What distinguishes a run from others of its name: its values of the axes, and whether data are held out."""
    pairs = [pair for pair in itertools.pairwise(job.words) if pair[0].removeprefix("--") in job.axes.names]
    held_out = ["held out"] if "--validation" in job.words else []
    return ", ".join([*map(setting_text, pairs), *held_out])


def _failures(progress: PlanProgress, width: int) -> list[Text]:
    failed = [(name, reason) for name, (outcome, reason) in progress.outcomes.items() if outcome is RunState.FAILED]
    return [
        Text(f"failed: {shorten_name(name, width // 2)}: {reason}", "red", no_wrap=True, overflow="ellipsis")
        for name, reason in failed[-MOST_FAILURES:]
    ]


def shorten(text: str, width: int) -> str:
    """The text, its beginning left out if it is too long."""
    return text if len(text) <= width else "…" + text[len(text) - max(0, width - 1) :]


def shorten_name(name: str, width: int) -> str:
    """The name of a run; its hash gives way first, then what comes before norm layer and seed."""
    return name if len(name) <= width else shorten(name.rpartition("-")[0] or name, width)
