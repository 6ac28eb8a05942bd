"""From records to a table that one can publish, and to a comparison."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import DiskError
from utils.records.metrics import MAIN_METRIC
from utils.records.record import write_atomically
from utils.report.frames import to_csv
from utils.report.latex import to_latex
from utils.report.names import comparison_file, file_stem, printable
from utils.report.report import Report, check_metric

if TYPE_CHECKING:
    from rich.console import Console


def write_report(report: Report) -> Iterator[Path]:
    """Write the tables, the page and the plots. As `write_tables` and `write_page`."""
    yield from write_tables(report)
    yield from write_page(report)


def write_tables(report: Report) -> Iterator[Path]:
    """Write `table.md`, `table.tex`, `table.csv` and `runs.csv` into the group's folder.

    Yields:
        Each path when its file is written.

    Raises:
        UserError: there is no such group.
        DiskError: the folder cannot be written.
    """
    yield write_text(report.folder / "table.md", report.markdown)
    yield write_text(report.folder / "table.tex", to_latex(report.table, report.group))
    yield write_text(report.folder / "table.csv", to_csv([report.table, *report.further_tables]))
    runs = report.frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    yield write_text(report.folder / "runs.csv", runs)


def write_page(report: Report) -> Iterator[Path]:
    """Write `report.html` and `plots/` into the group's folder, which takes seconds.

    Yields, Raises:
        As `write_tables`.
    """
    from utils.report.html import to_html

    yield write_text(report.folder / "report.html", to_html(report))
    for name, plot in report.plots.items() if not isinstance(report.plots, str) else ():
        path = report.folder / "plots" / file_stem(name)
        yield _write_bytes(path.with_name(f"{path.name}.pdf"), plot.pdf)
        yield _write_bytes(path.with_name(f"{path.name}.svg"), plot.svg)


def make_comparison(results_dir: Path, groups: Sequence[str], metric: str = MAIN_METRIC) -> tuple[str, Path]:
    """A comparison as Markdown, and its path: in the first group's folder, named after what is compared.

    Args:
        results_dir: where the records are.
        groups: one, which is compared with the published figures, or several, which are compared with the first.
        metric: its name in the records, such as A_f.

    Raises:
        UserError: a group or the metric is unknown, or has nothing to compare.
    """
    from utils.report import compare_groups, compare_published

    found = compare_groups.read_groups(results_dir, groups)
    check_metric([run for group in found for run in group.runs], metric)
    first, *others = found
    text = compare_groups.to_markdown(found, metric) if others else compare_published.to_markdown(first, metric)
    return printable(text), results_dir / first.name / comparison_file([group.name for group in others], metric)


def write_text(path: Path, text: str) -> Path:
    """Write a file whole or not at all, in a folder that is made if need be, and give its path.

    Raises:
        DiskError: the folder cannot be written.
    """
    return _write_bytes(path, printable(text).encode("utf-8"))


def _write_bytes(path: Path, content: bytes) -> Path:
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot make {path.parent}: {error.strerror}") from error
    write_atomically(path, lambda file: file.write(content))
    return path


def show(report: Report) -> None:
    """Print the main table: drawn on a terminal, as Markdown elsewhere, or where rich is not installed.

    Raises:
        UserError: there is no such group.
    """
    console = _find_terminal()
    if console is None:
        print(report.markdown, flush=True)
        return
    from utils.report.terminal import show_on

    show_on(console, report)


def _find_terminal() -> "Console | None":
    """The standard output, if it is a terminal that can show a table's best figures as such."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console()
    return None if console.is_dumb_terminal else console
