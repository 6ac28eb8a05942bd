"""Starts the runs of a plan as an engine has room for them, reads how they end, and decides what follows.

Everything that happens comes through one queue: a run that is over, a signal, a moment that was waited for. Between
two events the launcher sleeps.
"""

import contextlib
import queue
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from utils import errors
from utils.errors import Busy, RunError
from utils.launch.engine import Attempt, Engine, Limits
from utils.launch.job import CommonOptions, Job
from utils.launch.presence import launchers_of
from utils.records.collect import read_run
from utils.records.ledger import Axes, Ledger, Planned
from utils.records.state import RunState

_NOTED = (RunState.FAILED, RunState.STOPPED)  # the record says so of the others
_FINAL = {errors.MISTAKE, errors.DISK, *errors.STOPPED}  # exit codes after which another attempt would change nothing
# States in which a job is not started, and the outcome that each counts as.
_OVER = {
    RunState.COMPLETE: RunState.COMPLETE,
    RunState.DIVERGED: RunState.DIVERGED,
    RunState.OTHER_VERSION: RunState.FAILED,
    RunState.UNREADABLE: RunState.FAILED,
}


@dataclass
class PlanProgress:
    """What is shown of a plan under way.

    Attributes:
        running: the runs under way, by name.
        outcomes: of the jobs that are over, by name, with a line that says why where they failed.
        finished: every run that this launcher completed, and its wall time in seconds.
        waiting: the jobs that will be started, in this order.
        queued: the runs that the engine has taken and that wait in a queue of its own, by name.
        failed_on_disk: the jobs that failed as a disk is full or cannot be written, by name.
    """

    num_jobs: int
    running: dict[str, Attempt] = field(default_factory=dict)
    outcomes: dict[str, tuple[RunState, str]] = field(default_factory=dict)
    finished: list[tuple[Job, float]] = field(default_factory=list)
    waiting: deque[Job] = field(default_factory=deque)
    queued: dict[str, Attempt] = field(default_factory=dict)
    failed_on_disk: set[str] = field(default_factory=set)

    @property
    def is_disk_at_fault(self) -> bool:
        """Whether runs have failed, all of them for the disk."""
        return 0 < len(self.failed_on_disk) == self.count(RunState.FAILED)

    def count(self, outcome: RunState) -> int:
        """Jobs that are over in that way."""
        return sum(each is outcome for each, _ in self.outcomes.values())

    @property
    def under_way(self) -> list[Attempt]:
        """What the engine has taken, whether it runs or not."""
        return [*self.running.values(), *self.queued.values()]

    @property
    def to_come(self) -> list[Job]:
        """The jobs that do not run yet."""
        return [*(attempt.job for attempt in self.queued.values()), *self.waiting]

    @property
    def num_waiting(self) -> int:
        """Jobs that are neither over nor running."""
        return self.num_jobs - len(self.outcomes) - len(self.running)


