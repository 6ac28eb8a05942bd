"""Two groups or more side by side: figures, differences to the first one, and what was not the same."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config.command_line import typed_text
from utils.config.options import UNREPORTED_OPTIONS
from utils.config.registry import check_known
from utils.errors import UserError
from utils.records.collect import Run, collect
from utils.records.ledger import Axes, Ledger
from utils.records.metrics import METRICS
from utils.records.selection import Cell, Column, select
from utils.records.state import RunState
from utils.report import markdown
from utils.report.published import values_of
from utils.report.stats import mean_difference, mean_text, signed
from utils.report.tables import SCENARIOS, Cells, PairedTest, adjust, column_title, in_order

# What says nothing about results, and what a table's columns, rows and repetitions are known by.
NOT_COMPARED = UNREPORTED_OPTIONS | {"dataset", "model", "nl", "seed"}

_ENVIRONMENT = (
    *("suite", "torch", "python", "device", "cpu", "threads", "multiprocessors"),
    *("fused_norms", "norm_compiler"),
)
_NOT_SET = "not set"

CellKey = tuple[str, str]  # a column's title, a norm layer


# -- The groups -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """The records of a group, at least one of them complete.

    Attributes:
        name: its folder inside the results.
        runs: all records.
        cells: by column and norm layer.
        axes: the options of which its plan tries several values.
    """

    name: str
    runs: Sequence[Run]
    cells: Cells
    axes: Axes

    def cell(self, column: Column | None, norm: str) -> Cell | None:
        """The cell of a norm layer in a column, None where there is none."""
        return None if column is None else self.cells.get(column, {}).get(norm)


def read_groups(results_dir: Path, names: Sequence[str]) -> list[Group]:
    """The groups of these names.

    Raises:
        UserError: a group is unknown, named twice, or has no complete run.
    """
    plain = [str(Path(name)) for name in names]
    twice = next((name for name, number in Counter(plain).items() if number > 1), None)
    if twice is not None:
        raise UserError(f"group {twice!r} is named twice; name the groups to compare once each")
    runs = {name: _read_runs(results_dir, name) for name in plain}
    axes = {name: Ledger(results_dir / name).read_axes() for name in plain}
    found = [column for name in plain for column in select(runs[name], axes[name])]
    compared = {option for column in found for option, _ in column.compared}
    return [Group(name, runs[name], select(runs[name], axes[name], compared), axes[name]) for name in plain]


def _read_runs(results_dir: Path, name: str) -> list[Run]:
    if not results_dir.is_dir():
        raise UserError(f"there is no folder {results_dir}; name the folder of the records with --results_dir")
    if not (results_dir / name).is_dir():
        records = [path for depth in ("*", "*/*") for path in results_dir.glob(f"{depth}/*/config.json")]
        known = sorted({str(path.parent.parent.relative_to(results_dir)) for path in records})
        check_known(f"group in {results_dir}", [name], known)
    runs = collect(results_dir, name)
    if not any(run.state is RunState.COMPLETE for run in runs):
        counts = Counter(run.state for run in runs)
        found = ", ".join(f"{number} {status}" for status, number in sorted(counts.items())) or "no record"
        raise UserError(f"group {name!r} has no complete run to compare ({found}); run its grid first")
    return runs


# -- The comparison ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class MatchedColumn:
    """The same column in the tables of several groups, or a column of one group alone.

    Attributes:
        title: what it is called.
        columns: by group; columns of different groups may differ in what the title does not show.
    """

    title: str
    columns: Mapping[str, Column]

    def cells(self, groups: Sequence[Group], norm: str) -> dict[str, Cell]:
        """The cells of a norm layer, by group."""
        found = {group.name: group.cell(self.columns.get(group.name), norm) for group in groups}
        return {name: cell for name, cell in found.items() if cell is not None}


def to_markdown(groups: Sequence[Group], metric: str) -> str:
    """The comparison of two groups or more."""
    matched = match_columns(groups)
    shared = {(column, norm): cells for column, norm, cells in _all_cells(matched, groups) if len(cells) > 1}
    tests = dict(_tests(shared, groups, metric))
    adjusted = adjust(tests.values())
    p_values = {place: adjusted.get(test.key) for place, test in tests.items()}
    names = [group.name for group in groups]
    blocks = [f"# {markdown.escape(' and '.join(names))}", markdown.escape(_caption(names[0], metric, len(adjusted)))]
    for column in matched:
        blocks += _table(column, [norm for other, norm in shared if other is column], groups, metric, p_values)
    blocks += markdown.section("Options that differ", _options(shared, names))
    blocks += markdown.section("Data, code and hardware that differ", _facts(shared, names))
    blocks += markdown.section("Only in some groups", _unshared(matched, groups))
    blocks += markdown.section("Missing", _missing(matched, groups))
    return "\n\n".join(blocks) + "\n"


# -- Which cells are the same -----------------------------------------------------------------------------------------


def match_columns(groups: Sequence[Group]) -> list[MatchedColumn]:
    """The columns of all groups, each with the groups that have it.

    What is left over of several groups is one column all the same if dataset, method and buffer agree and no group has
    two of them: so groups that differ in their batch size, say, can be compared.
    """
    known = dict.fromkeys(column for group in groups for column in group.cells)
    having = {column: {group.name: column for group in groups if column in group.cells} for column in known}
    left: dict[tuple, list[dict[str, Column]]] = defaultdict(list)
    for column, columns in having.items():
        if len(columns) < len(groups):
            left[column.dataset, column.model, column.buffer_size].append(columns)
    found = [columns for columns in having.values() if len(columns) == len(groups)]
    for alike in left.values():
        names = [name for columns in alike for name in columns]
        is_one = len(set(names)) == len(names)
        found += [{name: column for columns in alike for name, column in columns.items()}] if is_one else alike
    matched = [MatchedColumn(_title(columns, found), columns) for columns in found]
    return sorted(matched, key=lambda column: column.title)


def _title(columns: Mapping[str, Column], matched: Sequence[Mapping[str, Column]]) -> str:
    """The title of a matched column, without what differs between the groups, which is said elsewhere."""
    agreed = [_agreed(other) for other in matched]
    return column_title(_agreed(columns), agreed)


def _agreed(columns: Mapping[str, Column]) -> Column:
    agreed = (values[0] if len(set(values)) == 1 else None for values in zip(*columns.values(), strict=True))
    column = Column._make(agreed)
    return column._replace(compared=column.compared or ())


def _all_cells(
    matched: Iterable[MatchedColumn], groups: Sequence[Group]
) -> Iterator[tuple[MatchedColumn, str, dict[str, Cell]]]:
    for column in matched:
        there = [group.cells.get(column.columns[group.name], {}) for group in groups if group.name in column.columns]
        norms = {norm for cells in there for norm in cells}
        for norm in in_order(norms):
            yield column, norm, column.cells(groups, norm)


# -- Figures ----------------------------------------------------------------------------------------------------------


def _tests(
    shared: Mapping[tuple[MatchedColumn, str], dict[str, Cell]], groups: Sequence[Group], metric: str
) -> Iterator[tuple[tuple, PairedTest]]:
    """The tests of every other group against the first one, cell by cell, each with its place."""
    first = groups[0].name
    for (column, norm), cells in shared.items():
        for scenario in SCENARIOS:
            for name in (name for name in cells if name != first and first in cells):
                yield (column, norm, scenario, name), PairedTest.of(cells[name], cells[first], scenario, metric)


def _table(
    column: MatchedColumn, norms: Sequence[str], groups: Sequence[Group], metric: str, p_values: Mapping
) -> list[str]:
    names = [group.name for group in groups]
    titles = ["norm", "scenario", *names]
    titles += [title for name in names[1:] for title in (f"{name} − {names[0]}", "p (Holm)")]
    lines = []
    for norm in norms:
        cells = column.cells(groups, norm)
        for scenario, scenario_title in SCENARIOS.items():
            values = {name: cells[name].values(scenario, metric) if name in cells else {} for name in names}
            if any(values.values()):
                tests = {name: p_values.get((column, norm, scenario, name)) for name in names[1:]}
                lines.append([norm, scenario_title, *map(mean_text, values.values()), *_against_first(values, tests)])
    return [f"## {markdown.escape(column.title)}", markdown.table(titles, lines)] if lines else []


def _against_first(values: Mapping[str, Mapping[int, float]], tests: Mapping[str, float | None]) -> list[str]:
    first = next(iter(values.values()))
    texts = []
    for name, p in tests.items():
        points, is_paired = mean_difference(values[name], first)
        mark = "" if is_paired or points is None else " (no common seed)"
        texts += ["–" if points is None else signed(points) + mark, "–" if p is None else f"{p:.2g}"]
    return texts


def _caption(first: str, metric: str, num_tests: int) -> str:
    compared = f"Differences to {first} are means over the common seeds."
    over = f"the {num_tests} tests in this comparison" if num_tests > 1 else "the one test in this comparison"
    tests = f"p is from a paired t-test over common seeds, after Holm correction for {over}."
    return " ".join([metric_sentence(metric), compared, *([tests] if num_tests else [])])


# -- What was not the same --------------------------------------------------------------------------------------------


def _options(shared: Mapping[tuple[MatchedColumn, str], dict[str, Cell]], names: Sequence[str]) -> list[str]:
    """Options whose values differ, with the cells in which they do."""
    options = {
        (column.title, norm): {name: _option_values(cell) for name, cell in cells.items() if cell.runs}
        for (column, norm), cells in shared.items()
    }
    return [
        f"{option}: {_by_group(values, names)} ({cells_text(keys, options)})"
        for (option, values), keys in sorted(_differing(options, names).items())
    ]


def _option_values(cell: Cell) -> dict[str, str]:
    """The options of a cell, which are the same for all its seeds, and how its setting was selected."""
    values = values_of(next(iter(cell.runs.values())))
    chosen = {"selection": f"{cell.selection} of {cell.num_settings} settings" if cell.selection else "no search"}
    return chosen | {name: plain_value(value) for name, value in values.items() if name not in NOT_COMPARED}


def _differing(options: Mapping[CellKey, Mapping[str, Mapping[str, str]]], names: Sequence[str]) -> dict:
    """Cells by option and its values in each group, where they differ."""
    found: dict[tuple[str, tuple], list[CellKey]] = defaultdict(list)
    for key, by_group in options.items():
        for option in sorted({option for values in by_group.values() for option in values}):
            values = tuple(by_group[name].get(option, _NOT_SET) if name in by_group else None for name in names)
            if len(set(values) - {None}) > 1:
                found[option, tuple(value or "" for value in values)].append(key)
    return found


def _by_group(values: Sequence[str], names: Sequence[str]) -> str:
    return ", ".join(f"{value} in {name}" for value, name in zip(values, names, strict=True) if value)


def _facts(shared: Mapping[tuple[MatchedColumn, str], dict[str, Cell]], names: Sequence[str]) -> list[str]:
    """Fingerprints, versions and hardware whose values differ between groups."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    kinds: dict[str, None] = {}
    for cells in shared.values():
        for name, cell in cells.items():
            for run in cell.runs.values():
                for kind, value in _facts_of(run):
                    kinds[kind] = None
                    found[kind, name].add(value)
    return [
        f"{kind}: {_by_group([' or '.join(sorted(found[kind, name])) for name in names], names)}"
        for kind in kinds
        if len({frozenset(found[kind, name]) for name in names if found[kind, name]}) > 1
    ]


