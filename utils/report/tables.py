"""The figures of a table: rows norm layers, columns dataset x method x buffer x scenario.

No timings: the same records give the same figures.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from types import MappingProxyType
from typing import Any

from utils.config.protocols import PROTOCOLS
from utils.config.registry import NORMS
from utils.config.variants import find_variant
from utils.records.metrics import MAIN_METRIC, METRICS
from utils.records.selection import COLUMN, Cell
from utils.report.names import shown
from utils.report.published import Figure, find, values_of
from utils.report.stats import SAME, holm, mean_and_std, paired_p

SCENARIOS = {"class_il": "Class-IL", "task_il": "Task-IL"}
BASELINE = "BN"
SIGNIFICANT = 0.05
DEFAULT_PROTOCOL = "online"
_TITLE = ("dataset", "model", "buffer_size")

Cells = Mapping[tuple, Mapping[str, Cell]]
Lines = tuple[str, ...]  # of the head of a column
Column = tuple[tuple, str]  # values of `selection.COLUMN`, scenario


@dataclass(frozen=True)
class Style:
    """How a format writes a figure; `bold` holds `{}` where the figure goes."""

    bold: str
    plus_minus: str
    star: str
    minus: str
    dash: str


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
    published: Figure | None = None

    @property
    def deviation(self) -> float | None:
        """Percentage points above the published figure."""
        return None if self.published is None or self.mean is None else self.mean - self.published.value

    def text(self, style: Style, expected_seeds: int) -> str:
        """`mean ± std`, bold if best, a star for a significant difference, n where it is below the expected one."""
        if self.mean is None:
            return style.dash
        figure = _signed(f"{self.mean:.2f}", style)
        figure += f" {style.plus_minus} {self.std:.2f}" if self.std is not None else ""
        is_significant = self.p_holm is not None and self.p_holm < SIGNIFICANT
        count = f" (n = {self.num_seeds})" if self.num_seeds < expected_seeds else ""
        return (style.bold.format(figure) if self.is_best else figure) + (style.star if is_significant else "") + count

    def published_text(self, style: Style) -> str:
        """The published figure and how far ours is above it, such as `38.46 (−1.20)`; empty where there is none."""
        if self.published is None or self.deviation is None:
            return ""
        return _signed(f"{self.published.value:.2f} ({self.deviation:+.2f})", style)


def _signed(number: str, style: Style) -> str:
    return number.replace("-", style.minus)


@dataclass(frozen=True)
class Table:
    """All figures of one metric.

    Attributes:
        columns: (values of `selection.COLUMN`, scenario).
        rows: norm layers.
        entries: by row and column.
        metric: its name in the records.
        unreadable: of each record too damaged to belong to a cell, what is wrong.
        names: what readers see in place of the names of datasets, methods, norm layers and scenarios.
    """

    columns: tuple[Column, ...]
    rows: tuple[str, ...]
    entries: Mapping[tuple[str, Column], Entry]
    metric: str
    unreadable: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_seeds(self) -> int:
        """Seeds of the fullest cell."""
        return max((entry.num_seeds for entry in self.entries.values()), default=0)

    def row(self, name: str) -> list[Entry]:
        """The entries of a norm layer, in the order of the columns."""
        return [self.entries[name, column] for column in self.columns]

    def tried(self, name: str) -> int:
        """The most settings that were tried of a norm layer in one cell."""
        return max((entry.cell.num_settings for entry in self.row(name) if entry.cell), default=0)

    def title(self, column: Column) -> str:
        """A column's title, without its scenario."""
        return column_title(column[0], [other for other, _ in self.columns], self.names)

    def scenario(self, column: Column) -> str:
        """The title of a column's scenario."""
        return self.names.get(column[1], SCENARIOS[column[1]])

    def show(self, name: str) -> str:
        """What a reader sees for the name of a norm layer or a method."""
        return shown(self.names, name)

    def narrow(self, columns: Iterable[Column]) -> "Table":
        """Some columns of the table; its tests stay corrected over all of it."""
        kept = tuple(columns)
        rows = tuple(row for row in self.rows if any(self.entries[row, column].cell for column in kept))
        return replace(self, columns=kept, rows=rows)


def column_order(column: tuple) -> list:
    """Sorts columns by their values: none first, numbers as numbers, then words."""
    return [(value is not None, isinstance(value, str), value) for value in column]


def column_title(column: tuple, columns: Iterable[tuple], names: Mapping[str, str] = MappingProxyType({})) -> str:
    """Dataset, method and buffer; epochs where others have other ones; then what else tells this column apart."""
    named = dict(zip(COLUMN, column, strict=True))
    parts = [shown(names, named[name]) for name in _TITLE if named[name] is not None]
    return " ".join([*parts, *further_parts(column, columns)])


def further_parts(column: tuple, columns: Iterable[tuple]) -> list[str]:
    """What of a title comes after dataset, method and buffer, such as `epochs 50`."""
    named = dict(zip(COLUMN, column, strict=True))
    others = [dict(zip(COLUMN, other, strict=True)) for other in columns]
    alike = [other for other in others if all(other[name] == named[name] for name in _TITLE)]
    parts = []
    for name in COLUMN:
        if name in _TITLE or named[name] is None:
            continue
        rivals = others if name == "epochs" else alike
        differs = name != "validation" and len({other[name] for other in rivals}) > 1
        if differs or (name == "validation" and named[name]):
            parts.append(str(named[name]) if name == "variant" else f"{name} {named[name]}")
    return parts


