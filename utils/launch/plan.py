"""From a grid to the list of runs: resolved as a run would be, equal computations merged; and what follows a search.

Whether a search is over is read from the disk, so that a launcher that starts again, or beside another one, makes
the same choice.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from utils.config.registry import as_user_errors, load_plugins
from utils.config.variants import find_variant
from utils.errors import InactiveOption, UserError
from utils.launch.grid import Expansion, Grid, GridCell, explain_unused, setting_text
from utils.launch.job import CommonOptions, DataFacts, Job, make_job
from utils.launch.networks import check_layers
from utils.launch.steps import check_evaluations
from utils.records.collect import read_run
from utils.records.ledger import Axes
from utils.records.selection import SEARCH_SHARE, VALIDATION, best_setting

_GIVEN_OTHERWISE = {
    "seed": "give --seeds or --num_seeds",
    "model": "give --models",
    "dataset": "give --datasets",
    "nl": "give --methods",
    "debug_mode": "debug runs belong to no group; use utils/main.py",
    "device": "the launcher gives each run its device, inside CUDA_VISIBLE_DEVICES",
    "keep_model": "give --keep_models to keep the trained weights of all runs",
}
_OF_THE_TABLE = ("seeds", "datasets", "models", "methods", "backbone", "stream", "protocol", *_GIVEN_OTHERWISE)


@dataclass(frozen=True, eq=False)
class Search:
    """A cell of the table in which several settings are tried; its runs differ in the seed and searched options alone.

    Attributes:
        title: of the cell.
        settings: the searched options of each setting, in words.
        stage: for each setting, the runs that it is judged on, one per search seed.
        finals: makes the runs of a setting, given by its index, for the table: one per seed.
        num_following: how many of those are not among the runs of the stage.
    """

    title: str
    settings: tuple[str, ...]
    stage: tuple[tuple[Job, ...], ...]
    finals: Callable[[int], tuple[Job, ...]]
    num_following: int

    @property
    def budget(self) -> int:
        """Runs that the settings are judged on."""
        return sum(map(len, self.stage))

    @property
    def jobs(self) -> tuple[Job, ...]:
        """These runs, setting by setting."""
        return tuple(itertools.chain(*self.stage))

    def is_same(self, other: "Search") -> bool:
        """Whether another search has the same runs, those that follow it included."""
        return self.jobs == other.jobs and self.finals(0) == other.finals(0)

    def best(self) -> int | None:
        """The index of the best setting by the runs that are complete now, the first of equal ones; None if none is."""
        return best_setting(
            {index: [read_run(job.record.folder) for job in jobs] for index, jobs in enumerate(self.stage)}
        )


@dataclass(frozen=True)
class Plan:
    """All runs of a grid.

    Attributes:
        jobs: one per computation, in the order in which they are started: seed by seed. What follows a search is not
            among them.
        num_asked: runs of the product, before equal ones were merged.
        selection: what settings are judged on, `oracle` or `validation`.
        searches: the cells with several settings.
        seeds: those of the table.
        axes: the options that have several values.
        missing_data: what is wrong with the data of some runs, whose identity is not known without them.
    """

    jobs: tuple[Job, ...]
    num_asked: int
    selection: str
    searches: tuple[Search, ...]
    seeds: tuple[int, ...]
    axes: Axes
    missing_data: tuple[str, ...] = ()

    @property
    def num_merged(self) -> int:
        """Runs that are the same computation as another one."""
        return self.num_asked - len(self.jobs)


class _Planner:
    """Turns cells into jobs and searches; the same computation is the same job."""

    def __init__(self, grid: Grid, common: CommonOptions, axes: Axes) -> None:
        self._common = common
        self._axes = axes
        self.data = DataFacts(common.data_root)
        self._jobs: dict[str, Job] = {}
        self._taken: set[str] = set()  # words of the jobs
        self._left_out: dict[str, InactiveOption] = {}
        self._seeds = tuple(dict.fromkeys(grid.seeds))
        self._search_seeds = self._seeds if grid.search_seeds is None else tuple(dict.fromkeys(grid.search_seeds))
        self._held_out = ("--validation", str(SEARCH_SHARE)) if grid.selection == VALIDATION else ()
        self.num_asked = 0

    def add(self, cell: GridCell, times: int) -> tuple[Job, ...] | Search:
        """The runs of a cell, one per seed, or the search if it has several settings.

        Args:
            cell: whose runs are wanted.
            times: how often it was asked for.
        """
        stage: dict[str, tuple[tuple[str, ...], tuple[Job, ...]]] = {}
        if len(cell.settings) > 1:
            for setting in cell.settings:
                jobs = tuple(self._job(cell.words(setting, seed, self._held_out)) for seed in self._search_seeds)
                stage.setdefault(jobs[0].identity, (setting, jobs))
        if len(stage) > 1:
            self.num_asked += times * len(cell.settings) * len(self._search_seeds)
            return self._search(cell, *zip(*stage.values(), strict=True))
        self.num_asked += times * len(cell.settings) * len(self._seeds)
        return tuple(self._job(cell.words(cell.settings[0], seed)) for seed in self._seeds)

    def _search(
        self, cell: GridCell, settings: tuple[tuple[str, ...], ...], stage: tuple[tuple[Job, ...], ...]
    ) -> Search:
        def finals(index: int) -> tuple[Job, ...]:
            return tuple(self._job(cell.words(settings[index], seed)) for seed in self._seeds)

        is_part = set() if self._held_out else set(self._search_seeds)
        return Search(
            title=" ".join([stage[0][0].name.rpartition("-s")[0], *self._compared_words(cell)]),
            settings=tuple(setting_text(setting) for setting in settings),
            stage=stage,
            finals=finals,
            num_following=len(set(self._seeds) - is_part),
        )

    def _compared_words(self, cell: GridCell) -> list[str]:
        """The values of the compared axes that its runs' names lack."""
        pairs = itertools.pairwise((*cell.axes, *cell.fixed))
        named = {f"--{name}" for name in self._axes.compared} - {"--buffer_size", "--epochs"}
        return [setting_text(pair) for pair in pairs if pair[0] in named]

    def check_options(self) -> None:
        """Raises InactiveOption for one that none of the runs uses."""
        for name, error in self._left_out.items():
            if f"--{name}" not in self._taken:
                raise error

    def _job(self, words: tuple[str, ...]) -> Job:
        """The run of these words, without the options that change nothing in it beside the others."""
        try:
            job = make_job(words, self._common, self.data.of, self._axes)
        except InactiveOption as error:
            fewer = _without(words, f"--{error.name}")
            if fewer == words:
                raise
            self._left_out.setdefault(error.name, error)
            return self._job(fewer)
        self._taken.update(words)
        return self._jobs.setdefault(job.identity, job)


