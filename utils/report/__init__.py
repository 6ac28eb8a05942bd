"""From records to a table that one can publish."""

from collections.abc import Callable
from pathlib import Path

from utils.record import write_atomically
from utils.report.collect import collect
from utils.report.select import select
from utils.report.tables import Table, build_table, to_csv, to_latex, to_markdown

_WRITERS: dict[str, Callable[[Table], str]] = {"md": to_markdown, "tex": to_latex, "csv": to_csv}


def write_report(results_dir: Path, group: str) -> list[Path]:
    """Write `table.md`, `table.tex` and `table.csv` into the group's folder, from whatever records there are.

    Raises:
        UserError: there is no such group.
        DiskError: the folder cannot be written.
    """
    table = build_table(select(collect(results_dir, group)))
    paths = []
    for ending, writer in _WRITERS.items():
        path = results_dir / group / f"table.{ending}"
        text = writer(table).encode()
        write_atomically(path, lambda file, text=text: file.write(text))
        paths.append(path)
    return paths