def tested_on(share: float | None) -> str:
    """The data that runs with this share of the training data held out are tested on."""
    return "held-out training data" if share else "test data"


def protocol_of(norms: Mapping[str, Cell]) -> str:
    """The protocol that a column's runs followed."""
    names = (cell.protocol for cell in norms.values())
    return next((name for name in names if name in PROTOCOLS), DEFAULT_PROTOCOL)


def build_table(
    cells: Cells, metric: str = MAIN_METRIC, unreadable: Sequence[str] = (), scenarios: Sequence[str] = tuple(SCENARIOS)
) -> Table:
    """Means, spreads and tests of every cell."""
    columns = tuple((column, scenario) for column in sorted(cells, key=column_order) for scenario in scenarios)
    rows = in_order({norm for norms in cells.values() for norm in norms})
    tests = _tests(cells, columns, rows, metric)
    adjusted = holm({key: p for key, p in tests.items() if p is not None})
    entries = {}
    for column in columns:
        figures = {row: _figure(cells[column[0]].get(row), column[1], metric) for row in rows}
        best = _best([mean for mean, _, _ in figures.values() if mean is not None], metric)
        for row, (mean, std, number) in figures.items():
            key, cell = (row, column), cells[column[0]].get(row)
            published = _published(cell, row, column[1], metric)
            is_best = mean is not None and abs(mean - best) < SAME
            entries[key] = Entry(mean, std, number, is_best, tests.get(key), adjusted.get(key), cell, published)
    return Table(columns, rows, entries, metric, tuple(unreadable))


def build_further_tables(
    cells: Cells, metric: str = MAIN_METRIC, scenarios: Sequence[str] = tuple(SCENARIOS)
) -> list[Table]:
    """The leading metrics other than the main table's, by protocol: the columns of a table share one."""
    tables = []
    protocols = {column: protocol_of(norms) for column, norms in cells.items()}
    for name in sorted(set(protocols.values())):
        own = {column: norms for column, norms in cells.items() if protocols[column] == name}
        others = [other for other in PROTOCOLS[name].leading_metrics if other != metric]
        tables += [build_table(own, other, scenarios=scenarios) for other in others]
    return tables


def in_order(norms: Iterable[str]) -> tuple[str, ...]:
    """The baseline first, then as the registry has them, a variant after its layer, then others by name."""
    known = [BASELINE, *(name for name in NORMS.names() if name != BASELINE)]

    def place(name: str) -> tuple[int, str]:
        layer = find_variant(name).norm
        return known.index(layer) if layer in known else len(known), name

    return tuple(sorted(norms, key=place))


def _figure(cell: Cell | None, scenario: str, metric: str) -> tuple[float | None, float | None, int]:
    values = list(cell.values(scenario, metric).values()) if cell else []
    return (*mean_and_std(values), len(values))


def _best(means: list[float], metric: str) -> float | None:
    return (min if METRICS[metric].lower_is_better else max)(means, default=None)


def _published(cell: Cell | None, row: str, scenario: str, metric: str) -> Figure | None:
    if cell is None or not cell.runs or scenario != "class_il":
        return None
    return find(values_of(next(iter(cell.runs.values()))), row, metric)


def _tests(cells: Any, columns: Any, rows: Sequence[str], metric: str) -> dict[Any, float | None]:
    tests = {}
    for column in columns:
        norms, scenario = cells[column[0]], column[1]
        for row in rows:
            if row != BASELINE and row in norms and BASELINE in norms:
                values = (norms[name].values(scenario, metric) for name in (row, BASELINE))
                tests[row, column] = paired_p(*values)
    return tests


# -- The heads of the columns, in several lines ------------------------------------------------------------------------


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
    """Of each column the dataset, method, buffer, what else tells it apart, and scenario.

    All have as many lines; one that would be empty in all columns is left out.
    """
    found = [_head_of(table, column) for column in table.columns]
    kept = [any(lines) for lines in zip(*found, strict=True)]
    return [tuple(line for line, keep in zip(lines, kept, strict=True) if keep) for lines in found]


def _head_of(table: Table, column: Column) -> Lines:
    named = dict(zip(COLUMN, column[0], strict=True))
    buffer = "" if named["buffer_size"] is None else f"buffer {named['buffer_size']}"
    further = ", ".join(further_parts(column[0], [other for other, _ in table.columns]))
    dataset, model = (shown(table.names, named[name] or "") for name in ("dataset", "model"))
    return dataset, model, buffer, further, table.scenario(column)


def shared_heads(columns: Sequence[Lines]) -> Iterator[list[Head]]:
    """Line by line, one head for neighbours that agree in it and in all lines above."""
    for number in range(1, len(columns[0]) + 1 if columns else 0):
        places = groupby(range(len(columns)), key=lambda place: columns[place][:number])
        members = [(lines, list(found)) for lines, found in places]
        yield [Head(lines[-1], found[0], len(found)) for lines, found in members]