def _without(words: Iterable[str], option: str) -> tuple[str, ...]:
    """The words but for an option and its values."""
    kept, is_kept = [], True
    for word in words:
        is_kept = word != option if word.startswith("--") else is_kept
        kept += [word] if is_kept else []
    return tuple(kept)


@as_user_errors()
def make_plan(
    grid: Grid, extras: Mapping[str, Sequence[str]], common: CommonOptions, launcher_options: Iterable[str] = ()
) -> Plan:
    """Resolve every run of a grid.

    Args:
        grid: what to run.
        extras: further typed options of runs, by name; each run takes those that its parts use.
        common: options that all runs share.
        launcher_options: the launcher's own, which a misspelled option may have meant.

    Raises:
        UserError: an unknown name, an option that no run uses, a run that cannot be.
    """
    _check(grid, extras)
    load_plugins(extras.get("plugin"))
    expansion = Expansion(grid, extras)
    cells = Counter(expansion.cells())
    for name in (*extras, *(name for name in grid.axes if name in grid.typed)):
        if name not in expansion.used:
            raise UserError(explain_unused(name, launcher_options))
    _check_searched(grid, expansion)
    axes = Axes(tuple(expansion.searched), tuple(expansion.compared))
    planner = _Planner(grid, common, axes)
    added = [planner.add(cell, times) for cell, times in cells.items()]
    planner.check_options()
    searches = _distinct(each for each in added if isinstance(each, Search))
    _check_search(grid, searches)
    runs = [job for each in added for job in (each.jobs if isinstance(each, Search) else each)]
    seeds = list(dict.fromkeys(job.config.seed for job in runs))
    _check_budgets(runs)
    check_layers(runs)
    check_evaluations(runs)
    jobs = {job.identity: job for job in sorted(runs, key=lambda job: seeds.index(job.config.seed))}
    return Plan(
        tuple(jobs.values()),
        planner.num_asked,
        grid.selection,
        searches,
        tuple(dict.fromkeys(grid.seeds)),
        axes,
        tuple(planner.data.mistakes),
    )