def _facts_of(run: Run) -> Iterator[tuple[str, str]]:
    """Kinds of facts with their values: one that it went on with elsewhere has several."""
    if run.config is None:
        return
    for environment in run.config.environments:
        yield from ((name, str(environment[name])) for name in _ENVIRONMENT if environment.get(name) is not None)
    if run.config.data:
        yield f"data of {run.values['dataset']} (fingerprint)", run.config.data[:10]
    if run.config.plugins:
        yield "plug-in files (digests)", plain_value([digest[:10] for digest in run.config.plugins])


def _unshared(matched: Iterable[MatchedColumn], groups: Sequence[Group]) -> list[str]:
    """Cells that some groups have and others do not."""
    by_groups: dict[tuple[str, ...], list[CellKey]] = defaultdict(list)
    for column, norm, cells in _all_cells(matched, groups):
        if len(cells) < len(groups):
            by_groups[tuple(cells)].append((column.title, norm))
    return [f"{' and '.join(names)}: {cells_text(keys, ())}" for names, keys in by_groups.items()]


def _missing(matched: Iterable[MatchedColumn], groups: Sequence[Group]) -> list[str]:
    """Why figures are missing or rest on fewer seeds, and damaged records."""
    found = [
        f"{name}, {column.title}, {norm}: {cell.reason}"
        for column, norm, cells in _all_cells(matched, groups)
        for name, cell in cells.items()
        if cell.reason
    ]
    return [*found, *(f"{group.name}: {run.reason}" for group in groups for run in group.runs if not run.values)]


# -- In words, here and beside published figures ----------------------------------------------------------------------


def metric_sentence(metric: str) -> str:
    """What the figures are."""
    return f"{METRICS[metric].title}, in {METRICS[metric].unit}: mean ± sample standard deviation over n seeds."


def plain_value(value: Any) -> str:
    """An option's value as one would type it, nothing in words."""
    if isinstance(value, list | tuple):
        return ",".join(map(plain_value, value)) or "empty"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else typed_text(value) or "empty"


def cells_text(keys: Iterable[CellKey], of: Iterable[CellKey]) -> str:
    """Cells in words, `everywhere` where they are all there are.

    Args:
        keys: the cells.
        of: all cells that there are.
    """
    if set(keys) == set(of):
        return "everywhere"
    norms: dict[str, set[str]] = defaultdict(set)
    for title, norm in keys:
        norms[title].add(norm)
    return "; ".join(f"{title}: {', '.join(in_order(found))}" for title, found in sorted(norms.items()))
