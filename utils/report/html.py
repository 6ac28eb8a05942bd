"""What `report.html` shows, as plain data: the page itself is `report.html.j2`, in which every text is escaped."""

import base64
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.options import UNREPORTED_OPTIONS
from utils.config.variants import row_of
from utils.records.collect import Run
from utils.records.metrics import MAIN_METRIC, METRICS, fixed
from utils.records.state import RunState
from utils.report.captions import caption, chosen, gaps, lost, notes, setting_text, short_caption
from utils.report.plots import PLOTS, Plot
from utils.report.report import Report
from utils.report.stats import with_minus
from utils.report.tables import PLAIN, SCENARIOS, Entry, Table, column_title, head_lines, shared_heads, tested_on

if TYPE_CHECKING:
    from pandas import DataFrame

_COSTS = {
    "seconds": "time (s)",
    "host_megabytes": "peak memory (MB)",
    "device_megabytes": "peak GPU memory (MB)",
    "processor": "device",
    "threads": "threads",
}
_NOT_SHOWN = UNREPORTED_OPTIONS | {"seed"}


def to_html(report: Report) -> str:
    """The page, in which names are as papers write them; the command lines have the typed ones."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    runs, plots = report.runs, report.plots
    main, *further = (replace(each, names=report.published_names) for each in (report.table, *report.further_tables))
    states = [run.state for run in runs]
    footnotes = {reason: number for number, reason in enumerate(dict.fromkeys(gaps(main).values()), start=1)}
    return environment.get_template("report.html.j2").render(
        group=report.group,
        counts=[f"{states.count(state)} {state}" for state in sorted(set(states))],
        # The chosen settings have a section of their own.
        main=_table(main, footnotes, caption(main), known_notes=chosen(main)),
        # Of the same cells: they share the main table's footnotes and need not repeat its notes.
        further=[_table(table, footnotes, short_caption(table), notes(main)) for table in further],
        lost=lost(main),
        settings=list(_settings(main)),
        others=report.others_of_page,
        plots=[] if isinstance(plots, str) else [_plot(name, plot) for name, plot in plots.items()],
        plots_missing=plots if isinstance(plots, str) else "",
        runs=_runs(report, main),
        commands=_commands(report, main),
        options=_shared_options(runs),
        user_notes=sorted({str(run.values["notes"]) for run in runs if run.values.get("notes")}),
    )


def _table(table: Table, footnotes: Mapping[str, int], text: str, known_notes: Iterable[str]) -> dict[str, Any]:
    """A table of figures.

    Args:
        table: the figures.
        footnotes: the number of each reason why a figure is missing.
        text: its caption.
        known_notes: those that need no repeating.
    """
    reasons, known = gaps(table), set(known_notes)
    return {
        "title": METRICS[table.metric].title,
        # Neighbours that agree in a line and in all above share a head.
        "heads": list(shared_heads(head_lines(table))) or [[]],
        "rows": [
            {
                "title": table.show(row),
                "num_settings": table.tried(row),
                "cells": [
                    _cell(table, table.entries[row, column], reasons.get((row, column[0]), ""), footnotes)
                    for column in table.columns
                ],
            }
            for row in table.rows
        ],
        "caption": text.replace("`", ""),
        "reasons": list(footnotes),
        "notes": [note for note in notes(table) if note not in known],
    }


def _cell(table: Table, entry: Entry, reason: str, footnotes: Mapping[str, int]) -> dict[str, Any]:
    """A figure, and in its tooltip what is behind it, a line each."""
    lines = [f"n = {entry.num_seeds}"]
    if entry.cell and entry.cell.setting:
        lines.append(f"{setting_text(entry.cell.setting)}, best of {entry.cell.num_settings} ({entry.cell.selection})")
    if entry.cell and entry.cell.forward:
        lines.append(f"current and memory samples: {entry.cell.forward}")
    if entry.p is not None:
        lines.append(f"against BN: p = {entry.p:.3g}, after Holm correction {entry.p_holm:.3g}")
    if entry.published is not None:
        lines.append(f"published: {entry.published.source}")
    return {
        "text": entry.text(PLAIN, table.num_seeds),
        "is_best": entry.is_best,
        "published": entry.published_text(PLAIN),
        "footnote": footnotes.get(reason, ""),
        "tooltip": "\n".join([*lines, *([reason] if reason else [])]),
    }


def _settings(table: Table) -> Iterable[tuple]:
    """Which setting of a searched layer stands for it, and how it was selected."""
    for (row, column), cell in table.cells.items():
        if cell and cell.num_settings > 1:
            setting = setting_text(cell.setting) or "–"
            yield table.title_of(column), table.show(row), cell.num_settings, setting, cell.selection


def _runs(report: Report, table: Table) -> "DataFrame":
    """The main metric by seed, time and memory of every run, as texts under titles."""
    scenarios = dict.fromkeys(scenario for _, scenario in table.columns)
    titles = {"column": "column", "norm": "norm layer", "seed": "seed"}
    titles |= {f"{scenario} {table.metric}": f"{SCENARIOS[scenario]} {table.metric}" for scenario in scenarios}
    names = {
        "column": {column_title(column, report.cells): table.title_of(column) for column in report.cells},
        "norm": {row: table.show(row) for row in table.rows},
    }
    frame = report.frame.replace(names).reindex(columns=[*titles, *_COSTS])
    shown = frame.rename(columns=titles | _COSTS).dropna(axis="columns", how="all")
    return shown.astype(object).where(shown.notna(), "–").map(_text)


def _text(value: Any) -> str:
    return with_minus(fixed(value)) if isinstance(value, float) else str(value)


def _plot(name: str, plot: Plot) -> dict[str, str]:
    images = {"png": plot.png, "narrow": plot.narrow or b""}
    encoded = {size: base64.b64encode(image).decode("ascii") for size, image in images.items()}
    return {"name": name, "caption": f"{plot.title}. {PLOTS[name.rpartition(' ')[2]]}", **encoded}


def _commands(report: Report, table: Table) -> list[dict[str, Any]]:
    """The command line of every record, by row; those that a figure of the table rests on come first."""
    used = {
        run.folder: column for (_, column), cell in table.cells.items() for run in (cell.runs if cell else {}).values()
    }
    by_row: dict[str, list[Run]] = defaultdict(list)
    for run in report.runs:
        row = row_of(run.values) if run.values else "not in the table"
        by_row[row if row in table.rows else run.values.get("nl", row)].append(run)
    found = []
    for row in [*table.rows, *sorted(by_row.keys() - set(table.rows))]:
        behind = [(table.title_of(used[run.folder]), run) for run in by_row[row] if run.folder in used]
        others = [(run.reason or _why_unused(run), run) for run in by_row[row] if run.folder not in used]
        lines = [{"about": _about(text, run), "line": _line(run)} for text, run in [*behind, *others]]
        found.append({"title": table.show(row), "num_used": len(behind), "runs": lines})
    return found


def _why_unused(run: Run) -> str:
    if not run.is_planned:
        return "in none of this group's plans"
    return "run of the search" if run.values.get("validation") else "setting not selected"


def _about(text: str, run: Run) -> str:
    """What a run is, with its final Class-IL accuracy and on which data: that of a search is no result."""
    final = run.metrics.get("class_il", {}).get(MAIN_METRIC)
    tested = tested_on(run.values.get("validation"))
    return " · ".join(
        [text, run.folder.name, *([] if final is None else [f"final Class-IL {final:.2f} % on {tested}"])]
    )


def _line(run: Run) -> str:
    return shlex.join(run.command) or "no command line in the record"


def _shared_options(runs: Sequence[Run]) -> dict[str, Any]:
    """Options that all complete runs share; those that differ are in the tables and the command lines."""
    complete = [run.values for run in runs if run.state is RunState.COMPLETE]
    names = sorted({name for values in complete for name in values} - _NOT_SHOWN)
    shared = [name for name in names if len({str(values.get(name)) for values in complete}) == 1]
    return {name: complete[0][name] for name in shared if complete[0].get(name) not in (None, "", [])}