class Scheduler:
    """Brings the jobs of a plan to their end.

    Args:
        jobs: in the order in which they are started.
        engine: does them (`utils/launch/engine.py`).
        limits: when to give up.
        view: shows what happens (`utils/launch/view.py`).
        books: write down what is planned and how it ends (`Bookkeeper`).
        follow: gives the jobs that follow when a job is over; those that are in the plan already are left out.
    """

    def __init__(
        self,
        jobs: tuple[Job, ...],
        engine: Engine,
        limits: Limits,
        view: Any,
        books: Any,
        follow: Callable[[Job], Iterable[Job]] = lambda job: (),
    ) -> None:
        self.progress = PlanProgress(len(jobs), waiting=deque(jobs))
        self._waiting = self.progress.waiting
        self._held: list[tuple[float, Job]] = []  # jobs that another process is running, and when to look again
        self._engine = engine
        self._limits = limits
        self._view = view
        self._follow = follow
        self._books = books
        self._names = {job.name for job in jobs}
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._crashes: dict[str, int] = {}
        self._memory_failures: dict[str, int] = {}
        self._refusals: dict[str, int] = {}
        self._first_failures: list[str] = []
        self._said_held: set[tuple[str, str]] = set()
        self._next_start = 0.0
        self._stopping: int | None = None
        self._ending = signal.SIGTERM
        self._has_told_obstacle = False

    def run(self, *, waits: bool = True) -> PlanProgress:
        """Start, wait and read until every job is over or the launcher is stopped.

        Args:
            waits: otherwise only what can be known and started now is read and started.
        """
        former = {number: signal.signal(number, self._note_signal) for number in errors.stop_signals()}
        try:
            self._books.plan(self._waiting)
            self._start_what_fits()
            self._look()
            self._tell_obstacle()
            while not self._is_over() and (waits or not self._events.empty()):
                self._view.show(self.progress)
                self._handle_event()
                self._look()
                self._resume_held()
                self._start_what_fits()
                self._tell_obstacle()
            if not waits:
                self._look()
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
        return self.progress

    @property
    def stopped_by(self) -> int | None:
        """The signal that stopped the launcher."""
        return self._stopping if self._stopping and self._stopping > 0 else None

    def _is_over(self) -> bool:
        if self._stopping is not None:
            leaves = self._engine.outlives_launcher and self._stopping > 0
            return leaves or not self.progress.under_way
        return not (self.progress.under_way or self._waiting or self._held)

    def _note_signal(self, number: int, frame: Any) -> None:
        """Stop at once, as the launcher may be waiting for what tells of the devices; wake it if it sleeps."""
        with contextlib.suppress(RuntimeError):  # nothing is said if it is just writing, which cannot be entered again
            self._stop(number)
        self._events.put(("signal", None))

    # -- starting ----------------------------------------------------------------------------------------------------

    def _start_what_fits(self) -> None:
        passed = 0  # runs that failed on some devices, and wait for others
        while passed < len(self._waiting) and self._stopping is None and time.monotonic() >= self._next_start:
            job = self._waiting[passed]
            state = job.state()
            if state in _OVER:
                self._waiting.remove(job)
                reason = "" if state.is_answer else read_run(job.record.folder).reason
                self._close(job, _OVER[state], reason)
                continue
            if state is RunState.DAMAGED and not self._set_aside(job):
                continue
            if self._start(job):
                continue
            if job.name not in self._crashes and job.name not in self._refusals:
                return
            passed += 1

    def _tell_obstacle(self) -> None:
        """Say once why nothing runs, until something has."""
        if self.progress.under_way:
            self._has_told_obstacle = False
        elif self._waiting and self._stopping is None and not self._has_told_obstacle:
            if time.monotonic() < self._next_start:
                return
            reason = self._engine.obstacle()
            self._has_told_obstacle = bool(reason)
            if reason:
                self._view.say(f"{len(self._waiting)} waiting: {reason}")

    def _set_aside(self, job: Job) -> bool:
        """Set a damaged record aside, so that the run can start over; False if the job is not to be started now."""
        if job.record.is_held():
            return True
        try:
            name = job.record.set_aside().name
        except FileNotFoundError:  # another launcher was faster
            return False
        except OSError as error:
            self._waiting.remove(job)
            reason = f"its record is damaged and cannot be set aside: {error}"
            self._fail(job, reason, on_disk=errors.is_disk_error(error))
            return False
        self._view.say(f"{job.name}: its record is damaged and set aside as {name}; the run starts over")
        return True

    def _start(self, job: Job) -> bool:
        """Start the next job, or put it off; False if the engine has no room for it."""
        try:
            attempt = self._engine.start(job, lambda attempt, code: self._events.put(("ended", (attempt, code))))
        except Busy:
            self._waiting.remove(job)
            self._hold(job)
            return True
        except OSError as error:  # such as for want of memory, which may pass
            self._waiting.remove(job)
            if self._may_retry(self._crashes, job, self._limits.crashes):
                self._hold(job, f"{job.name} cannot be started ({error}): will be retried")
            else:
                self._fail(job, f"cannot be started: {error}")
            return True
        if attempt is None:
            return False
        self._waiting.remove(job)
        if attempt.crashes > self._crashes.get(job.name, 0):
            self._crashes[job.name] = attempt.crashes
        self.progress.queued[job.name] = attempt
        self._update_running()
        self._next_start = time.monotonic() + self._limits.coldsecs
        return True

    def _look(self) -> None:
        self._engine.look()
        self._update_running()

    def _update_running(self) -> None:
        """Move attempts between running and queued as the engine reports them."""
        running, queued = self.progress.running, self.progress.queued
        for name, attempt in [*queued.items()]:
            if attempt.is_running:
                running[name] = queued.pop(name)
                self._view.started(attempt)
        for name, attempt in [*running.items()]:
            if not attempt.is_running:
                queued[name] = running.pop(name)

    def _hold(self, job: Job, reason: str = "") -> None:
        """Put a job off for `waitsecs`; each reason is shown once."""
        if (job.name, reason) not in self._said_held:
            self._said_held.add((job.name, reason))
            self._view.say(reason or f"another process is running {job.name}: waiting for it")
        self._held.append((time.monotonic() + self._limits.waitsecs, job))

    def _resume_held(self) -> None:
        """Queue the jobs that were put off long enough, unless another process is still running them."""
        now = time.monotonic()
        held, self._held = self._held, []
        for moment, job in held:
            if moment > now:
                self._held.append((moment, job))
            elif not job.record.complete and job.record.is_held():
                self._hold(job)
            else:
                self._waiting.append(job)

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _handle_event(self) -> None:
        try:
            kind, content = self._events.get(timeout=self._patience())
        except queue.Empty:
            return
        if kind == "ended":
            self._read_end(*content)
        elif not self._engine.outlives_launcher:  # a signal: what was being started when it came is to stop as well
            self._engine.stop(self._ending)

    def _patience(self) -> float | None:
        """Seconds to wait for an event before looking around; None: until one comes."""
        now = time.monotonic()
        moments = [moment for moment, _ in self._held]
        if self._waiting and self._stopping is None:
            moments.append(self._next_start if self._next_start > now else now + self._limits.waitsecs)
        pauses = (self._engine.patience(), self._view.refresh)
        moments += [now + pause for pause in pauses if pause is not None]
        return max(0.0, min(moments) - now) if moments else None

    def _stop(self, number: int) -> None:
        """Let the runs save their state at the first signal, and kill them at the second."""
        again, self._stopping = self._stopping is not None, number
        self._ending = signal.SIGKILL if again else signal.SIGTERM
        if self._engine.outlives_launcher and number > 0:
            return
        self._engine.stop(self._ending)
        if not again and number > 0:
            self._view.say("stopping: the runs save their state; a second signal (Ctrl-C) kills them")

    # -- reading how a run ended -------------------------------------------------------------------------------------

    def _read_end(self, attempt: Attempt, code: int) -> None:
        """Take an attempt that is over out of the running ones, and close its job or queue it again."""
        job = attempt.job
        for attempts in (self.progress.running, self.progress.queued):
            attempts.pop(job.name, None)
        took = time.monotonic() - attempt.started
        self._engine.release(attempt)
        code, last = attempt.true_code(code), attempt.last_words(code)
        if job.record.complete and code != errors.BUSY:  # whatever it was asked or ended by after its result
            self.progress.finished.append((job, took))
            self._first_failures = []
            self._close(job, RunState.COMPLETE, "", attempt)
        elif code == errors.DIVERGED:
            self._close(job, RunState.DIVERGED, last, attempt)
        elif attempt.is_cancelled:
            self._close(job, RunState.STOPPED, last, attempt)
        elif self._stopping is not None:
            self._close(job, RunState.STOPPED, _explain_stop(attempt, code, last), attempt)
        elif attempt.is_preempted:  # which is not its fault, however often it happens
            self._waiting.append(job)
        elif code == errors.BUSY:
            self._hold(job)
        else:
            self._read_failure(attempt, code, last)

    def _read_failure(self, attempt: Attempt, code: int, last: str) -> None:
        """Queue a failed job again, unless it has failed too often or another attempt would change nothing."""
        job = attempt.job
        out_of_memory = code == errors.OUT_OF_MEMORY or (code == -signal.SIGKILL and not attempt.killed)
        is_refused = code == errors.NO_DEVICE
        has_reason = out_of_memory or is_refused or code in _FINAL or (attempt.timed_out and not attempt.killed)
        if out_of_memory and self._may_retry(self._memory_failures, job, self._limits.memory_failures):
            self._view.say(
                f"{job.name} ran out of memory on {attempt.label} and will be restarted beside fewer runs: {last}"
            )
            self._engine.fewer_neighbours(attempt)
            self._waiting.append(job)
        elif is_refused and self._may_retry(self._refusals, job, self._limits.refusals):
            self._view.say(f"{job.name} is put off: {last}")
            self._engine.refused(attempt)
            self._waiting.appendleft(job)
        elif not has_reason and self._may_retry(self._crashes, job, self._limits.crashes):
            self._view.say(f"{job.name} failed on {attempt.label} and is restarted: {last}")
            self._engine.crashed(attempt)
            self._waiting.appendleft(job)  # or every run of the plan would crash before one has failed for good
        else:
            self._fail(job, last, attempt, on_disk=code == errors.DISK)

    @staticmethod
    def _may_retry(counts: dict[str, int], job: Job, limit: int | None) -> bool:
        """Count a failure of a job; whether it may be started again. None is no limit."""
        counts[job.name] = counts.get(job.name, 0) + 1
        return limit is None or counts[job.name] < limit

    def _fail(self, job: Job, reason: str, attempt: Attempt | None = None, on_disk: bool = False) -> None:
        if on_disk:
            self.progress.failed_on_disk.add(job.name)
        self._close(job, RunState.FAILED, reason, attempt)
        if self.progress.finished:
            return
        same = reason.replace(job.name, "…")
        self._first_failures.append(same.replace(attempt.label, "…") if attempt else same)
        are_equal = len(set(self._first_failures)) == 1
        if self._stopping is None and are_equal and len(self._first_failures) >= self._limits.equal_failures:
            self._view.say(f"the first {len(self._first_failures)} runs all failed in the same way: {reason}")
            self._stop(0)

    def _add(self, jobs: Iterable[Job]) -> None:
        added = [job for job in jobs if job.name not in self._names]
        self._names |= {job.name for job in added}
        self._waiting += added
        self.progress.num_jobs += len(added)
        self._books.add(added)

    def _close(self, job: Job, outcome: RunState, reason: str, attempt: Attempt | None = None) -> None:
        self.progress.outcomes[job.name] = (outcome, reason)
        self._books.note(job, outcome, reason)
        if outcome is not RunState.STOPPED:
            self._add(self._follow(job))
        self._view.ended(job, outcome, reason, attempt, self.progress)


