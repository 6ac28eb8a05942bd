"""What follows a search: when all runs of its settings are over, the best setting is run on all data and seeds.

Everything is read from the disk, so that a launcher that starts anew, or beside another one, comes to the same choice.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

from utils.launch.plan import Job, Search
from utils.records.collect import read_run
from utils.records.selection import best_setting


def best_of(search: Search) -> int | None:
    """The index of the setting that stands for a cell by the runs that are complete now, None if none is.

    Of equal settings the first one.
    """
    runs = {index: [read_run(job.record.folder) for job in jobs] for index, jobs in enumerate(search.stage)}
    return best_setting(runs)


def decided(searches: Sequence[Search]) -> dict[Search, int]:
    """The chosen setting of each search that the disk tells to be over: all its runs are complete or diverged."""
    over = [search for search in searches if all(job.state().is_answer for jobs in search.stage for job in jobs)]
    best = {search: best_of(search) for search in over}
    return {search: index for search, index in best.items() if index is not None}


class Following:
    """Tells which runs follow when a run is over.

    Args:
        searches: of the plan.
        say: is told what each search has chosen.
    """

    def __init__(self, searches: Sequence[Search], say: Callable[[str], None]) -> None:
        self._say = say
        self._left = {search: {job.name for jobs in search.stage for job in jobs} for search in searches}
        self._searches: dict[str, list[Search]] = defaultdict(list)
        for search, names in self._left.items():
            for name in names:
                self._searches[name].append(search)

    def after(self, job: Job) -> tuple[Job, ...]:
        """The runs that follow when a run is over, complete or not; some may be in the plan already."""
        following: list[Job] = []
        for search in self._searches.pop(job.name, ()):
            self._left[search].discard(job.name)
            if not self._left[search]:
                following += self._choose(search)
        return tuple(following)

    def num_expected(self, known: Collection[Search] = ()) -> int:
        """Runs that will follow the searches that are under way, those left out whose following runs are known."""
        return sum(search.num_following for search, left in self._left.items() if left and search not in known)

    def _choose(self, search: Search) -> tuple[Job, ...]:
        best = best_of(search)
        if best is None:
            self._say(f"{search.title}: none of {len(search.settings)} settings has a complete run: none follows")
            return ()
        self._say(f"{search.title}: the best of {len(search.settings)} settings is {search.settings[best]}")
        return search.finals(best)
