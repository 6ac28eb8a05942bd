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
        num_retuning_steps: steps in which copies of their norm layers are trained on, beside those; None as for them.
    """

    num_open: int
    num_steps: int | None
    is_exact: bool
    known: tuple[float, ...]
    rough: tuple[float, ...]
    num_retuning_steps: int | None = 0

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
        return [*self._work_lines(), self._time_line(num_places)]

    def _work_lines(self) -> list[str]:
        if self.num_steps is None:
            return []
        line = f"work: {count_in_words(self.num_steps, self.is_exact)}"
        if self.num_retuning_steps:
            line += f" and {_number(self.num_retuning_steps, self.is_exact)} steps of re-tuning norm layers"
        return [line]

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
    known, rough = [], []
    for job in jobs:
        seconds = estimates.seconds(job)
        if seconds is not None:
            known.append(seconds)
        elif (guess := estimates.rough_seconds(job)) is not None:
            rough.append(guess)
    return Cost(
        num_open,
        _total([estimates.steps.of(job) for job in jobs], num_open),
        is_exact=not num_following and all(map(estimates.steps.are_exact, jobs)),
        known=tuple(known),
        rough=tuple(rough),
        num_retuning_steps=_total([estimates.steps.of_retuning(job) for job in jobs], num_open),
    )


def _total(numbers: Sequence[int | None], num_runs: int) -> int | None:
    """Of so many runs, of which some are told; None if one of these cannot be."""
    if not num_runs:
        return 0
    known = [number for number in numbers if number is not None]
    return None if not known or len(known) < len(numbers) else round(sum(known) * num_runs / len(known))


def count_in_words(num_steps: int, is_exact: bool) -> str:
    """`17,400 training steps`; what is not exact, or too long to be read, is rounded to three digits."""
    return f"{_number(num_steps, is_exact)} training step{'s' if num_steps != 1 or not is_exact else ''}"


def _number(num_steps: int, is_exact: bool) -> str:
    if num_steps < 1_000_000 and is_exact:
        return f"{num_steps:,}"
    rounded = int(float(f"{num_steps:.2e}"))
    return "about " + (f"{rounded / 1e6:g} million" if rounded >= 1_000_000 else f"{rounded:,}")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
