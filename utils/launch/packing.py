"""How many runs should share a GPU, learned from the runs: one more is added only while it raises the throughput."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from utils.records.progress import Progress

AT_ONCE = 2  # runs that share a GPU before anything is known: one trains while the other starts or is evaluated
WORTHWHILE = 1.05  # how much more must be done per hour for one more run
EVIDENCE = 15.0  # seconds of training that are needed to judge a number of runs


@dataclass
class _Pace:
    """What runs of one kind took while so many shared a GPU.

    Attributes:
        seconds, steps: of training, evaluations included.
        starts: seconds from the command to the first step of the last one that started.
        total_steps: of a whole run.
    """

    seconds: float = 0.0
    steps: int = 0
    starts: float = 0.0
    total_steps: int = 0

    @property
    def whole(self) -> float | None:
        """Seconds of a whole run; None if too little is known."""
        if self.seconds < EVIDENCE or not self.steps or not self.total_steps:
            return None
        return self.starts + self.total_steps * self.seconds / self.steps


class Packing:
    """Listens to the runs on GPUs of one model.

    Args:
        limit: runs that may share a GPU, whatever is gained.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._paces: defaultdict[int, defaultdict[str, _Pace]] = defaultdict(lambda: defaultdict(_Pace))
        self._last: dict[tuple[str, str], Progress] = {}
        self._unsure: dict[tuple[str, str], tuple[float, int]] = {}  # seconds and steps in which a run may have begun

    def listen(self, gpu: str, num_runs: int, run: tuple[str, str], progress: Progress, start: float) -> None:
        """Take note of how far a run is.

        Args:
            gpu: its id.
            num_runs: that train there now, and have since `changed` was called.
            run: its name, and the kind of run it is, such as its name without the seed.
            progress: that it has reported.
            start: seconds from its command to its first step.
        """
        name, kind = run
        last = self._last.get((gpu, name))
        self._last[gpu, name] = progress
        if last is None or last.pid != progress.pid:
            return
        pace = self._paces[num_runs][kind]
        pace.starts, pace.total_steps = start, progress.total_steps or 0
        seconds, steps = self._unsure.pop((gpu, name), (0.0, 0))  # no other run has told of itself since
        pace.seconds += seconds
        pace.steps += steps
        self._unsure[gpu, name] = max(0.0, progress.updated - last.updated), max(0, progress.step - last.step)

    def changed(self, gpu: str) -> None:
        """Another number of runs trains on a GPU from now on."""
        for known in (self._last, self._unsure):
            for key in [key for key in known if key[0] == gpu]:
                del known[key]

    @property
    def most(self) -> int:
        """Runs that a GPU should take at present: so many as are known to be worthwhile, and one to learn more."""
        number = min(AT_ONCE, self._limit)
        for following in range(number + 1, self._limit + 1):
            if not any(pace.whole for pace in self._paces[number].values()):
                break
            gains = list(self._gains(following))
            if gains and sum(gains) / len(gains) < WORTHWHILE:
                break
            number = following
            if not gains:
                break
        return number

    def _gains(self, number: int) -> Iterator[float]:
        """How much more is done per hour by so many runs than by one less, for every kind of which both are known."""
        fewer, more = self._paces[number - 1], self._paces[number]
        for kind in fewer.keys() & more.keys():
            whole_of_fewer, whole_of_more = fewer[kind].whole, more[kind].whole
            if whole_of_fewer and whole_of_more:
                yield number / whole_of_more * whole_of_fewer / (number - 1)
