"""Groups side by side, or one beside the published figures; and what both kinds of comparison share."""

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config.options import TELLING_NOTHING
from utils.errors import UserError
from utils.records.collect import Run, collect
from utils.records.ledger import Axes, Ledger
from utils.records.metrics import MAIN_METRIC, METRICS
from utils.records.selection import Cell, Column, select
from utils.records.state import RunState
from utils.report.files import digest, printable
from utils.report.stats import mean_and_std
from utils.report.tables import Cells, in_order

# What tells nothing, and what a table's columns, rows and repetitions are known by.
NOT_COMPARED = TELLING_NOTHING | {"dataset", "model", "nl", "seed"}

_LITERATURE = "published"  # in the place of the other groups' names
_LONGEST = 100  # characters of what is compared in a file's name

Place = tuple[str, str]  # a column's title, a norm layer


def make_comparison(results_dir: Path, groups: Sequence[str], metric: str = MAIN_METRIC) -> tuple[str, Path]:
    """A comparison, and where it is to be written: into the first group's folder, under a name for what is compared.

    Args:
        results_dir: where the records are.
        groups: one, which is held against the literature, or several, which are held against the first of them.
        metric: its name in the records, such as A_f.

    Raises:
        UserError: a group or the metric is unknown, or has nothing to compare.
    """
    from utils.report import compare_groups, compare_published

    found = read_groups(results_dir, groups)
    check_metric([run for group in found for run in group.runs], metric)
    first, *others = found
    text = compare_groups.to_markdown(found, metric) if others else compare_published.to_markdown(first, metric)
    return printable(text), results_dir / first.name / file_name([group.name for group in others], metric)


def file_name(others: Sequence[str], metric: str = MAIN_METRIC) -> str:
    """Such as `compare-published.md`, `compare-a+b.md` or, of another metric, `compare-a.forgetting.md`.

    No two comparisons of a group share a name: what a file name cannot hold or would confuse is told apart by a digest.

    Args:
        others: the groups that the first one is compared with; none: the literature.
        metric: its name in the records.
    """
    compared = "+".join(map(_part, others)) or _LITERATURE
    compared = compared if len(compared) <= _LONGEST else f"{compared[:_LONGEST]}~{digest(compared)}"
    return f"compare-{compared}{'' if metric == MAIN_METRIC else f'.{metric}'}.md"


def _part(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]+", name) and name != _LITERATURE:
        return name
    return f"{re.sub('[^A-Za-z0-9_-]+', '-', name)}~{digest(name)}"


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
    if not (results_dir / name).is_dir():
        raise UserError(_explain_unknown(results_dir, name))
    runs = collect(results_dir, name)
    if not any(run.state is RunState.COMPLETE for run in runs):
        counts = Counter(run.state for run in runs)
        found = ", ".join(f"{number} {status}" for status, number in sorted(counts.items())) or "no record"
        raise UserError(f"group {name!r} has no complete run to compare ({found}); run its grid first")
    return runs


def _explain_unknown(results_dir: Path, name: str) -> str:
    if not results_dir.is_dir():
        return f"there is no folder {results_dir}; name the place of the records with --results_dir"
    known = sorted({str(path.parent.parent.relative_to(results_dir)) for path in _configurations(results_dir)})
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown group {name!r} in {results_dir}.{hint} Known: {', '.join(known) or 'none'}."


def _configurations(results_dir: Path) -> list[Path]:
    return [path for depth in ("*", "*/*") for path in results_dir.glob(f"{depth}/*/config.json")]


def check_metric(runs: Sequence[Run], metric: str) -> None:
    """Raises UserError if a metric is unknown, or measured in no run."""
    found = [
        (name, value)
        for run in runs
        for metrics in run.metrics.values()
        for name, value in metrics.items()
        if not isinstance(value, list)
    ]
    names = list(dict.fromkeys(name for name, _ in found))
    if metric not in names:
        by_key = {name.casefold(): name for name in names}
        close = difflib.get_close_matches(metric.casefold(), by_key, n=1)
        hint = f" Did you mean {by_key[close[0]]!r}?" if close else ""
        raise UserError(f"unknown --metric {metric!r}.{hint} Known: {', '.join(names)}.")
    if not any(name == metric and value is not None for name, value in found):
        hint = f"; a run with {METRICS[metric].needs} measures it" if METRICS[metric].needs else ""
        raise UserError(f"--metric {metric} was measured in no run{hint}")


def metric_sentence(metric: str) -> str:
    """What the figures are."""
    return f"{METRICS[metric].title}, in {METRICS[metric].unit}: mean ± sample standard deviation over n seeds."


def figure(values: Mapping[int, float]) -> str:
    """`mean ± std (n)` of values by seed."""
    mean, std = mean_and_std(list(values.values()))
    if mean is None:
        return "–"
    spread = f" ± {std:.2f}" if std is not None else ""
    return _with_minus(f"{mean:.2f}{spread} ({len(values)})")


def signed(difference: float) -> str:
    """Percentage points with their sign."""
    return _with_minus(f"{round(difference, 2) + 0.0:+.2f}")  # never −0.00


def _with_minus(text: str) -> str:
    return text.replace("-", "−")


def plain_value(value: Any) -> str:
    """An option's value as one would type it."""
    if isinstance(value, list | tuple):
        return ",".join(map(plain_value, value)) or "empty"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or "empty"


def places_text(places: Iterable[Place], of: Iterable[Place]) -> str:
    """Cells in words, `everywhere` where they are all there are.

    Args:
        places: the cells.
        of: all cells that there are.
    """
    if set(places) == set(of):
        return "everywhere"
    norms: dict[str, set[str]] = defaultdict(set)
    for title, norm in places:
        norms[title].add(norm)
    return "; ".join(f"{title}: {', '.join(in_order(found))}" for title, found in sorted(norms.items()))
