"""From records to the rows and columns of a table: which setting of a norm layer stands for it, and on which seeds."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.options import PLACE_OPTIONS
from utils.report.collect import COMPLETE, Run

COLUMN = ("dataset", "model", "buffer_size", "buffer_mode", "epochs", "batch_size", "backbone", "nf", "validation")
_IGNORED = {option.name for option in PLACE_OPTIONS} | {"seed", "nl", "preset", "plugin", "load_best_args", *COLUMN}


@dataclass(frozen=True)
class Cell:
    """One norm layer in one column.

    Attributes:
        runs: the complete runs of the chosen setting, by seed.
        num_settings: settings that were tried, diverged ones included.
        setting: the searched options of the chosen one.
        forward: batch composition, None for a method without memory.
        reason: why there is no figure, or why fewer seeds than in other cells; empty if nothing is missing.
    """

    runs: dict[int, Run]
    num_settings: int
    setting: dict[str, Any] = field(default_factory=dict)
    forward: str | None = None
    reason: str = ""

    def values(self, scenario: str, metric: str) -> dict[int, float]:
        """The metric by seed, where it was measured."""
        found = {seed: run.metrics[scenario].get(metric) for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}


def select(runs: Sequence[Run]) -> dict[tuple, dict[str, Cell]]:
    """Cells by column and norm layer.

    Where a layer was run in several settings, the one with the best mean final Class-IL accuracy stands for it. That
    is judged on what the runs were tested on, so on the test set unless they held out a validation part: an oracle,
    as in the original study, which the table says.
    """
    grouped: dict[tuple, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.values:
            grouped[column_of(run)][run.values["nl"]].append(run)
    return {column: {norm: _choose(found) for norm, found in norms.items()} for column, norms in grouped.items()}


def column_of(run: Run) -> tuple:
    """What the runs of one column share."""
    return tuple(run.values.get(name) for name in COLUMN)


def _choose(runs: list[Run]) -> Cell:
    searched = _searched(runs)
    settings: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        settings[tuple(_frozen(run.values.get(name)) for name in searched)].append(run)
    best = max(settings.values(), key=_score)
    complete = {run.values["seed"]: run for run in best if run.status == COMPLETE}
    setting = {name: best[0].values.get(name) for name in searched}
    return Cell(
        dict(sorted(complete.items())), len(settings), setting, best[0].values.get("forward"), _reason(best, complete)
    )


def _searched(runs: list[Run]) -> list[str]:
    """Options in which the runs of one cell differ."""
    names = sorted({name for run in runs for name in run.values} - _IGNORED)
    return [name for name in names if len({_frozen(run.values.get(name)) for run in runs}) > 1]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _score(runs: list[Run]) -> tuple[float, int]:
    """Mean final Class-IL accuracy; settings without a complete run come last, and more seeds win a tie."""
    finals = [run.metrics["class_il"]["A_f"] for run in runs if run.status == COMPLETE]
    finals = [value for value in finals if value is not None]
    return (statistics.fmean(finals) if finals else -1.0, len(finals))


def _reason(runs: list[Run], complete: dict[int, Run]) -> str:
    missing = [run for run in runs if run.status != COMPLETE]
    if not missing:
        return ""
    words = ", ".join(f"seed {run.values['seed']} {run.reason}" for run in missing)
    return words if not complete else f"{len(complete)} of {len(runs)} seeds complete: {words}"
