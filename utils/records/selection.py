"""From records to the rows and columns of a table: which setting represents a norm layer, and on which seeds."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from utils.config.command_line import typed_text
from utils.config.options import DEFAULT_STREAM, SHARED_OPTIONS, role_of
from utils.config.variants import row_of
from utils.records.collect import Run
from utils.records.ledger import Axes
from utils.records.state import RunState

ORACLE, VALIDATION = "oracle", "validation"
SEARCH_SHARE = 0.1  # of the training images of each class, held out to compare settings in a search by validation

_OPEN = (RunState.STARTED, RunState.NOT_RUN, RunState.STOPPED, RunState.FAILED)
_WITHOUT_ANSWER = (RunState.DIVERGED, RunState.DAMAGED, RunState.UNREADABLE, RunState.OTHER_VERSION)
_STRUCTURE = ("dataset", "model", "nl", "seed", "validation")  # columns, rows, repetitions, and the test data

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Cell:
    """One norm layer in one column.

    Attributes:
        runs: the complete runs of the selected setting, by seed.
        num_settings: settings that were tried, including diverged ones.
        setting: values of the searched options in the selected setting; empty where no run is complete to select it by.
        num_values: how many values of each searched option were tried.
        forward: `--forward` of the runs, None for a method without memory.
        protocol: of the runs, complete or not.
        reason: why there is no figure, or fewer seeds than in other cells; empty if nothing is missing.
        selection: the data that the setting was selected on, `oracle` (the test data) or `validation` (a held-out part
            of the training data); empty if there was only one setting.
    """

    runs: dict[int, Run]
    num_settings: int
    setting: dict[str, Any] = field(default_factory=dict)
    num_values: dict[str, int] = field(default_factory=dict)
    forward: str | None = None
    protocol: str | None = None
    reason: str = ""
    selection: str = ""

    @property
    def is_split(self) -> bool:
        """Whether its runs have a stream that splits the classes into tasks."""
        return all(run.values.get("stream", DEFAULT_STREAM) == DEFAULT_STREAM for run in self.runs.values())

    def values(self, scenario: str, metric: str) -> dict[int, float]:
        """The metric by seed, where it was measured."""
        found = {seed: run.metrics[scenario].get(metric) for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}


class Column(NamedTuple):
    """What the runs of one column of a table share.

    Attributes:
        dataset, model, buffer_size, epochs: values of these options; None for an option that is searched or missing.
        compared: further options in which runs of one row differ, with their values here.
        validation: fraction of the training data that is held out and tested on.
    """

    dataset: str | None
    model: str | None
    buffer_size: int | None
    epochs: int | None
    compared: tuple[tuple[str, Any], ...] = ()
    validation: float | None = 0.0

    @property
    def shown(self) -> tuple[Any, ...]:
        """All fields, the compared options in words."""
        return tuple({**self._asdict(), "compared": self.compared_text}.values())

    @property
    def compared_text(self) -> str:
        """`lr 0.03, batch_size 10`."""
        return setting_in_words({name: typed_text(value) for name, value in self.compared})


def select(
    runs: Iterable[Run], axes: Axes | None = None, split_by: Collection[str] = ()
) -> dict[Column, dict[str, Cell]]:
    """Cells by column and norm layer, or variant of one (`utils/config/variants.py`).

    Selection is only over what a plan searched (`axes`): one setting of a layer represents it (`best_setting`). If
    settings were tried with the fraction `SEARCH_SHARE` of the training data held out, they are compared on that part,
    and the figures are those of the selected setting's runs on all data. Otherwise they are compared on the test data,
    an oracle, as in the original studies. Held-out runs without any run on all data, or with another fraction, get a
    column of their own.

    Every other option in which runs of one row differ splits columns. A layer without such an option appears in each
    of these columns. Options that affect only what is measured, or where, split nothing: of runs that differ only in
    these, one is used per seed.

    Args:
        runs: of a group; those that belong to no plan are left out.
        axes: of the group's plan; None: nothing was searched.
        split_by: options that split columns even if they do not differ, so that the columns match other groups.
    """
    axes = axes or Axes()
    families: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        if run.values and run.is_planned:
            families[run.values.get("dataset"), run.values.get("model")].append(run)
    columns: dict[Column, dict[str, Cell]] = {}
    for family in families.values():
        names = _splitting(family, axes, split_by)
        for column, rows in _columns_of(family, names, axes).items():
            columns[column] = {row: _make_cell(found, column.validation, axes.searched) for row, found in rows.items()}
    return columns


def _splitting(runs: Sequence[Run], axes: Axes, split_by: Collection[str]) -> list[str]:
    """The options, beside buffer and epochs, in which runs of one row differ, without those determined by others.

    An option that is determined by others, as the replay batch by the batch, distinguishes no further runs.
    """
    known = [*axes.searched, "buffer_size", "epochs"]
    num_given = len(known)
    declared = [option.name for option in SHARED_OPTIONS]
    others = sorted({name for run in runs for name in run.values} - {*declared, *_STRUCTURE})
    for name in dict.fromkeys((*axes.compared, *declared, *others)):
        may_split = name not in known and name not in _STRUCTURE and role_of(name) in ("part", "result")
        if may_split and (name in split_by or _differs(runs, name, known, axes)):
            known.append(name)
    return known[num_given:]


def _differs(runs: Sequence[Run], name: str, known: Sequence[str], axes: Axes) -> bool:
    """Whether an option differs among runs of one row that agree in what is known."""
    values: dict[tuple, Any] = {}
    for run in runs:
        if name in run.values:
            value = _frozen(run.values[name])
            alike = row_of(run.values, axes.names), *(_frozen(run.values.get(other)) for other in known)
            if values.setdefault(alike, value) != value:
                return True
    return False


def _columns_of(runs: Sequence[Run], names: Sequence[str], axes: Axes) -> dict[Column, dict[str, list[Run]]]:
    """The runs of a dataset and a method by column and row."""
    bases = [_base_of(run, axes) for run in runs]
    known = set(bases)
    grouped: dict[Column, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run, base in zip(runs, bases, strict=True):
        on_all_data = base._replace(validation=0.0)
        is_search = bool(axes.searched) and base.validation == SEARCH_SHARE and on_all_data in known
        grouped[on_all_data if is_search else base][row_of(run.values, axes.names)].append(run)
    columns: dict[Column, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for base, rows in grouped.items():
        own = {row: [_compared_values(run, names) for run in found] for row, found in rows.items()}
        for values in _joined(own.values()):
            column = base._replace(compared=tuple((name, values[name]) for name in names if name in values))
            for row, found in rows.items():
                for run, compared in zip(found, own[row], strict=True):
                    if compared.items() <= values.items():
                        columns[column][row].append(run)
    return columns


def _base_of(run: Run, axes: Axes) -> Column:
    values = {name: value for name, value in run.values.items() if name not in axes.searched}
    return Column(
        dataset=values.get("dataset"),
        model=values.get("model"),
        buffer_size=values.get("buffer_size"),
        epochs=values.get("epochs"),
        validation=values.get("validation"),
    )


def _compared_values(run: Run, names: Sequence[str]) -> dict[str, Any]:
    return {name: _frozen(run.values[name]) for name in names if name in run.values}


def _joined(rows: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The values of the columns for the runs of all rows: values that agree in what they share are joined."""
    columns: list[dict[str, Any]] = [{}]
    for row in rows:
        own = _distinct(row)
        pairs = [(column, values) for column in columns for values in own if _agree(column, values)]
        alone = [each for each in (*columns, *own) if not any(each is one or each is other for one, other in pairs)]
        columns = _distinct([*({**column, **values} for column, values in pairs), *alone])
    return [each for each in columns if not any(each.items() < other.items() for other in columns)]