def _distinct(searches: Iterable[Search]) -> tuple[Search, ...]:
    """The searches but for those of the same runs as an earlier one, as of ER-ACE with `ada_t0` 0 and 1."""
    kept: list[Search] = []
    for search in searches:
        if not any(search.is_same(other) for other in kept):
            kept.append(search)
    return tuple(kept)


def _check(grid: Grid, extras: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError if a typed option is one that the launcher itself or a variant decides."""
    for name, advice in _GIVEN_OTHERWISE.items():
        if name in extras:
            raise UserError(f"--{name} is no option of run.py: {advice}")
    for method in grid.methods:
        variant = find_variant(method)
        for name in extras.keys() & variant.words.keys():
            raise UserError(f"--{name} and {method}, which is {variant}, cannot be given together: leave out one")
    if grid.selection == VALIDATION and "validation" in extras:
        raise UserError(
            f"--validation and --selection validation cannot be given together: the search holds out {SEARCH_SHARE} "
            "itself, and the best setting is then run on all data"
        )


def _check_budgets(runs: Sequence[Job]) -> None:
    """Raises UserError if runs with a budget would end after different numbers of rows."""
    sizes = sorted({job.config.batch_size for job in runs if job.config.budget_steps})
    if len(sizes) > 1:
        raise UserError(
            f"--budget_steps counts in batches, but runs have --batch_size {sizes[0]} and {sizes[-1]}, so that they "
            "would not end after equally many rows: give one --batch_size"
        )


def _check_searched(grid: Grid, expansion: Expansion) -> None:
    """Raises UserError if something is to be searched that is no axis, or one of a single value."""
    for name in grid.searched if "searched" in grid.typed else ():
        if name in _OF_THE_TABLE:
            raise UserError(
                f"--search {name}: it is a row, a column or a repetition of the table, which are not searched"
            )
        if name not in expansion.searchable:
            axes = ", ".join((*expansion.searched, *expansion.compared)) or "none; give an option several values"
            raise UserError(f"--search {name}: it is no axis of this plan, whose axes are: {axes}")
        if expansion.searchable[name] not in expansion.searched:
            raise UserError(f"--search {name}: it has one value, so there is nothing to choose: give several")


def _check_search(grid: Grid, searches: Sequence[Search]) -> None:
    """Raises UserError if a search is asked for and there is none."""
    asked = {"--selection validation": grid.selection == VALIDATION, "--search_seeds": grid.search_seeds is not None}
    for words, is_asked in asked.items():
        if is_asked and not searches:
            raise UserError(f"{words} changes nothing: no norm layer of this plan has several settings to choose from")


def decided(searches: Iterable[Search]) -> dict[Search, int]:
    """The index of the chosen setting of each search that is over: all its runs are complete or diverged."""
    best = {search: search.best() for search in searches if all(job.state().is_answer for job in search.jobs)}
    return {search: index for search, index in best.items() if index is not None}


class FollowUps:
    """Finds the runs that follow when a run is over: the best setting of a search, on all data and seeds.

    Args:
        searches: of the plan.
        say: takes a line on what each search has chosen.
    """

    def __init__(self, searches: Sequence[Search], say: Callable[[str], None]) -> None:
        self._say = say
        self._open = {search: {job.name for job in search.jobs} for search in searches}
        self._searches: dict[str, list[Search]] = defaultdict(list)
        for search, names in self._open.items():
            for name in names:
                self._searches[name].append(search)

    def after(self, job: Job) -> tuple[Job, ...]:
        """The runs that follow when a run is over, complete or not; some may be in the plan already."""
        following: list[Job] = []
        for search in self._searches.pop(job.name, ()):
            self._open[search].discard(job.name)
            if not self._open[search]:
                following += self._choose(search)
        return tuple(following)

    def num_expected(self, known: Collection[Search] = ()) -> int:
        """Runs that will follow the searches that are under way, without those searches whose choice is known."""
        return sum(search.num_following for search, names in self._open.items() if names and search not in known)

    def _choose(self, search: Search) -> tuple[Job, ...]:
        best = search.best()
        if best is None:
            self._say(f"{search.title}: none of {len(search.settings)} settings has a complete run: none follows")
            return ()
        self._say(f"{search.title}: the best of {len(search.settings)} settings is {search.settings[best]}")
        return search.finals(best)
