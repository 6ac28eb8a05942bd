"""The figures of a table: rows norm layers, columns dataset x method x buffer x scenario.

No timings: the same records give the same figures.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from statistics import fmean
from types import MappingProxyType
from typing import Any, NamedTuple

from utils.config.command_line import typed_text
from utils.config.protocols import PROTOCOLS
from utils.config.registry import NORMS
from utils.config.variants import find_variant
from utils.records.metrics import INSIDE, INSIDE_TASKS, MAIN_METRIC, METRICS, fixed
from utils.records.selection import Cell, Column
from utils.report.names import PUBLISHED_NAMES, shown
from utils.report.published import PublishedFigure, find, values_of
from utils.report.stats import SAME, holm, mean_and_std, paired_p

SCENARIOS = {"class_il": "Class-IL", "task_il": "Task-IL"}
BASELINE = "BN"
SIGNIFICANT = 0.05
DEFAULT_PROTOCOL = "online"

Cells = Mapping[Column, Mapping[str, Cell]]
Lines = tuple[str, ...]  # of the head of a column


class ScenarioColumn(NamedTuple):
    """A column of figures."""

    column: Column
    scenario: str


@dataclass(frozen=True)
class Style:
    """How a format writes a figure; `bold` holds `{}` where the figure goes."""

    bold: str
    plus_minus: str
    star: str
    minus: str
    dash: str


PLAIN = Style(bold="{}", plus_minus="±", star=" *", minus="−", dash="–")


@dataclass(frozen=True)
class Entry:
    """One figure of the table.

    Attributes:
        mean, std: percent over seeds; None where there are too few.
        num_seeds: complete seeds.
        is_best: no other layer of the column has a better mean.
        p: of the paired test against BN; None where there is none.
        p_holm: adjusted over all tests of the table.
        cell: what it comes from; None where the layer was not run.
        published: the published figure, if there is one for this setting.
    """

    mean: float | None
    std: float | None
    num_seeds: int
    is_best: bool
    p: float | None
    p_holm: float | None
    cell: Cell | None
    published: PublishedFigure | None = None

    @property
    def deviation(self) -> float | None:
        """Percentage points above the published figure."""
        return None if self.published is None or self.mean is None else self.mean - self.published.value

    def text(self, style: Style, expected_seeds: int) -> str:
        """`mean ± std`, bold if best, a star for a significant difference, n where it is below the expected one."""
        if self.mean is None:
            return style.dash
        figure = _signed(fixed(self.mean), style)
        figure += f" {style.plus_minus} {self.std:.2f}" if self.std is not None else ""
        is_significant = self.p_holm is not None and self.p_holm < SIGNIFICANT
        count = f" (n = {self.num_seeds})" if self.num_seeds < expected_seeds else ""
        return (style.bold.format(figure) if self.is_best else figure) + (style.star if is_significant else "") + count

    def published_text(self, style: Style) -> str:
        """The published figure and how far ours is above it, such as `38.46 (−1.20)`; empty where there is none."""
        if self.published is None or self.deviation is None:
            return ""
        return _signed(f"{self.published.value:.2f} ({fixed(self.deviation, sign='+')})", style)


def _signed(number: str, style: Style) -> str:
    return number.replace("-", style.minus)


@dataclass(frozen=True)
class Table:
    """All figures of one metric.

    Attributes:
        columns: of the runs, each once per scenario.
        rows: norm layers.
        entries: by row and column.
        metric: its name in the records.
        unreadable: of records that belong to no cell, why, a line each.
        num_tests: paired tests against the baseline, over all of which p is adjusted.
        names: what readers see in place of the names of datasets, methods, norm layers and scenarios.
    """

    columns: tuple[ScenarioColumn, ...]
    rows: tuple[str, ...]
    entries: Mapping[tuple[str, ScenarioColumn], Entry]
    metric: str
    unreadable: tuple[str, ...] = ()
    num_tests: int = 0
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_seeds(self) -> int:
        """Seeds of the fullest cell."""
        return max((entry.num_seeds for entry in self.entries.values()), default=0)

    @property
    def entries_in_order(self) -> Iterator[tuple[str, ScenarioColumn, Entry]]:
        """Row, column and entry, column by column."""
        return ((row, column, self.entries[row, column]) for column in self.columns for row in self.rows)

    @property
    def cells(self) -> Mapping[tuple[str, Column], Cell | None]:
        """What the figures come from, by row and column: once for all scenarios."""
        return {(row, column.column): entry.cell for row, column, entry in self.entries_in_order}

    @property
    def published_names(self) -> Mapping[str, str]:
        """Names as papers write them, and those that were given; a dataset is `Split` only where it is, in all runs."""
        unsplit = {column.dataset for (_, column), cell in self.cells.items() if cell and not cell.is_split}
        return {
            name: title.removeprefix("Split ") if name in unsplit else title for name, title in PUBLISHED_NAMES.items()
        } | dict(self.names)

    def row(self, name: str) -> list[Entry]:
        """The entries of a norm layer, in the order of the columns."""
        return [self.entries[name, column] for column in self.columns]

    def tried(self, name: str) -> int:
        """The most settings that were tried of a norm layer in one cell."""
        return max((entry.cell.num_settings for entry in self.row(name) if entry.cell), default=0)

    def title(self, column: ScenarioColumn) -> str:
        """A column's title, without its scenario."""
        return self.title_of(column.column)

    def title_of(self, column: Column) -> str:
        """The title of a column of runs."""
        return column_title(column, [other for other, _ in self.columns], self.names)

    def scenario(self, column: ScenarioColumn) -> str:
        """The title of a column's scenario."""
        return self.names.get(column[1], SCENARIOS[column[1]])

    def show(self, name: str) -> str:
        """What a reader sees for the name of a norm layer or a method."""
        return shown(self.names, name)

    def narrow(self, columns: Iterable[ScenarioColumn]) -> "Table":
        """Some columns of the table; its tests stay corrected over all of it."""
        kept = tuple(columns)
        rows = tuple(row for row in self.rows if any(self.entries[row, column].cell for column in kept))
        return replace(self, columns=kept, rows=rows)


