"""What the launcher shows: one live screen on a terminal, plain lines elsewhere."""

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from utils.launch.cells import setting_text
from utils.launch.engine import Child
from utils.launch.output import discard_output, wrap
from utils.launch.plan import Job
from utils.launch.remaining import Remaining
from utils.launch.scheduler import PlanProgress
from utils.records.content import UnreadableRecord
from utils.records.progress import clock
from utils.records.record import Record
from utils.records.state import RunState

REFRESH = 1.0  # seconds between two pictures of the live screen
PLAIN_REFRESH = 5.0  # seconds between two looks at what the runs have told, until they tell when all will be over
MOST_FAILURES = 3  # shown at a time; the lines above the screen have named them all
_ENOUGH_FOR_A_NAME = 24
_COLORS = {RunState.COMPLETE: "green", RunState.FAILED: "red", RunState.DIVERGED: "yellow", RunState.STOPPED: "yellow"}


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

    def ended(self, job: Job, outcome: RunState, reason: str, child: Child | None, progress: PlanProgress) -> None:
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

    def show(self, progress: PlanProgress) -> None:
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

    def closing_lines(self, progress: PlanProgress, stopped: bool) -> list[str]:
        """What has become of the plan, and after a stop what is saved."""
        lines = [f"{progress.count(RunState.COMPLETE)} of {self._num_runs(progress)} runs complete"]
        if stopped and progress.count(RunState.STOPPED):
            saved = f"{self._num_saved} of {progress.count(RunState.STOPPED)} stopped runs"
            lines.append(f"the state of {saved} is saved; the same command goes on from there")
        return lines

    def _num_runs(self, progress: PlanProgress) -> int:
        return progress.num_jobs + self.num_following()

    def _write(self, write: Callable[[], None]) -> None:
        """A terminal that is gone, or a reader that has seen enough, stops no run: nothing more is shown."""
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


class _Row(NamedTuple):
    """What is shown of a running child."""

    where: str
    name: str
    setting: str
    took: str
    told: str


def draw(
    title: str,
    progress: PlanProgress,
    eta: str,
    size: tuple[int, int],
    tell: Callable[[Child], str],
    num_following: int = 0,
) -> Group:
    """The whole screen.

    Args:
        title: of the plan.
        progress: of its jobs.
        eta: when it will be over, in words.
        size: columns and lines of the terminal.
        tell: how far a running child is, in words.
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
        *_running(list(progress.running.values()), width, num_rows, tell),
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


def _running(children: list[Child], width: int, num_rows: int, tell: Callable[[Child], str]) -> list[Text]:
    """One line per running child, those of one device together; the last line counts those that have no room."""
    children.sort(key=lambda child: (len(child.place.label), child.place.label))
    hidden = len(children) - num_rows + 1 if len(children) > num_rows else 0
    shown = children[: len(children) - hidden]
    lines = _aligned([_row(child, tell) for child in shown], width)
    return [*lines, Text(f"and {hidden} more", "dim")] if hidden else lines


def _row(child: Child, tell: Callable[[Child], str]) -> _Row:
    took = clock(time.monotonic() - child.started)
    return _Row(child.place.label, child.job.name, setting_of(child.job), took, tell(child))


def _aligned(rows: list[_Row], width: int) -> list[Text]:
    """Where, name, setting, time and progress in columns; the name gives way first, then what follows the task."""
    if not rows:
        return []
    where, name, setting, took, told = (max(map(len, column)) for column in zip(*rows, strict=True))
    gap = 2 if setting else 0
    room = width - where - took - 6 - setting - gap
    if room - told < _ENOUGH_FOR_A_NAME:
        rows = [row._replace(told=row.told.partition(",")[0]) for row in rows]
        told = max(len(row.told) for row in rows)
    name = max(8, min(name, room - told))
    return [
        Text(
            f"{row.where:<{where}}  {shorten_name(row.name, name):<{name}}  {row.setting:<{setting + gap}}"
            f"{row.took:>{took}}  {row.told}",
            no_wrap=True,
            overflow="crop",
        )
        for row in rows
    ]


def setting_of(job: Job) -> str:
    """What tells a run from its neighbours: its values of the axes, and whether data are held out.

    Its name has neither.
    """
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
