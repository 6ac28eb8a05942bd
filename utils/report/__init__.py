"""From records to a table that one can publish."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from utils.record import write_atomically
from utils.report.collect import Run, collect
from utils.report.formats import to_csv, to_latex, to_markdown
from utils.report.norms import retuning_to_markdown
from utils.report.select import select
from utils.report.tables import Cells, build_further_tables, build_table


def write_report(results_dir: Path, group: str) -> Iterator[Path]:
    """Write `table.md`, `table.tex`, `table.csv` and `report.html` into the group's folder, from any records there are.

    Yields:
        Each path when its file is written: the tables need no plots, and need not wait for them.

    Raises:
        UserError: there is no such group.
        DiskError: the folder cannot be written.
    """
    runs = collect(results_dir, group)
    cells = select(runs)
    folder = results_dir / group
    table = build_table(cells, unreadable=[run.reason for run in runs if not run.values])
    yield _write(folder / "table.md", to_markdown(table) + retuning_to_markdown(cells))
    yield _write(folder / "table.tex", to_latex(table))
    tables = [table, *build_further_tables(cells)]
    yield _write(folder / "table.csv", to_csv(tables))
    yield _write(folder / "report.html", _page(group, runs, cells, tables))


def _page(group: str, runs: Sequence[Run], cells: Cells, tables: Sequence) -> str:
    from utils.report.html import to_html

    return to_html(group, runs, cells, tables, _plots(cells))


def _plots(cells: Cells) -> Mapping[str, bytes] | str:
    from utils.report.plots import make_plots

    try:
        return make_plots(cells)
    except ImportError as error:
        return f"There are no plots: {error}. Install matplotlib and write the report again."


def _write(path: Path, text: str) -> Path:
    # A folder's or a user's name may hold what UTF-8 cannot.
    encoded = text.encode("utf-8", errors="backslashreplace")
    write_atomically(path, lambda file: file.write(encoded))
    return path