@dataclass(frozen=True)
class TextTable:
    """A table of texts, beside the figures.

    Attributes:
        title: over it.
        titles: of the columns.
        rows: a text per column.
        caption: what it shows, in one paragraph.
    """

    title: str
    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


# -- Columns and rows -------------------------------------------------------------------------------------------------


def column_order(column: Column) -> list:
    """Sorts columns by their values: none first, numbers as numbers, then words."""
    compared = [_order(each) for pair in column.compared for each in pair]
    return [*map(_order, column[:4]), compared, _order(column.validation)]


def _order(value: Any) -> tuple[bool, bool, Any]:
    is_number = isinstance(value, int | float)
    return value is not None, not is_number, value if is_number or value is None else typed_text(value)


def column_title(column: Column, columns: Iterable[Column], names: Mapping[str, str] = MappingProxyType({})) -> str:
    """Dataset, method and buffer; epochs where others have other ones; then what else distinguishes this column."""
    parts = [shown(names, value) for value in column[:3] if value is not None]
    return " ".join([*parts, *further_parts(column, columns)])


def further_parts(column: Column, columns: Iterable[Column]) -> list[str]:
    """What of a title comes after dataset, method and buffer, such as `epochs 50`."""
    differ_in_epochs = column.epochs is not None and len({other.epochs for other in columns}) > 1
    epochs = f"epochs {column.epochs}" if differ_in_epochs else ""
    held_out = f"validation {column.validation}" if column.validation else ""
    return [part for part in (epochs, column.compared_text, held_out) if part]


def tested_on(share: float | None) -> str:
    """The data that runs with this share of the training data held out are tested on."""
    return "held-out training data" if share else "test data"


def protocol_of(norms: Mapping[str, Cell]) -> str:
    """The protocol that a column's runs followed."""
    names = (cell.protocol for cell in norms.values())
    return next((name for name in names if name in PROTOCOLS), DEFAULT_PROTOCOL)


def in_order(norms: Iterable[str]) -> tuple[str, ...]:
    """Norm layers in the order of rows: the baseline, then as registered, a variant after its layer, then others."""
    known = [BASELINE, *(name for name in NORMS.names() if name != BASELINE)]

    def place(name: str) -> tuple[int, str]:
        layer = find_variant(name).norm
        return known.index(layer) if layer in known else len(known), name

    return tuple(sorted(norms, key=place))


# -- From cells to a table --------------------------------------------------------------------------------------------


def build_table(
    cells: Cells, metric: str = MAIN_METRIC, unreadable: Sequence[str] = (), scenarios: Sequence[str] = tuple(SCENARIOS)
) -> Table:
    """Means, spreads and tests of every cell, in those of the scenarios in which the metric is taken."""
    ordered, scenarios = sorted(cells, key=column_order), scenarios_of(metric, scenarios)
    columns = tuple(ScenarioColumn(column, scenario) for column in ordered for scenario in scenarios)
    rows = in_order({norm for norms in cells.values() for norm in norms})
    tests = _tests(cells, columns, metric)
    adjusted = adjust(tests.values())
    entries = {}
    for column in columns:
        norms = cells[column.column]
        values = {row: list(cell.values(column.scenario, metric).values()) for row, cell in norms.items()}
        means = [fmean(found) for found in values.values() if found]
        best = (min if METRICS[metric].lower_is_better else max)(means, default=math.nan)
        for row in rows:
            own, cell, test = values.get(row, []), norms.get(row), tests.get((row, column), PairedTest())
            mean, std = mean_and_std(own)
            is_best = mean is not None and abs(mean - best) < SAME
            published = _published(cell, row, metric) if column.scenario == "class_il" else None
            entries[row, column] = Entry(mean, std, len(own), is_best, test.p, adjusted.get(test.key), cell, published)
    return Table(columns, rows, entries, metric, tuple(unreadable), len(adjusted))


