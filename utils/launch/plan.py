"""From a grid to the list of runs: configurations resolved as a run would, equal computations merged."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.config.configuration import Configuration, configure, readable_name
from utils.config.registry import as_user_errors, load_plugin
from utils.config.variants import find_variant
from utils.errors import UserError
from utils.launch.cells import Asked, Cell, explain_unused, setting_text
from utils.launch.data import Data, DataFacts
from utils.launch.grid import Grid
from utils.records.collect import read_run
from utils.records.ledger import Axes
from utils.records.record import Record
from utils.records.selection import SEARCH_SHARE, VALIDATION
from utils.records.state import RunState

_GIVEN_OTHERWISE = {
    "seed": "give --seeds or --num_seeds",
    "model": "give --models",
    "dataset": "give --datasets",
    "nl": "give --methods",
    "debug_mode": "its runs are kept apart from every group; try one with utils/main.py",
    "device": "the launcher gives each run its device, inside CUDA_VISIBLE_DEVICES",
    "keep_model": "--keep_models keeps the trained weights of all runs, which are otherwise left out",
}
_OF_THE_TABLE = ("seeds", "datasets", "models", "methods", "backbone", "protocol", *_GIVEN_OTHERWISE)


@dataclass(frozen=True)
class Job:
    """One run of the plan.

    Attributes:
        words: its command line after `utils/main.py`, without where and how it runs.
        config: the resolved configuration.
        data: what is known of its data.
        identity: what the results depend on.
        record: its folder.
        axes: the plan's, of which it has one value each.
    """

    words: tuple[str, ...]
    config: Configuration
    data: Data
    identity: str
    record: Record
    axes: Axes

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.record.folder.name

    @property
    def has_data(self) -> bool:
        """Whether its data were found, without which nobody knows its identity and its record."""
        return bool(self.data.fingerprint)

    def state(self) -> RunState:
        """How it stands, as the disk has it now."""
        return read_run(self.record.folder).state


@dataclass(frozen=True, eq=False)
class Search:
    """A cell of the table in which several settings are tried: everything but the seed and the searched options is one.

    Attributes:
        title: of the cell.
        settings: the searched options of each setting, in words.
        stage: of each setting, its runs that it is judged on, one per search seed.
        finals: makes the runs that stand in the table of a setting, given by its index, one per seed.
        num_following: how many of these are no run of the stage.
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


@dataclass(frozen=True)
class Where:
    """Where and how all runs of a plan are done.

    Attributes:
        results_dir, group, data_root: places.
        threads: of each run; None leaves it to the run.
        keeps_models: whether complete runs keep their trained weights.
    """

    results_dir: Path
    group: str
    data_root: Path
    threads: int | None = None
    keeps_models: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """The same on a run's command line."""
        places = ("--results_dir", str(self.results_dir), "--data_root", str(self.data_root))
        threads = () if self.threads is None else ("--threads", str(self.threads))
        return ("--group", self.group, *places, *threads, *(() if self.keeps_models else ("--keep_model", "0")))


class _Planner:
    """Turns cells into jobs and searches; the same computation is the same job."""

    def __init__(self, grid: Grid, where: Where, axes: Axes) -> None:
        self._where = where
        self._axes = axes
        self.data = DataFacts(where.data_root)
        self._jobs: dict[str, Job] = {}
        self._seeds = tuple(dict.fromkeys(grid.seeds))
        self._search_seeds = self._seeds if grid.search_seeds is None else tuple(dict.fromkeys(grid.search_seeds))
        self._held_out = ("--validation", str(SEARCH_SHARE)) if grid.selection == VALIDATION else ()
        self.num_asked = 0

    def add(self, cell: Cell, times: int) -> dict[int, list[Job]] | Search:
        """The runs of a cell by seed, or the search if it has several settings.

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
        return {seed: [self._job(cell.words(cell.settings[0], seed))] for seed in self._seeds}

    def _search(self, cell: Cell, settings: tuple[tuple[str, ...], ...], stage: tuple[tuple[Job, ...], ...]) -> Search:
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

    def _compared_words(self, cell: Cell) -> list[str]:
        """What its runs' names do not tell of the compared axes."""
        pairs = itertools.pairwise((*cell.axes, *cell.further))
        named = {f"--{name}" for name in self._axes.compared} - {"--buffer_size", "--epochs"}
        return [setting_text(pair) for pair in pairs if pair[0] in named]

    def _job(self, words: tuple[str, ...]) -> Job:
        where = self._where
        config = configure([*words, "--group", where.group, "--results_dir", str(where.results_dir)])
        data = self.data.of(config)
        identity = config.identity(data.fingerprint)
        if identity not in self._jobs:
            record = Record.of_run(where.results_dir, where.group, readable_name(config), identity)
            self._jobs[identity] = Job(words, config, data, identity, record, self._axes)
        return self._jobs[identity]


