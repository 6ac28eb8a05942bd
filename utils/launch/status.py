"""`run.py status`: the states of the runs of a group, by their records and the plan. Imports no torch."""

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from utils.config.options import Option, boolean, ranged
from utils.errors import COMPLETE, UserError
from utils.launch.arguments import group_of, group_parser, groups_in
from utils.launch.estimates import last_end
from utils.launch.presence import Launcher, launchers_of
from utils.launch.submission import jobs_by_run, open_submissions
from utils.records.collect import Run, read_run
from utils.records.content import DamagedRecord
from utils.records.ledger import Ledger
from utils.records.progress import Progress, clock
from utils.records.record import Record, record_folders
from utils.records.state import RunState
from utils.slurm import SlurmError, SlurmJob

SCHEMA = 1  # of the JSON document
_ALWAYS_COUNTED = (RunState.COMPLETE, RunState.RUNNING, RunState.DIVERGED, RunState.STARTED)
_COUNTED_IF_ANY = (
    *(RunState.STOPPED, RunState.FAILED, RunState.DAMAGED, RunState.UNREADABLE, RunState.OTHER_VERSION),
    RunState.NOT_RUN,
)
_NO_ANSWER = (RunState.STARTED, RunState.NOT_RUN, RunState.STOPPED, RunState.FAILED)
_EXPLAINED = (RunState.FAILED, RunState.UNREADABLE, RunState.OTHER_VERSION)
_MOST_NOT_RUN = 20  # of which the names are listed
_OPTIONS = (
    Option("json", boolean, False, "print everything as one JSON document", flag=True, group="how"),
    Option(
        "watch",
        ranged(float, 0.1),
        None,
        "show it again every so many seconds; without a number, every 2",
        source="off",
        flag=2.0,
        group="how",
        metavar="SECONDS",
    ),
)


def status(words: Sequence[str]) -> int:
    """Show what is complete, what is running and until when, what has failed and why."""
    description = "Show the state of the runs of a group, or how all groups are and what runs or has failed in them."
    options = group_parser("status", description, _OPTIONS, without_name="all groups").parse_args(words)
    if options.json and options.watch is not None:
        raise UserError("--json and --watch cannot be given together")
    folders = _folders(options)
    if options.json:
        groups = [group_status(folder).as_json() for folder in folders]
        print(json.dumps({"schema": SCHEMA, "groups": groups}, indent=1))
    elif options.watch is None:
        print(*_lines(folders), sep="\n")
    else:
        _watch(folders, options.watch)
    return COMPLETE


def _folders(options: Any) -> list[Path]:
    """The folder of the group that is named; of all groups where none is."""
    names = groups_in(options.results_dir)
    if options.name is None and options.group is None and len(names) > 1:
        return [options.results_dir / name for name in names]
    return [options.results_dir / group_of(options)]


@dataclass(frozen=True)
class RunStatus:
    """The state of a run and how far it is.

    Attributes:
        name: of its folder.
        state: by its record.
        reason: why it failed, is not run or cannot be read; else empty.
        progress: how far it is, or was when it ended without a result.
        seconds_left: until it ends, None unless it runs and that is known.
        slurm: the Slurm job that has it, with its state and reason; empty if none has.
    """

    name: str
    state: RunState
    reason: str = ""
    progress: Progress | None = None
    seconds_left: float | None = None
    slurm: str = ""

    @property
    def line(self) -> str:
        """The status as a line of text."""
        words = self.progress.words if self.progress else "starting" if self.state is RunState.RUNNING else ""
        told = [each for each in (self.reason or words + _eta(self.seconds_left), self.slurm) if each]
        return f"  {self.state:9} {self.name}  {'; '.join(told)}".rstrip()