def scenarios_of(metric: str, scenarios: Sequence[str]) -> tuple[str, ...]:
    """The given scenarios in which the metric is defined."""
    return tuple(scenario for scenario in scenarios if scenario in METRICS[metric].scenarios)


def build_further_tables(
    cells: Cells, metric: str = MAIN_METRIC, scenarios: Sequence[str] = tuple(SCENARIOS)
) -> list[Table]:
    """The leading metrics other than the main table's, by protocol: the columns of a table share one.

    Those that were measured inside the stream follow, where some run was evaluated there.
    """
    tables = []
    protocols = {column: protocol_of(norms) for column, norms in cells.items()}
    for name in sorted(set(protocols.values())):
        own = {column: norms for column, norms in cells.items() if protocols[column] == name}
        shown = dict.fromkeys([*PROTOCOLS[name].leading_metrics, *_measured_inside(own)])
        others = [other for other in shown if other != metric and scenarios_of(other, scenarios)]
        tables += [build_table(own, other, scenarios=scenarios) for other in others]
    return tables


def _measured_inside(cells: Cells) -> list[str]:
    """The metrics of evaluations inside the stream that some run has."""
    runs = [run for norms in cells.values() for cell in norms.values() for run in cell.runs.values()]
    metrics = [run.metrics["class_il"] for run in runs if run.known_result.points]
    names = [name for name, metric in METRICS.items() if metric.needs in (INSIDE, INSIDE_TASKS)]
    return [name for name in names if any(found.get(name) is not None for found in metrics)]


def _published(cell: Cell | None, row: str, metric: str) -> PublishedFigure | None:
    return find(values_of(next(iter(cell.runs.values()))), row, metric) if cell and cell.runs else None


class PairedTest(NamedTuple):
    """A paired test; `key` is the same where the same runs are compared, as in columns that a layer stands in alike."""

    key: tuple = ()
    p: float | None = None

    @classmethod
    def of(cls, cell: Cell, other: Cell, scenario: str, metric: str) -> "PairedTest":
        """That of a metric in two cells, over their common seeds."""
        pair = (cell, other)
        runs = (tuple(sorted(str(run.folder) for run in each.runs.values())) for each in pair)
        return cls((scenario, *runs), paired_p(*(each.values(scenario, metric) for each in pair)))


def adjust(tests: Iterable[PairedTest]) -> dict[tuple, float]:
    """The p of each test by its key, after Holm correction over all of them; the same test counts once."""
    return holm({test.key: test.p for test in tests if test.p is not None})


def _tests(
    cells: Cells, columns: Iterable[ScenarioColumn], metric: str
) -> dict[tuple[str, ScenarioColumn], PairedTest]:
    """The tests against the baseline, by row and column."""
    tests = {}
    for column in columns:
        baseline = cells[column.column].get(BASELINE)
        if baseline is None:
            continue
        for row, cell in cells[column.column].items():
            if row != BASELINE:
                tests[row, column] = PairedTest.of(cell, baseline, column.scenario, metric)
    return tests


# -- The heads of the columns, in several lines -----------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """A line of the heads of some neighbouring columns.

    Attributes:
        text: the line.
        first: place of the first of them, counted from 0.
        num_columns: how many they are.
    """

    text: str
    first: int
    num_columns: int


def head_lines(table: Table) -> list[Lines]:
    """The lines of each column's head: dataset, method, buffer, what else distinguishes the column, scenario.

    All have as many lines; one that would be empty in all columns is left out.
    """
    found = [_head_of(table, column) for column in table.columns]
    kept = [any(lines) for lines in zip(*found, strict=True)]
    return [tuple(line for line, keep in zip(lines, kept, strict=True) if keep) for lines in found]


def _head_of(table: Table, column: ScenarioColumn) -> Lines:
    runs = column.column
    buffer = "" if runs.buffer_size is None else f"buffer {runs.buffer_size}"
    further = ", ".join(further_parts(runs, [other for other, _ in table.columns]))
    dataset, model = (shown(table.names, name or "") for name in (runs.dataset, runs.model))
    return dataset, model, buffer, further, table.scenario(column)


def shared_heads(columns: Sequence[Lines]) -> Iterator[list[Head]]:
    """Line by line, one head for neighbours that agree in it and in all lines above."""
    for number in range(1, len(columns[0]) + 1 if columns else 0):
        places = groupby(range(len(columns)), key=lambda place: columns[place][:number])
        members = [(lines, list(found)) for lines, found in places]
        yield [Head(lines[-1], found[0], len(found)) for lines, found in members]