@as_user_errors()
def make_plan(
    grid: Grid, extras: Mapping[str, Sequence[str]], where: Where, launcher_options: Iterable[str] = ()
) -> Plan:
    """Resolve every run of a grid.

    Args:
        grid: what to run.
        extras: further typed options of runs, by name; each run takes those that its parts use.
        where: the places that all runs share.
        launcher_options: the launcher's own, which a misspelled option may have meant.

    Raises:
        UserError: an unknown name, an option that no run uses, a run that cannot be.
    """
    _check(grid, extras)
    for path in extras.get("plugin", ()):
        load_plugin(path)
    asked = Asked(grid, extras)
    cells = Counter(asked.cells())
    for name in (*extras, *(name for name in grid.axes if name in grid.typed)):
        if name not in asked.used:
            raise UserError(explain_unused(name, launcher_options))
    _check_searched(grid, asked)
    axes = Axes(tuple(asked.searched), tuple(asked.compared))
    planner = _Planner(grid, where, axes)
    added = [planner.add(cell, times) for cell, times in cells.items()]
    by_seed = [_by_seed(each) if isinstance(each, Search) else each for each in added]
    seeds = dict.fromkeys(seed for each in by_seed for seed in each)
    jobs = {job.identity: job for seed in seeds for each in by_seed for job in each.get(seed, ())}
    searches = tuple(each for each in added if isinstance(each, Search))
    _check_search(grid, searches)
    table_seeds = tuple(dict.fromkeys(grid.seeds))
    mistakes = tuple(planner.data.mistakes)
    return Plan(tuple(jobs.values()), planner.num_asked, grid.selection, searches, table_seeds, axes, mistakes)


def _by_seed(search: Search) -> dict[int, list[Job]]:
    seeds: dict[int, list[Job]] = {}
    for jobs in search.stage:
        for job in jobs:
            seeds.setdefault(job.config.seed, []).append(job)
    return seeds


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
            "itself, and the best is then run on all data"
        )


def _check_searched(grid: Grid, asked: Asked) -> None:
    """Raises UserError if something is to be searched that is no axis, or one of a single value."""
    for name in grid.searched if "searched" in grid.typed else ():
        if name in _OF_THE_TABLE:
            raise UserError(f"--search {name}: it is a row, a column or a repetition of the table, and never searched")
        if name not in asked.wanted:
            axes = ", ".join((*asked.searched, *asked.compared)) or "none; give an option several values"
            raise UserError(f"--search {name}: it is no axis of this plan, whose axes are: {axes}")
        if asked.wanted[name] not in asked.searched:
            raise UserError(f"--search {name}: it has one value, so that there is nothing to choose: give several")


def _check_search(grid: Grid, searches: Sequence[Search]) -> None:
    """Raises UserError if a search is asked for and there is none."""
    asked = {"--selection validation": grid.selection == VALIDATION, "--search_seeds": grid.search_seeds is not None}
    for words, is_asked in asked.items():
        if is_asked and not searches:
            raise UserError(f"{words} changes nothing: no norm layer of this plan has several settings to choose from")
