"""What the open runs of a plan will take: training steps, which are certain, and time, as far as records tell."""

from collections.abc import Sequence
from dataclasses import dataclass

from utils.launch.estimates import Estimates
from utils.launch.plan import Job


@dataclass(frozen=True)
class Cost:
    """Of the runs that are still to be done.

    Attributes:
        num_open: how many there are, with those that will follow a search.
        num_steps: training steps of all of them; None if those of one cannot be told before it runs.
        is_exact: whether these are exact.
        known: seconds of each run of which complete runs that are equal to it tell.
        rough: seconds of each further one of which the speed of other runs tells.
    """

    num_open: int
    num_steps: int | None
    is_exact: bool
    known: tuple[float, ...]
    rough: tuple[float, ...]

    @property
    def is_rough(self) -> bool:
        """Whether the time of some run is told by the speed of other runs."""
        return bool(self.rough)

    def seconds(self, num_places: int) -> float | None:
        """Seconds until all is over with so many runs at a time, None if nothing is known.

        A run of which nothing is known counts as the mean of the others.
        """
        told = (*self.known, *self.rough)
        if not self.num_open:
            return 0.0
        return max(sum(told) * self.num_open / len(told) / num_places, *told) if told else None

    def lines(self, num_places: int) -> list[str]:
        """The same for people."""
        if not self.num_open:
            return []
        steps = [] if self.num_steps is None else [f"work: {count_in_words(self.num_steps, self.is_exact)}"]
        return [*steps, self._time_line(num_places)]

    def _time_line(self, num_places: int) -> str:
        seconds = self.seconds(num_places)
        if seconds is None:
            return "time: no run like these is complete yet; it is estimated once the first ones are under way"
        if self.known:
            share = f"{len(self.known)} of these {self.num_open}" if len(self.known) < self.num_open else "these"
            reasons = [f"from complete runs like {share}"]
        else:
            reasons = []
        if self.rough:
            reasons.append("rough: from the speed of other runs on this machine")
        return f"estimated {_duration(seconds)} on {num_places} at a time, {'; '.join(reasons)}"


def cost_of(jobs: Sequence[Job], num_following: int, estimates: Estimates) -> Cost:
    """What open jobs will take.

    Args:
        jobs: all of them that are known.
        num_following: runs that will follow them, each of which counts as the mean of the others.
        estimates: of what each takes.
    """
    num_open = len(jobs) + num_following
    steps = [number for number in map(estimates.steps.of, jobs) if number is not None]
    is_told = bool(jobs) and len(steps) == len(jobs)
    known, rough = [], []
    for job in jobs:
        seconds = estimates.seconds(job)
        if seconds is not None:
            known.append(seconds)
        elif (guess := estimates.rough_seconds(job)) is not None:
            rough.append(guess)
    return Cost(
        num_open,
        round(sum(steps) * num_open / len(jobs)) if is_told else None if num_open else 0,
        is_exact=not num_following and all(map(estimates.steps.are_exact, jobs)),
        known=tuple(known),
        rough=tuple(rough),
    )


def count_in_words(num_steps: int, is_exact: bool) -> str:
    """`17,400 training steps`; what is not exact, or too long to be read, is rounded to three digits."""
    if num_steps < 1_000_000 and is_exact:
        return f"{num_steps:,} training step{'s' if num_steps != 1 else ''}"
    rounded = int(float(f"{num_steps:.2e}"))
    number = f"{rounded / 1e6:g} million" if rounded >= 1_000_000 else f"{rounded:,}"
    return f"about {number} training steps"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
