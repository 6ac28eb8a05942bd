"""One group beside the published figures, and what is not as it was there: why a number is not the paper's."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from utils.records.collect import Run
from utils.records.metrics import MAIN_METRIC
from utils.records.selection import Cell, Column
from utils.report import markdown
from utils.report.compare_groups import NOT_COMPARED, CellKey, Group, cells_text, metric_sentence, plain_value
from utils.report.published import PublishedFigure, differences, differences_from_gain, find, gain, values_of
from utils.report.stats import mean_text, signed
from utils.report.tables import BASELINE, column_title, in_order, protocol_of

SCENARIO = "class_il"  # what is published
_TITLES = ("column", "norm", "ours", "published", "deviation")
_WITH_GAINS = "AdaB2N"  # of which only gains over the baseline are published
_OF_A_GRID = NOT_COMPARED | {*Column._fields}  # what a column is made of is typed by its nature


@dataclass(frozen=True)
class Comparison:
    """A cell and what is published of it.

    Attributes:
        key: its column's title and its norm layer.
        cell: ours.
        values: the options of its runs, with the number of tasks.
        published: the figure of this setting, or else the closest one; None where there is none.
        deviating: options because of which the closest figure is of another setting.
    """

    key: CellKey
    cell: Cell
    values: Mapping[str, Any]
    published: PublishedFigure | None
    deviating: tuple[str, ...] = ()


def to_markdown(group: Group, metric: str) -> str:
    """The comparison of one group with the literature."""
    found = compare(group, metric)
    blocks = [f"# {markdown.escape(group.name)} and the published figures", markdown.escape(_caption(metric))]
    blocks.append(markdown.table(_TITLES, [_row(each, metric) for each in found]))
    blocks += markdown.section("Published in a different setting", _other_settings(found))
    blocks += markdown.section("Options that differ from the published ones", _options(found))
    blocks += markdown.section("Options set by hand or by the grid", _typed(found, group.axes.names))
    blocks += markdown.section("Sources and remarks", [*_sources(found), *_gains(group, metric)])
    blocks += markdown.section("No published figure for", _unpublished(found))
    blocks += markdown.section("Missing", _missing(group))
    return "\n\n".join(blocks) + "\n"


def compare(group: Group, metric: str) -> list[Comparison]:
    """Every cell that has a run, with what is published of it."""
    return [
        _compare((column_title(column, group.cells), norm), cell, metric)
        for column in sorted(group.cells, key=str)
        for norm in in_order(group.cells[column])
        if (cell := group.cells[column][norm]).runs
    ]


def _compare(key: CellKey, cell: Cell, metric: str) -> Comparison:
    values = values_of(_first(cell))
    exact = find(values, key[1], metric)
    if exact is not None:
        return Comparison(key, cell, values, exact)
    # What is not named is not compared: the closest figure is one of this dataset and method, and an option is to
    # blame if naming it loses the figure.
    known = {name: values.get(name) for name in ("dataset", "model")}
    closest = find(known, key[1], metric)
    deviating = [name for name in values if closest and find({**known, name: values[name]}, key[1], metric) is None]
    return Comparison(key, cell, values, closest, tuple(deviating))


def _first(cell: Cell) -> Run:
    return next(iter(cell.runs.values()))


def _caption(metric: str) -> str:
    deviation = "deviation is ours − published, in parentheses where our settings differ from the published ones"
    return f"{metric_sentence(metric)} Scenario: Class-IL; {deviation}."


def _row(each: Comparison, metric: str) -> list[str]:
    ours = each.cell.values(SCENARIO, metric)
    texts = [*each.key, mean_text(ours)]
    if each.published is None or not ours:
        return [*texts, "–", "–"]
    pair = [f"{each.published.value:.2f}", signed(fmean(ours.values()) - each.published.value)]
    is_comparable = not each.deviating and not differences(each.published, each.values)
    return [*texts, *(pair if is_comparable else (f"({text})" for text in pair))]


# -- Why they differ --------------------------------------------------------------------------------------------------


def _other_settings(found: Iterable[Comparison]) -> list[str]:
    lines = []
    for each in found:
        if each.deviating and each.published:
            ours = ", ".join(f"{name} {plain_value(each.values[name])}" for name in sorted(each.deviating))
            lines.append(f"{' '.join(each.key)}: ours: {ours}; published: {each.published.setting}")
    return lines


def _options(found: Iterable[Comparison]) -> list[str]:
    """Options with another value than in the published runs, and the cells in which they have it."""
    compared = [(each, each.published) for each in found if each.published]
    cells: dict[tuple[str, str, str], list[CellKey]] = defaultdict(list)
    for each, published in compared:
        for name, (ours, theirs) in differences(published, each.values).items():
            cells[name, plain_value(ours), plain_value(theirs)].append(each.key)
    everywhere = [each.key for each, _ in compared]
    return [
        f"{name}: {ours}, published {theirs} ({cells_text(where, everywhere)})"
        for (name, ours, theirs), where in sorted(cells.items())
    ]


def _typed(found: Iterable[Comparison], axes: Collection[str]) -> list[str]:
    """Options whose values somebody chose, by hand or by a grid."""
    cells: dict[tuple[str, str], list[CellKey]] = defaultdict(list)
    everywhere = []
    for each in found:
        everywhere.append(each.key)
        for name in _typed_options(_first(each.cell)):
            if name in each.values and name not in axes:
                cells[name, plain_value(each.values[name])].append(each.key)
    return [f"{name}: {value} ({cells_text(where, everywhere)})" for (name, value), where in sorted(cells.items())]


def _typed_options(run: Run) -> list[str]:
    origins = run.config.origins if run.config else {}
    return [name for name, origin in origins.items() if origin == "typed" and name not in _OF_A_GRID]


def _sources(found: Iterable[Comparison]) -> list[str]:
    compared = [(each.key, each.published) for each in found if each.published]
    texts = [f"published: {published.source} ({published.setting})" for _, published in compared]
    texts += [f"{' '.join(key)}: {published.remark}" for key, published in compared if published.remark]
    return list(dict.fromkeys(texts))


def _gains(group: Group, metric: str) -> list[str]:
    """Our gains of AdaB2N beside the published ones, of which only the largest are known."""
    lines = []
    for column, norms in group.cells.items() if metric == MAIN_METRIC else ():
        values = [norms[norm].values(SCENARIO, metric) for norm in (_WITH_GAINS, BASELINE) if norm in norms]
        published = gain(str(column.dataset), protocol_of(norms))
        if published and len(values) == 2 and all(values):
            ours, baseline = (fmean(each.values()) for each in values)
            found = f"{column_title(column, group.cells)}: ours gains {signed(ours - baseline)}"
            lines.append(f"{found}; {published}{_other_than_gained(norms)}")
    return lines


def _other_than_gained(norms: Mapping[str, Cell]) -> str:
    """In what the two cells differ from the runs of the published gain; empty if in nothing."""
    differing: dict[str, Any] = {}
    for norm in (_WITH_GAINS, BASELINE):
        differing |= differences_from_gain(_first(norms[norm]).values)
    texts = [
        f"{name} {plain_value(ours)} (published: {' or '.join(map(plain_value, theirs))})"
        for name, (ours, theirs) in sorted(differing.items())
    ]
    return f"; our settings differ: {', '.join(texts)}" if texts else ""


def _unpublished(found: Sequence[Comparison]) -> list[str]:
    keys = [each.key for each in found if each.published is None]
    if len(keys) == len(found):
        return ["any of these cells in this metric"]
    return [cells_text(keys, ())] if keys else []


def _missing(group: Group) -> list[str]:
    found = [
        f"{column_title(column, group.cells)}, {norm}: {cell.reason}"
        for column, norms in group.cells.items()
        for norm, cell in norms.items()
        if cell.reason
    ]
    return [*found, *(run.reason for run in group.runs if not run.values)]
