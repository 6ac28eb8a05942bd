"""What training cost, beside the accuracy it led to."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from types import MappingProxyType

from utils.records.content import Result
from utils.records.metrics import MAIN_METRIC
from utils.records.selection import Cell
from utils.report.names import shown
from utils.report.stats import mean_and_std, spread_text
from utils.report.tables import SCENARIOS, Cells, TextTable, column_order, column_title, in_order, scenarios_of

_CAPTION = (
    "Mean over seeds, of training steps alone. Rows are images that went through the network and back, of the stream "
    "and of memory. Forward-equivalents are per training image of the stream: a forward pass of a row, a teacher's "
    "too, counts 1, and a backward pass 2. Seconds depend on the machine, and on what else ran on it."
)

# What is shown of a run, and how.
_COSTS: dict[str, tuple[Callable[[Result], float | None], str]] = {
    "forward-equivalents per image": (lambda result: result.forward_equivalents_per_image, "{:.2f}"),
    "rows": (lambda result: result.cost["backward_rows"] if result.cost else None, "{:,.0f}"),
    "seconds": (lambda result: result.seconds.get("training"), "{:.1f}"),
}


def build_costs(
    cells: Cells,
    metric: str = MAIN_METRIC,
    scenarios: Sequence[str] = tuple(SCENARIOS),
    names: Mapping[str, str] = MappingProxyType({}),
) -> TextTable | None:
    """A row per column and norm layer: a metric, and beside it the cost of training; None if no record knows it.

    Args:
        cells: by column and norm layer.
        metric: its name in the records.
        scenarios: in which it is shown.
        names: what readers see in place of the names of datasets, methods and norm layers.
    """
    scenarios = scenarios_of(metric, scenarios)
    complete = {
        (column, norm): cells[column][norm]
        for column in sorted(cells, key=column_order)
        for norm in in_order(cells[column])
        if cells[column][norm].runs
    }
    if not any(run.known_result.cost for cell in complete.values() for run in cell.runs.values()):
        return None
    titles = ("column", "norm", *(f"{SCENARIOS[scenario]} {metric}" for scenario in scenarios), *_COSTS)
    rows = (
        (
            column_title(column, cells, names),
            shown(names, norm),
            *_accuracies(cell, metric, scenarios),
            *_costs(cell),
        )
        for (column, norm), cell in complete.items()
    )
    return TextTable("Cost of training", titles, tuple(rows), _CAPTION)


def _accuracies(cell: Cell, metric: str, scenarios: Sequence[str]) -> list[str]:
    found = [mean_and_std(list(cell.values(scenario, metric).values())) for scenario in scenarios]
    return ["–" if mean is None else spread_text(mean, std) for mean, std in found]


def _costs(cell: Cell) -> list[str]:
    results = [run.known_result for run in cell.runs.values()]
    known = [([value for each in results if (value := cost(each)) is not None], form) for cost, form in _COSTS.values()]
    return [form.format(fmean(values)) if values else "–" for values, form in known]
