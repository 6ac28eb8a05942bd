"""From records to a table that one can publish."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from utils.report.files import file_stem, write_bytes, write_text
from utils.report.frames import to_csv
from utils.report.latex import to_latex
from utils.report.report import Report

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
    yield write_text(report.folder / "report.html", _page(report))
    for name, plot in report.plots.items() if not isinstance(report.plots, str) else ():
        path = report.folder / "plots" / file_stem(name)
        yield write_bytes(path.with_name(f"{path.name}.pdf"), plot.pdf)
        yield write_bytes(path.with_name(f"{path.name}.svg"), plot.svg)


def _page(report: Report) -> str:
    from utils.report.html import to_html

    return to_html(
        report.group, report.runs, report.cells, report.frame, [report.table, *report.further_tables], report.plots
    )


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