@dataclass(frozen=True)
class GroupStatus:
    """The states of the runs of a group.

    Attributes:
        folder: of the group.
        runs: by name.
        launchers: that are running it.
        damage: why its plan cannot be read; else empty.
        slurm_problem: why nobody knows how its Slurm jobs are; else empty.
    """

    folder: Path
    runs: tuple[RunStatus, ...]
    launchers: tuple[Launcher, ...]
    damage: str
    slurm_problem: str = ""

    @cached_property
    def counts(self) -> Counter[RunState]:
        """Runs of each state."""
        return Counter(run.state for run in self.runs)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last run ends, None if nothing runs or that is not known yet.

        Where a launcher is running the group, what is not begun takes as long as those that run, so many at a time.
        """
        running = [run for run in self.runs if run.state is RunState.RUNNING]
        known = [run for run in running if run.seconds_left is not None]
        if not known:
            return None
        progress = [run.progress for run in known if run.progress is not None]
        typical = sum((each.total_steps or 0) * (each.seconds_per_step or 0.0) for each in progress) / len(known)
        ends = [typical if run.seconds_left is None else run.seconds_left for run in running]
        waiting = (RunState.NOT_RUN, RunState.STARTED, RunState.STOPPED)
        num_waiting = sum(self.counts[state] for state in waiting) if self.launchers else 0
        return last_end(ends, [typical] * num_waiting)

    @property
    def title(self) -> str:
        """How many runs are in each state, and when all will be over."""
        shown = [name for name in _ALWAYS_COUNTED + _COUNTED_IF_ANY if self.counts[name] or name in _ALWAYS_COUNTED]
        number = "1 run" if len(self.runs) == 1 else f"{len(self.runs)} runs"
        counts = ", ".join(f"{self.counts[name]} {name}" for name in shown)
        return f"{self.folder}: {number}: {counts}{_eta(self.seconds_left)}"

    def lines(self) -> Iterable[str]:
        """The status in lines of text, with every run that is neither complete nor only planned."""
        yield self.title
        yield from (f"  launcher {each.process} is running on {each.machine}" for each in self.launchers)
        yield from (run.line for run in self.runs if run.state not in (RunState.COMPLETE, RunState.NOT_RUN))
        not_run = [run for run in self.runs if run.state is RunState.NOT_RUN]
        yield from (run.line for run in not_run[:_MOST_NOT_RUN])
        if len(not_run) > _MOST_NOT_RUN:
            yield f"  and {len(not_run) - _MOST_NOT_RUN} more not run"
        yield from self._problems()

    def brief_lines(self) -> Iterable[str]:
        """The status beside that of other groups: of the runs, only those that run or have failed."""
        yield self.title
        yield from (run.line for run in self.runs if run.state in (RunState.RUNNING, *_EXPLAINED))
        yield from self._problems()

    def _problems(self) -> Iterable[str]:
        yield from (f"  {each}" for each in (self.damage, self.slurm_problem) if each)

    def as_json(self) -> dict[str, Any]:
        """The status as JSON values."""
        return {
            "group": self.folder.name,
            "folder": str(self.folder),
            "counts": {state.value: number for state, number in self.counts.items()},
            "seconds_left": self.seconds_left,
            "launchers": [{"process": each.process, "machine": each.machine} for each in self.launchers],
            "damage": self.damage or None,
            "slurm_problem": self.slurm_problem or None,
            "runs": [dataclasses.asdict(run) for run in self.runs],
        }


def _eta(seconds: float | None) -> str:
    return "" if seconds is None else f", ETA {clock(seconds)}"


def group_status(folder: Path) -> GroupStatus:
    """The states of the runs of a group now."""
    damage, planned, problem = "", {}, ""
    jobs: dict[str, SlurmJob] = {}
    try:
        planned = Ledger(folder).read()
    except DamagedRecord as error:
        damage = str(error)
    names = sorted({each.name for each in record_folders(folder)} | planned.keys())
    submissions = open_submissions(folder)
    try:
        jobs = jobs_by_run(submissions) if submissions else {}
    except SlurmError as error:
        problem = f"Slurm does not say how its jobs are: {error}"
    runs = tuple(run_status(read_run(folder / name, planned.get(name)), jobs.get(name)) for name in names)
    return GroupStatus(folder, runs, tuple(launchers_of(folder)), damage, problem)


def run_status(run: Run, job: SlurmJob | None = None) -> RunStatus:
    """The state of a run now, and that of the Slurm job that has it."""
    slurm = "" if job is None or run.state.is_answer else f"Slurm job {job.array}_{job.index}: {job.words}"
    record, name = Record(run.folder), run.folder.name
    progress = None if run.state is RunState.COMPLETE or not run.has_record else record.read_progress()
    if run.state in _NO_ANSWER and run.has_record and record.is_held():
        seconds_left = None if progress is None else progress.seconds_left(time.time())
        return RunStatus(name, RunState.RUNNING, "", progress, seconds_left, slurm)
    reason = run.reason if run.state in _EXPLAINED else ""
    return RunStatus(name, run.state, reason.removeprefix(f"{run.state}: "), progress, slurm=slurm)


def _lines(folders: Sequence[Path]) -> list[str]:
    groups = [group_status(folder) for folder in folders]
    if len(groups) == 1:
        return list(groups[0].lines())
    return [line for group in groups for line in group.brief_lines()]


def _watch(folders: Sequence[Path], seconds: float) -> None:
    """Show it again and again, until Ctrl-C: in place on a terminal, else as a block each time."""
    try:
        if sys.stdout.isatty():
            _redraw(folders, seconds)
        while True:
            print(*_lines(folders), "", sep="\n", flush=True)
            time.sleep(seconds)
    except KeyboardInterrupt:
        return


def _redraw(folders: Sequence[Path], seconds: float) -> None:
    from rich.live import Live
    from rich.text import Text

    def picture() -> Text:
        return Text("\n".join(_lines(folders)))

    with Live(picture(), auto_refresh=False) as live:
        while True:
            time.sleep(seconds)
            live.update(picture(), refresh=True)
