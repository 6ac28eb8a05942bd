"""From records to the rows and columns of a table: which setting of a norm layer stands for it, and on which seeds."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from utils.config.options import PLACE_OPTIONS
from utils.config.variants import row_of
from utils.records.collect import Run
from utils.records.state import RunState

ORACLE, VALIDATION = "oracle", "validation"
SEARCH_SHARE = 0.1  # of the training images of a class, on which a search by validation is judged

COLUMN = (
    *("dataset", "model", "buffer_size", "buffer_mode", "epochs", "batch_size", "backbone", "nf"),
    *("variant", "validation"),
)
_OPEN = (RunState.STARTED, RunState.NOT_RUN)
_IGNORED = {option.name for option in PLACE_OPTIONS} | {
    *("seed", "nl", "preset", "plugin", "load_best_args", "retune_norms", *COLUMN)
}

# Options in words or flags make another experiment, which no setting is chosen among; so do these numbers.
_OF_EXPERIMENTS = {"val_fraction", "batch_ratio", "n_tasks", "second_epochs", "class_order"}
_NEVER_OF_EXPERIMENTS = _IGNORED | {"affine", "adjust_groups", "renormalize_absent", "forward", "optim_nesterov"}

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Cell:
    """One norm layer in one column.

    Attributes:
        runs: the complete runs of the chosen setting, by seed.
        num_settings: settings that were tried, diverged ones included; at least one.
        setting: the searched options of the chosen one.
        forward: batch composition, None for a method without memory.
        protocol: that the runs follow, complete or not.
        reason: why there is no figure, or why fewer seeds than in other cells; empty if nothing is missing.
        selection: what the setting was chosen on, `oracle` (the data that it is tested on) or `validation` (a held-out
            part of the training data); empty where there was one setting only.
    """

    runs: dict[int, Run]
    num_settings: int
    setting: dict[str, Any] = field(default_factory=dict)
    forward: str | None = None
    protocol: str | None = None
    reason: str = ""
    selection: str = ""

    def values(self, scenario: str, metric: str) -> dict[int, float]:
        """The metric by seed, where it was measured."""
        found = {seed: run.metrics[scenario].get(metric) for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}


def select(runs: Sequence[Run]) -> dict[tuple, dict[str, Cell]]:
    """Cells by column and norm layer, or variant of one (`utils/config/variants.py`).

    Where a layer was run in several settings, one of them stands for it (`best_setting`). Where settings were tried on
    a held-out part of the training data, of the share `SEARCH_SHARE`, they are judged there, and the figures are those
    of the chosen one's runs on all data. Otherwise they are judged on what they were tested on, which is an oracle, as
    in the original studies. Held-out runs in a column without any run on all data, or of another share, are a column
    of their own. So are runs that differ in more than numbers that one searches over, such as in the form of a loss:
    the column's `variant` tells in what.
    """
    grouped: dict[tuple, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    readable = [run for run in runs if run.values]
    differing = _differing(readable)
    known = {_column_of(run, differing) for run in readable}
    for run in readable:
        column = _column_of(run, differing)
        on_all_data = _column_of(run, differing, validation=0.0)
        is_search = run.values.get("validation") == SEARCH_SHARE and on_all_data in known
        grouped[on_all_data if is_search else column][row_of(run.values)].append(run)
    return {
        column: {norm: _make_cell(found, column[-1]) for norm, found in norms.items()}
        for column, norms in grouped.items()
    }


def _column_of(run: Run, differing: Mapping[tuple, Sequence[str]], **changed: Any) -> tuple:
    """What the runs of one column share, with some of it changed."""
    names = [name for name in differing[_experiment_of(run)] if name in run.values]
    variant = ", ".join(f"{name} {_typed(run.values[name])}" for name in names) or None
    values = {**run.values, "variant": variant, **changed}
    return tuple(values.get(name) for name in COLUMN)


def _experiment_of(run: Run) -> tuple:
    return run.values.get("dataset"), run.values.get("model")


def _differing(runs: Sequence[Run]) -> dict[tuple, list[str]]:
    """By dataset and method, the options in which their runs are different experiments."""
    found: dict[tuple, dict[str, set]] = defaultdict(lambda: defaultdict(set))
    for run in runs:
        for name, value in run.values.items():
            is_word = isinstance(value, str | bool) and name not in _NEVER_OF_EXPERIMENTS
            if is_word or name in _OF_EXPERIMENTS:
                found[_experiment_of(run)][name].add(_frozen(value))
    differing: dict[tuple, list[str]] = defaultdict(list)
    for experiment, options in found.items():
        differing[experiment] = sorted(name for name, values in options.items() if len(values) > 1)
    return differing


def _typed(value: Any) -> str:
    """An option's value as one would type it."""
    if isinstance(value, list):
        return ",".join(map(_typed, value))
    return str(int(value)) if isinstance(value, bool) else str(value)


