"""The table: rows norm layers, columns dataset x method x buffer x scenario; for people, for a paper, for programs.

No timings: the same records give the same bytes.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from utils.registry import NORMS
from utils.report.select import COLUMN, Cell
from utils.report.stats import holm, mean_and_std, paired_p

SCENARIOS = {"class_il": "Class-IL", "task_il": "Task-IL"}
BASELINE = "BN"
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Entry:
    """One figure of the table.

    Attributes:
        mean, std: percent over seeds; None where there are too few.
        num_seeds: complete seeds.
        is_best: no other layer of the column has a higher mean.
        p: of the paired test against BN; None where there is none.
        p_holm: adjusted over all tests of the table.
        cell: what it comes from.
    """

    mean: float | None
    std: float | None
    num_seeds: int
    is_best: bool
    p: float | None
    p_holm: float | None
    cell: Cell | None

    def text(self, bold: str, plus_minus: str, star: str) -> str:
        """`mean ± std`, in bold if best; a star for a significant difference, a dash without a figure."""
        if self.mean is None:
            return "–"
        figure = f"{self.mean:.2f}" + (f" {plus_minus} {self.std:.2f}" if self.std is not None else "")
        is_significant = self.p_holm is not None and self.p_holm < SIGNIFICANT
        return (bold.format(figure) if self.is_best else figure) + (star if is_significant else "")


@dataclass(frozen=True)
class Table:
    """All figures of one metric.

    Attributes:
        columns: (values of `select.COLUMN`, scenario).
        rows: norm layers.
        entries: by row and column.
        metric: its name in the records.
    """

    columns: tuple[tuple[tuple, str], ...]
    rows: tuple[str, ...]
    entries: Mapping[tuple[str, tuple[tuple, str]], Entry]
    metric: str


def build_table(cells: Mapping[tuple, Mapping[str, Cell]], metric: str = "A_f") -> Table:
    """Means, spreads and tests of every cell."""
    columns = tuple((column, scenario) for column in sorted(cells, key=str) for scenario in SCENARIOS)
    found = {norm for norms in cells.values() for norm in norms}
    order = [BASELINE, *(name for name in NORMS.names() if name != BASELINE)]
    rows = tuple(sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name)))
    tests = _tests(cells, columns, rows, metric)
    adjusted = holm({key: p for key, p in tests.items() if p is not None})
    entries = {}
    for column in columns:
        statistics = {row: _statistics(cells, row, column, metric) for row in rows}
        best = max((mean for mean, _, _ in statistics.values() if mean is not None), default=None)
        for row, (mean, std, number) in statistics.items():
            key = (row, column)
            is_best = mean is not None and mean == best
            cell = cells[column[0]].get(row)
            entries[key] = Entry(mean, std, number, is_best, tests.get(key), adjusted.get(key), cell)
    return Table(columns, rows, entries, metric)


def _statistics(cells: Any, row: str, column: tuple[tuple, str], metric: str) -> tuple[float | None, float | None, int]:
    cell = cells[column[0]].get(row)
    values = list(cell.values(column[1], metric).values()) if cell else []
    return (*mean_and_std(values), len(values))


def _tests(cells: Any, columns: Any, rows: Sequence[str], metric: str) -> dict[Any, float | None]:
    tests = {}
    for column in columns:
        norms, scenario = cells[column[0]], column[1]
        for row in rows:
            if row != BASELINE and row in norms and BASELINE in norms:
                values = (norms[name].values(scenario, metric) for name in (row, BASELINE))
                tests[row, column] = paired_p(*values)
    return tests


def _title(column: tuple[tuple, str], all_columns: Sequence[tuple[tuple, str]]) -> str:
    """Dataset, method and buffer, and further what tells this column from the others."""
    named = dict(zip(COLUMN, column[0], strict=True))
    parts = [named["dataset"], named["model"]]
    if named["buffer_size"] is not None:
        parts.append(str(named["buffer_size"]))
    for index, name in enumerate(COLUMN):
        differs = len({other[0][index] for other in all_columns}) > 1
        if differs and name not in ("dataset", "model", "buffer_size") and named[name] is not None:
            parts.append(f"{name} {named[name]}")
    return f"{' '.join(parts)} {SCENARIOS[column[1]]}"


def _tried(table: Table, row: str) -> int:
    cells = [table.entries[row, column].cell for column in table.columns]
    return max((cell.num_settings for cell in cells if cell), default=0)


def caption(table: Table) -> str:
    """What the figures are, in one paragraph."""
    forwards: dict[str, list[str]] = {}
    for row in table.rows:
        for forward in {entry.cell.forward for entry in _entries(table, row) if entry.cell and entry.cell.forward}:
            forwards.setdefault(forward, []).append(row)
    composition = "; ".join(f"{forward}: {', '.join(rows)}" for forward, rows in sorted(forwards.items()))
    seeds = sorted({entry.num_seeds for row in table.rows for entry in _entries(table, row) if entry.num_seeds})
    count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}" if seeds else "no"
    sentences = [f"{table.metric} in percent, mean ± sample standard deviation over {count} seed(s), best in bold."]
    if any(_tried(table, row) > 1 for row in table.rows):
        sentences.append(
            "Hyperparameters selected by Class-IL A_f on the data the runs were tested on (oracle), as the original "
            "study did; `settings` counts those tried."
        )
    sentences.append(f"\\* differs from {BASELINE}: paired t-test, Holm-corrected p < {SIGNIFICANT}.")
    if composition:
        sentences.append(f"Batches, current and memory rows in one forward or apart: {composition}.")
    return " ".join(sentences)


def _entries(table: Table, row: str) -> list[Entry]:
    return [table.entries[row, column] for column in table.columns]


def missing(table: Table) -> list[str]:
    """Why a figure is missing or rests on fewer seeds, a line each."""
    lines = []
    for column in table.columns[:: len(SCENARIOS)]:
        title = _title(column, table.columns).removesuffix(f" {SCENARIOS[column[1]]}")
        for row in table.rows:
            cell = table.entries[row, column].cell
            if cell is None or cell.reason:
                lines.append(f"{title}, {row}: {cell.reason if cell else 'not run'}")
    return lines


def to_markdown(table: Table) -> str:
    """For people."""
    titles = ["norm", "settings", *(_title(column, table.columns) for column in table.columns)]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for row in table.rows:
        figures = [entry.text("**{}**", "±", r" \*") for entry in _entries(table, row)]
        lines.append(f"| {' | '.join([row, str(_tried(table, row)), *figures])} |")
    notes = [f"- {line}" for line in missing(table)]
    return "\n".join([*lines, "", caption(table), *(["", "Missing:", "", *notes] if notes else [])]) + "\n"


def _escape(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text.replace("±", r"$\pm$").replace("–", "--")


def to_latex(table: Table) -> str:
    """For a paper, with booktabs."""
    titles = ["norm", "settings", *(_title(column, table.columns) for column in table.columns)]
    lines = [r"\begin{tabular}{l" + "r" * (len(titles) - 1) + "}", r"\toprule"]
    lines += [" & ".join(map(_escape, titles)) + r" \\", r"\midrule"]
    for row in table.rows:
        figures = [entry.text(r"\textbf{{{}}}", r"$\pm$", "$^*$").replace("–", "--") for entry in _entries(table, row)]
        lines.append(" & ".join([_escape(row), str(_tried(table, row)), *figures]) + r" \\")
    notes = [f"% {line}" for line in missing(table)]
    lines += [r"\bottomrule", r"\end{tabular}", f"% {caption(table)}", *notes]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """For programs: a line per figure."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    figures = ("metric", "mean", "std", "n", "p", "p_holm", "settings", "setting", "forward", "reason")
    writer.writerow(["norm", *COLUMN, "scenario", *figures])
    for column in table.columns:
        for row in table.rows:
            entry = table.entries[row, column]
            numbers = [_number(value) for value in (entry.mean, entry.std)]
            tests = [_number(value) for value in (entry.p, entry.p_holm)]
            cell = entry.cell
            setting = " ".join(f"{name}={value}" for name, value in cell.setting.items()) if cell else ""
            details = [cell.num_settings, setting, cell.forward or "", cell.reason] if cell else [0, "", "", "not run"]
            named = ["" if value is None else value for value in column[0]]
            writer.writerow([row, *named, column[1], table.metric, *numbers, entry.num_seeds, *tests, *details])
    return out.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