def _distinct(values: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return list({frozenset(each.items()): dict(each) for each in values}.values())


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(other[name] == value for name, value in one.items() if name in other)


def best_setting(settings: Mapping[Key, Sequence[Run]]) -> Key | None:
    """The setting with the best mean final Class-IL accuracy; None if no setting has a complete run.

    The mean is over the seeds that all settings with a complete run have finished, so that no setting profits from its
    seeds; if there is no such seed, over the seeds of each. A diverged run counts as 0 %. In a tie, the setting with
    more complete seeds wins, then the first one.

    Args:
        settings: the runs of each setting, one per seed.
    """
    scores = {key: _scores(runs) for key, runs in settings.items()}
    num_complete = {key: sum(score is not None for score in found.values()) for key, found in scores.items()}
    rivals = [key for key, number in num_complete.items() if number]
    if not rivals:
        return None
    common = set.intersection(*(set(scores[key]) for key in rivals))

    def rank(key: Key) -> tuple[float, int]:
        own = scores[key]
        return statistics.fmean(own[seed] or 0.0 for seed in sorted(common or own)), num_complete[key]

    return max(rivals, key=rank)


def _scores(runs: Sequence[Run]) -> dict[int, float | None]:
    """Final Class-IL accuracy by seed, None if the run diverged; other runs are left out."""
    finals = {run.values["seed"]: run.metrics["class_il"]["A_f"] for run in runs if run.state is RunState.COMPLETE}
    diverged = {run.values["seed"]: None for run in runs if run.state is RunState.DIVERGED}
    return {**diverged, **{seed: final for seed, final in finals.items() if final is not None}}


def _make_cell(found: Sequence[Run], share: float | None, names: Sequence[str]) -> Cell:
    """The cell of a norm layer in a column that holds out `share`; its search over the named options may hold more."""
    searched = [name for name in names if len({_frozen(run.values.get(name)) for run in found}) > 1]
    runs = _one_per_seed(found, searched)
    settings: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        settings[tuple(_frozen(run.values.get(name)) for name in searched)].append(run)
    keys = sorted(settings, key=lambda key: [_order(value) for value in key])
    final = {key: [run for run in settings[key] if run.values.get("validation") == share] for key in keys}
    search = {key: [run for run in settings[key] if run.values.get("validation") != share] for key in keys}
    if any(search.values()) and (len(keys) > 1 or not any(final.values())):
        best, search_reason = _choose_validated(search, final, searched)
    else:
        best, search_reason = _choose_oracle(final), ""
    chosen = [run for run in (final.get(best, []) if best is not None else []) if not run.for_search]
    complete = {run.values["seed"]: run for run in chosen if run.state is RunState.COMPLETE}
    if not search_reason and any(run.state in _OPEN for run in runs if run not in chosen):
        search_reason = _search_reason(runs, len(keys))
    is_selected = best is not None and any(run.state is RunState.COMPLETE for run in settings[best])
    tried = [key for key in keys if any(run.has_record and run.state is not RunState.NOT_RUN for run in settings[key])]
    return Cell(
        runs=dict(sorted(complete.items())),
        num_settings=len(tried),
        setting=_setting(best, searched) if is_selected else {},
        num_values={name: len({key[index] for key in tried}) for index, name in enumerate(searched)},
        forward=(chosen or runs)[0].values.get("forward"),
        protocol=runs[0].values.get("protocol"),
        reason="; ".join(filter(None, (search_reason, _reason(chosen)))),
        selection=(VALIDATION if any(search.values()) else ORACLE) if len(tried) > 1 else "",
    )


def _choose_oracle(settings: Mapping[tuple, Sequence[Run]]) -> tuple:
    """The best setting, or one of those that have no complete run."""
    best = best_setting(settings)
    return next(iter(settings)) if best is None else best


def _choose_validated(
    search: Mapping[tuple, list[Run]], final: Mapping[tuple, list[Run]], searched: Sequence[str]
) -> tuple[tuple | None, str]:
    """The setting that the search has selected, None until the search is over; and what the search still lacks.

    A search run that failed for good looks like one still running: the search is then known to be over because the
    selected setting is the only one with runs on all data.
    """
    begun = [
        key for key in sorted(search, key=lambda key: -len(final[key])) if search[key]
    ]  # in a tie, the one that the launcher selected
    best = best_setting({key: search[key] for key in begun})
    runs = [run for key in begun for run in search[key]]
    is_open = any(run.state in _OPEN for run in runs)
    went_on = {key for key in final if final[key]}
    if best is None or (is_open and went_on != {best}):
        return None, _search_reason(runs, len(begun))
    if best in went_on:
        return best, _search_reason(runs, len(begun)) if is_open else ""
    words = setting_in_words(_setting(best, searched))
    return best, f"{_search_reason(runs, len(begun))}, the best so far ({words}) not yet run on all data"


def setting_in_words(setting: Mapping[str, Any]) -> str:
    """`kappa 0.4, lambd 1.0`."""
    return ", ".join(f"{name} {value}" for name, value in setting.items())


def _search_reason(runs: Sequence[Run], num_settings: int) -> str:
    num_runs = max(len(runs), num_settings * len({run.values["seed"] for run in runs}))
    counts = Counter(run.state for run in runs)
    others = [f", {counts[state]} {state}" for state in _WITHOUT_ANSWER if counts[state]]
    return f"search: {counts[RunState.COMPLETE]} of {num_runs} runs complete" + "".join(others)


def _setting(key: tuple | None, searched: Sequence[str]) -> dict[str, Any]:
    return {} if key is None else dict(zip(searched, key, strict=True))


def _one_per_seed(runs: Sequence[Run], searched: Sequence[str]) -> list[Run]:
    """Of runs that differ only in what was measured, the complete one with the most measurements."""
    best: dict[tuple, Run] = {}
    for run in runs:
        key = run.values["seed"], run.values.get("validation"), *(_frozen(run.values.get(name)) for name in searched)
        if key not in best or _completeness(run) > _completeness(best[key]):
            best[key] = run
    return list(best.values())


def _completeness(run: Run) -> tuple[bool, bool, int]:
    measured = [value for metrics in run.metrics.values() for value in metrics.values() if value is not None]
    return run.state is RunState.COMPLETE, run.state is RunState.DIVERGED, len(measured)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _order(value: Any) -> tuple[int, float, str]:
    """Sort key of an option's value: None first, then numbers, then anything else by its text."""
    if isinstance(value, int | float):
        return 1, value, ""
    return (0, 0.0, "") if value is None else (2, 0.0, str(value))


def _reason(runs: Sequence[Run]) -> str:
    """Why seeds are missing; seeds with the same reason are named together."""
    seeds: dict[str, list[int]] = defaultdict(list)
    for run in runs:
        if run.state is not RunState.COMPLETE:
            seeds[run.reason].append(run.values["seed"])
    num_missing = sum(map(len, seeds.values()))
    words = "; ".join(f"{_seeds_text(found)} {reason}" for reason, found in seeds.items())
    if 0 < num_missing < len(runs):
        return f"{len(runs) - num_missing} of {len(runs)} seeds complete: {words}"
    return words


def _seeds_text(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"
