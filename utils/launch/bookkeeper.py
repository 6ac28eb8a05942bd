"""Writes down for report and `status` what is planned and how runs end that have no result."""

from collections.abc import Callable, Collection, Iterable

from utils.errors import RunError
from utils.launch.plan import Job, Where
from utils.launch.presence import launchers_of
from utils.records.ledger import Axes, Ledger, Planned
from utils.records.state import RunState

_NOTED = (RunState.FAILED, RunState.STOPPED)  # of the others the record tells


class Bookkeeper:
    """Keeps the ledger of a group; that it cannot is said once and stops no run.

    Args:
        where: the places that all runs share.
        say: is told if nothing can be written.
        seeds: those of the table; runs on others are for a search alone.
        axes: the options that have several values.
    """

    def __init__(self, where: Where, say: Callable[[str], None], seeds: Collection[int], axes: Axes) -> None:
        self._where = where
        self._say = say
        self._seeds = seeds
        self._axes = axes
        self._folder = where.results_dir / where.group
        self._ledger = Ledger(self._folder)
        self._has_told = False

    def plan(self, jobs: Iterable[Job]) -> None:
        """Write down a plan in the place of the former one."""
        planned = self._planned(jobs)
        others = [each for each in launchers_of(self._folder) if not each.is_this]
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
        return {job.name: self._planned_job(job) for job in jobs}

    def _planned_job(self, job: Job) -> Planned:
        command = ("python", "utils/main.py", *job.words, *self._where.words)
        return Planned(job.config.values, command, for_search=job.config.seed not in self._seeds)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (RunError, OSError) as error:
            if not self._has_told:
                self._has_told = True
                self._say(f"{error}; the runs go on, but the table may not say why one of them is missing")
