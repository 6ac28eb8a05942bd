"""How long a plan under way still takes."""

import heapq
import time
from collections import defaultdict
from collections.abc import Callable

from utils.launch.plan import Job
from utils.launch.scheduler import Progress


class Remaining:
    """Plays the rest of a plan: each waiting run starts where a place comes free first.

    How long a run takes is told by the runs of its kind that this launcher has brought to their end, else by the
    records of equal runs, else by the mean of all runs of which either is known.

    Args:
        estimate: seconds of a run by the records of equal ones, None if unknown.
        clock: seconds, monotonic.
    """

    def __init__(
        self, estimate: Callable[[Job], float | None] = lambda job: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._estimate = estimate
        self._clock = clock
        self._recorded: dict[str, float | None] = {}
        self._by_kind: dict[str, float] = {}  # mean wall time
        self._num_by_kind: dict[str, int] = defaultdict(int)
        self._num_learned = 0
        self._num_places = 1

    def note_places(self, progress: Progress) -> None:
        """To be called when nothing more can be started: while runs wait, as many go on at a time as do now."""
        self._num_places = max(1, len(progress.running))

    def seconds(self, progress: Progress) -> float | None:
        """Seconds until the last run ends; None as long as nothing is known."""
        self._learn(progress)
        children = list(progress.running.values())
        running = [self._known(child.job) for child in children]
        waiting = [self._known(job) for job in progress.waiting]
        typical = self._typical([*running, *waiting])
        if typical is None:
            return None if running or waiting else 0.0
        now = self._clock()
        whole = [typical if seconds is None else seconds for seconds in running]
        ends = [max(0.0, seconds - (now - child.started)) for seconds, child in zip(whole, children, strict=True)]
        ends += [0.0] * (self._num_places - len(ends))
        heapq.heapify(ends)
        for seconds in waiting:
            heapq.heapreplace(ends, ends[0] + (typical if seconds is None else seconds))
        return max(ends)

    def _learn(self, progress: Progress) -> None:
        """Take note of the runs that ended since the last time."""
        for job, took in progress.finished[self._num_learned :]:
            kind = _kind(job)
            self._num_by_kind[kind] += 1
            mean = self._by_kind.get(kind, 0.0)
            self._by_kind[kind] = mean + (took - mean) / self._num_by_kind[kind]
        self._num_learned = len(progress.finished)

    def _known(self, job: Job) -> float | None:
        kind = _kind(job)
        if kind in self._by_kind:
            return self._by_kind[kind]
        if job.name not in self._recorded:
            self._recorded[job.name] = self._estimate(job)
        return self._recorded[job.name]

    def _typical(self, known: list[float | None]) -> float | None:
        """For the runs of which nothing is known."""
        times = list(self._by_kind.values()) or [seconds for seconds in known if seconds is not None]
        return sum(times) / len(times) if times else None


def _kind(job: Job) -> str:
    """What a run is but for its seed and hyperparameters, as its name tells."""
    return job.name.rpartition("-s")[0] or job.name
