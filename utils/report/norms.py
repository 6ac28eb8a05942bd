"""What was measured of the norm layers themselves: how re-tuning them changes the accuracy, and distances by layer."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from utils.records.collect import Run
from utils.records.content import Result
from utils.records.metrics import MAIN_METRIC, accuracies, average_accuracies
from utils.records.selection import Cell
from utils.report.names import shown
from utils.report.stats import mean_and_std, signed
from utils.report.tables import SCENARIOS, Cells, TextTable, column_order, column_title, in_order

TITLE = f"Re-tuning the norm layers alone: {MAIN_METRIC} before → after (difference)"
DISTANCES = ("mean", "std")


def build_retuning(cells: Cells, names: Mapping[str, str] = MappingProxyType({})) -> TextTable | None:
    """What re-tuning the norm layers did to the average accuracy after each task; None if no run asks for it.

    Args:
        cells: by column and norm layer.
        names: what readers see in place of the names of datasets, methods and norm layers.
    """
    asked = {column: _asked(norms) for column, norms in sorted(cells.items(), key=lambda item: column_order(item[0]))}
    asked = {column: norms for column, norms in asked.items() if norms}
    if not asked:
        return None
    columns = [(column, *figure) for column in asked for figure in _SHOWN]
    titles = [
        f"{column_title(column, cells, names)} {SCENARIOS[scenario]}{_MORE[form]}" for column, scenario, form in columns
    ]
    rows = [
        (
            shown(names, norm),
            *(_cell(asked[column].get(norm, ()), scenario, form) for column, scenario, form in columns),
        )
        for norm in in_order({norm for norms in asked.values() for norm in norms})
    ]
    runs = [run for norms in asked.values() for found in norms.values() for run in found]
    return TextTable(TITLE, ("norm", *titles), tuple(rows), _caption(runs))


def _asked(norms: Mapping[str, Cell]) -> dict[str, list[Run]]:
    """The complete runs that were asked to measure their norm layers, by layer."""
    runs = {norm: [run for run in cell.runs.values() if run.values.get("retune_norms")] for norm, cell in norms.items()}
    return {norm: found for norm, found in runs.items() if found}


def _caption(runs: Sequence[Run]) -> str:
    numbers = sorted({str(run.values["retune_norms"]) for run in runs})
    epochs = f"{' or '.join(numbers)} epoch{'s' if numbers != ['1'] else ''}"
    return (
        f"Percent, mean over seeds. After every task, a copy of the network is trained for {epochs} "
        "on the training data of all tasks seen, at a tenth of the learning rate, all but its norm layers "
        "frozen (Cha et al., CVPR 2023): the difference is what these layers alone can give back. Before → after "
        "is of the last task."
    )


def _cell(runs: Sequence[Run], scenario: str, form: Callable[[np.ndarray, np.ndarray], str]) -> str:
    results = [run.known_result for run in runs]
    measured = [result.norms for result in results if result.norms is not None]
    if measured and all(norms.retuned is None for norms in measured):
        return "nothing to re-tune"
    pairs = [pair for result in results if (pair := _before_and_after(result, scenario)) is not None]
    pairs = [pair for pair in pairs if pair.shape == pairs[0].shape]
    return form(*np.swapaxes(pairs, 0, 1)) if pairs else "–"


def _change(before: np.ndarray, after: np.ndarray) -> str:
    """Such as `35.41 → 41.20 (+5.79)`, with the spread of the difference over seeds; of accuracies [seeds, T]."""
    difference, spread = mean_and_std(list((after - before)[:, -1]))
    assert difference is not None  # of at least one seed
    spread_text = f" ± {spread:.2f}" if spread is not None else ""
    return f"{before[:, -1].mean():.2f} → {after[:, -1].mean():.2f} ({signed(difference)}{spread_text})"


def _course(before: np.ndarray, after: np.ndarray) -> str:
    """The mean difference after each task, such as `−0.1 +2.4 +5.8`; of accuracies [seeds, T]."""
    differences = (after - before).mean(axis=0)
    return " ".join(signed(each, 1) if math.isfinite(each) else "–" for each in differences)


_SHOWN = (*((scenario, _change) for scenario in SCENARIOS), ("class_il", _course))
_MORE = {_change: "", _course: " difference after each task"}


def _before_and_after(result: Result, scenario: str) -> np.ndarray | None:
    """Average accuracy in percent over the tasks seen [2, T], after each task; None if the last is not known."""
    retuned = None if result.norms is None else result.norms.retuned
    if retuned is None:
        return None
    both = (result.counts, retuned)
    pair = np.array([average_accuracies(accuracies(counts[scenario], counts["total"])) for counts in both])
    return pair if np.isfinite(pair[:, -1]).all() else None


def mean_distances(cell: Cell, kind: str) -> np.ndarray | None:
    """Distances of running statistics [L, T], by layer and task, mean over seeds; None if there are none.

    Args:
        cell: whose runs are asked.
        kind: `mean` or `std`.
    """
    found = [table for run in cell.runs.values() if (table := _distances(run, kind)) is not None]
    found = [table for table in found if table.shape == found[0].shape]
    return np.mean(found, axis=0) if found else None


def _distances(run: Run, kind: str) -> np.ndarray | None:
    norms = run.known_result.norms
    table = np.array([pair[kind] for pair in norms.distances.values()] if norms else [], dtype=float)
    return table if table.ndim == 2 and np.isfinite(table).any() else None
