"""How long a plan under way still takes."""

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from utils.launch.engine import Child
from utils.launch.estimates import Estimates
from utils.launch.plan import Job
from utils.launch.scheduler import PlanProgress


@dataclass(frozen=True)
class Sources:
    """What tells how long runs take; each gives None where it knows nothing.

    Attributes:
        recorded: seconds of a job by the records of equal runs.
        rough: seconds of a job by the records of other runs.
        num_steps: training steps of a job.
        steps_done: training steps that a child has told.
    """

    recorded: Callable[[Job], float | None] = lambda job: None
    rough: Callable[[Job], float | None] = lambda job: None
    num_steps: Callable[[Job], int | None] = lambda job: None
    steps_done: Callable[[Child], int | None] = lambda child: None


def sources_of(estimates: Estimates) -> Sources:
    """What records and running children tell."""

    def steps_done(child: Child) -> int | None:
        progress = child.job.record.read_progress()
        return None if progress is None else progress.step

    return Sources(estimates.seconds, estimates.rough_seconds, estimates.steps.of, steps_done)


class Remaining:
    """Plays the rest of a plan: each waiting run starts where a place comes free first.

    A run under way that has told of its steps goes on at its own speed. How long others take is told by the runs of
    their kind that this launcher has brought to their end, else by the records of equal runs, else by the speed of runs
    of their kind under way, else by the records of other runs, else by the mean of all that is known.

    Args:
        sources: what tells how long runs take.
        clock: seconds, monotonic.
    """

    def __init__(self, sources: Sources | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._sources = sources or Sources()
        self._clock = clock
        self._recorded: dict[str, tuple[float | None, float | None]] = {}
        self._by_kind: dict[str, float] = {}  # mean wall time
        self._num_by_kind: dict[str, int] = defaultdict(int)
        self._paces: dict[str, _Pace] = {}  # of the runs under way, by name
        self._told_by_kind: dict[str, tuple[float, int]] = {}  # seconds and steps of a whole run
        self._num_learned = 0
        self._num_places = 1

    def note(self, progress: PlanProgress) -> None:
        """To be called when nothing more can be started: each run goes on from the step that it has told by now, and
        while runs wait, as many go on at a time as do now."""
        self._num_places = max(1, len(progress.running))
        self._learn(progress)
        self._listen(progress)

    def seconds(self, progress: PlanProgress, num_following: int = 0) -> float | None:
        """Seconds until the last run ends; None as long as nothing is known.

        Args:
            progress: of the plan.
            num_following: runs that are not among its jobs yet.
        """
        self._learn(progress)
        self._listen(progress)
        children = list(progress.running.values())
        running = [self._left(child) for child in children]
        waiting = [self._whole(job) for job in progress.waiting] + [None] * num_following
        known = [seconds for _, seconds in running if seconds is not None]
        known += [seconds for seconds in waiting if seconds is not None]
        typical = self._typical(known)
        if typical is None:
            return None if running or waiting else 0.0
        now = self._clock()
        ends = [
            left if left is not None else max(0.0, (typical if whole is None else whole) - (now - child.started))
            for (left, whole), child in zip(running, children, strict=True)
        ]
        ends += [0.0] * (self._num_places - len(ends))
        return last_end(ends, [typical if seconds is None else seconds for seconds in waiting])

    def _learn(self, progress: PlanProgress) -> None:
        """Take note of the runs that ended since the last time, as if each had been run from its beginning."""
        for job, took in progress.finished[self._num_learned :]:
            pace, num_steps, kind = self._paces.get(job.name), self._sources.num_steps(job), _kind(job)
            if pace is not None and pace.seconds_per_step is not None:
                took += pace.first_step * pace.seconds_per_step
            self._num_by_kind[kind] += 1
            mean = self._by_kind.get(kind, 0.0)
            self._by_kind[kind] = mean + (took - mean) / self._num_by_kind[kind]
            if num_steps:
                self._told_by_kind[kind] = self._by_kind[kind], num_steps
        self._num_learned = len(progress.finished)

    def _listen(self, progress: PlanProgress) -> None:
        """Take note of how far the runs under way are."""
        now = self._clock()
        for name, child in progress.running.items():
            step = self._sources.steps_done(child) or 0
            pace = self._paces.get(name)
            if pace is None or pace.started != child.started or step < pace.last_step:
                self._paces[name] = _Pace(child.started, step, step, now)
            elif step > pace.last_step:
                self._paces[name] = pace.after(step, now)
        self._paces = {name: pace for name, pace in self._paces.items() if name in progress.running}

    def _left(self, child: Child) -> tuple[float | None, float | None]:
        """Seconds that a run under way still takes by its own speed, and seconds that a whole run of it takes."""
        pace, num_steps = self._paces[child.job.name], self._sources.num_steps(child.job)
        speed = pace.seconds_per_step
        if num_steps is None or speed is None:
            return None, self._whole(child.job)
        if _kind(child.job) not in self._by_kind:
            whole = pace.told - pace.started + (num_steps - pace.last_step + pace.first_step) * speed
            self._told_by_kind[_kind(child.job)] = whole, num_steps
        left = (num_steps - pace.last_step) * speed - (self._clock() - pace.told)
        return max(0.0, left), self._whole(child.job)

    def _whole(self, job: Job) -> float | None:
        """Seconds that a whole run takes, None if nothing tells it yet."""
        kind = _kind(job)
        if kind in self._by_kind:
            return self._by_kind[kind]
        if job.name not in self._recorded:
            self._recorded[job.name] = self._sources.recorded(job), self._sources.rough(job)
        recorded, rough = self._recorded[job.name]
        if recorded is not None:
            return recorded
        num_steps = self._sources.num_steps(job)
        if num_steps is None or not self._told_by_kind:
            return rough
        if kind in self._told_by_kind or rough is None:
            told = [self._told_by_kind[kind]] if kind in self._told_by_kind else self._told_by_kind.values()
            return num_steps * sum(seconds / steps for seconds, steps in told) / len(told)
        return rough

    def _typical(self, known: list[float]) -> float | None:
        """For the runs of which nothing is known."""
        times = list(self._by_kind.values()) or known
        return sum(times) / len(times) if times else None


def last_end(ends: Iterable[float], waiting: Iterable[float]) -> float:
    """When the last run ends, if each waiting one starts where a place comes free first.

    Args:
        ends: when each place comes free; at least one.
        waiting: what the runs take that wait, in their order.
    """
    places = list(ends)
    heapq.heapify(places)
    for seconds in waiting:
        heapq.heapreplace(places, places[0] + seconds)
    return max(places)


@dataclass(frozen=True)
class _Pace:
    """How fast a run under way is.

    Attributes:
        started: when its process was started.
        first_step: the step it began after.
        last_step: the last step it has told.
        told: when it did.
        since: the first step that it told here, and when: what came before was its start too; None before that.
    """

    started: float
    first_step: int
    last_step: int
    told: float
    since: tuple[int, float] | None = None

    def after(self, step: int, now: float) -> "_Pace":
        """The pace when a later step is told."""
        return replace(self, last_step=step, told=now, since=self.since or (step, now))

    @property
    def seconds_per_step(self) -> float | None:
        """Evaluations included, and the start too before a second step is told; None before the first one."""
        if self.since is None:
            return None
        step, moment = self.since
        if self.last_step > step:
            return (self.told - moment) / (self.last_step - step)
        return (self.told - self.started) / (self.last_step - self.first_step)


def _kind(job: Job) -> str:
    """What a run is but for its seed and hyperparameters, as its name tells."""
    return job.name.rpartition("-s")[0] or job.name