def _explain_stop(attempt: Attempt, code: int, last: str) -> str:
    """Why a run that was stopped ended, and whether its state is saved."""
    if attempt.killed:
        return "killed before it stopped by itself"
    if code not in errors.STOPPED:
        return last
    return "its state is saved" if attempt.job.record.started else "stopped before there was a state to save"


class Bookkeeper:
    """Keeps the ledger of a group. If it cannot be written, that is said once, and the runs go on.

    Args:
        common: options that all runs share.
        say: takes a line if nothing can be written.
        seeds: those of the table; runs on others are for a search alone.
        axes: the options that have several values.
    """

    def __init__(self, common: CommonOptions, say: Callable[[str], None], seeds: Collection[int], axes: Axes) -> None:
        self._common = common
        self._say = say
        self._seeds = seeds
        self._axes = axes
        self._ledger = Ledger(common.folder)
        self._has_said = False

    def plan(self, jobs: Iterable[Job]) -> None:
        """Write down a plan, which replaces the former one."""
        planned = self._planned(jobs)
        others = [each for each in launchers_of(self._common.folder) if not each.is_this]
        self._try(lambda: self._ledger.plan(planned, self._axes, is_shared=bool(others)))

    def add(self, jobs: Iterable[Job]) -> None:
        """Add runs that follow a search."""
        planned = self._planned(jobs)
        if planned:
            self._try(lambda: self._ledger.add(planned))

    def note(self, job: Job, outcome: RunState, reason: str) -> None:
        """Note how a run ended."""
        if outcome in _NOTED:
            self._try(lambda: self._ledger.note(job.name, outcome, reason))

    def _planned(self, jobs: Iterable[Job]) -> dict[str, Planned]:
        words = self._common.words
        return {
            job.name: Planned(
                job.config.values,
                ("python", "utils/main.py", *job.words, *words),
                for_search=job.config.seed not in self._seeds,
            )
            for job in jobs
        }

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (RunError, OSError) as error:
            if not self._has_said:
                self._has_said = True
                self._say(f"{error}; the runs continue, but the table may not say why one of them is missing")