def best_setting(settings: Mapping[Key, Sequence[Run]]) -> Key | None:
    """The setting with the best mean final Class-IL accuracy; None where none has a complete run.

    The mean is over the seeds that all settings with a complete run have behind them, so that no setting profits from
    the seeds it was run on; where there is no such seed, over those that each has. A diverged run counts as 0 %. More
    complete seeds win a tie, then the first one.

    Args:
        settings: the runs of each, one per seed.
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
    """Final Class-IL accuracy by seed, None where the run diverged; runs that tell nothing are left out."""
    finals = {run.values["seed"]: run.metrics["class_il"]["A_f"] for run in runs if run.state is RunState.COMPLETE}
    diverged = {run.values["seed"]: None for run in runs if run.state is RunState.DIVERGED}
    return {**diverged, **{seed: final for seed, final in finals.items() if final is not None}}


def _make_cell(runs: list[Run], share: float | None) -> Cell:
    """The cell of a norm layer in a column that holds out `share`; its search may hold out more."""
    searched = _searched(runs)
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
    chosen = [run for run in final.get(best, []) if not run.for_search]
    complete = {run.values["seed"]: run for run in chosen if run.state is RunState.COMPLETE}
    if not search_reason and any(run.state in _OPEN for run in runs if run not in chosen):
        search_reason = _search_reason(runs, len(keys))
    num_tried = sum(any(run.state is not RunState.NOT_RUN for run in settings[key]) for key in keys)
    return Cell(
        runs=dict(sorted(complete.items())),
        num_settings=max(1, num_tried),
        setting=_setting(best, searched),
        forward=(chosen or runs)[0].values.get("forward"),
        protocol=runs[0].values.get("protocol"),
        reason="; ".join(filter(None, (search_reason, _reason(chosen)))),
        selection=(VALIDATION if any(search.values()) else ORACLE) if num_tried > 1 else "",
    )


def _choose_oracle(settings: Mapping[tuple, Sequence[Run]]) -> tuple:
    """The best setting, or one of those that have no complete run."""
    best = best_setting(settings)
    return next(iter(settings)) if best is None else best


def _choose_validated(
    search: Mapping[tuple, list[Run]], final: Mapping[tuple, list[Run]], searched: Sequence[str]
) -> tuple[tuple | None, str]:
    """The setting that the search has chosen, None as long as it is not over; and what is missing of the search.

    A run of the search that failed for good looks like one under way: that it is over is then told by the chosen
    setting being the only one with runs on all data.
    """
    begun = [key for key in sorted(search, key=lambda key: -len(final[key])) if search[key]]  # the launcher's, in a tie
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
    others = [f", {counts[state]} {state}" for state in (RunState.DIVERGED, RunState.DAMAGED) if counts[state]]
    return f"search: {counts[RunState.COMPLETE]} of {num_runs} runs complete" + "".join(others)


def _setting(key: tuple | None, searched: Sequence[str]) -> dict[str, Any]:
    return {} if key is None else dict(zip(searched, key, strict=True))


def _searched(runs: list[Run]) -> list[str]:
    """Options in which the runs of one cell differ."""
    names = sorted({name for run in runs for name in run.values} - _IGNORED)
    return [name for name in names if len({_frozen(run.values.get(name)) for run in runs}) > 1]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _order(value: Any) -> tuple[int, float, str]:
    """Sorts values of an option: none first, numbers as numbers, then what else there is by its text."""
    if isinstance(value, int | float):
        return 1, value, ""
    return (0, 0.0, "") if value is None else (2, 0.0, str(value))


def _reason(runs: Sequence[Run]) -> str:
    """Why seeds are missing; those that are missing for the same reason are told together."""
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
