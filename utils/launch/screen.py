"""The launcher's live screen as a picture of the plan under way, fitted to the terminal."""

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

from rich.console import Group
from rich.text import Text

from utils.launch.cells import setting_text
from utils.launch.engine import Child
from utils.launch.plan import Job
from utils.launch.scheduler import Progress
from utils.records.progress import clock
from utils.records.state import RunState

MOST_FAILURES = 3  # shown at a time; the lines above the screen have named them all
_ENOUGH_FOR_A_NAME = 24
_COLORS = {RunState.COMPLETE: "green", RunState.FAILED: "red", RunState.DIVERGED: "yellow", RunState.STOPPED: "yellow"}


class _Row(NamedTuple):
    """What is shown of a running child."""

    where: str
    name: str
    setting: str
    took: str
    told: str


def draw(
    title: str,
    progress: Progress,
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


def _counts(progress: Progress, num_following: int) -> Text:
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


def _failures(progress: Progress, width: int) -> list[Text]:
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
