"""One summary run of a grid at Weights & Biases: its tables and plots, beside the runs.

Runs go to a project per dataset unless one is typed, and so does the summary: there is one in each project that the
runs of the grid are in. Its id comes from the two names, so that a grid that is launched again updates it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from utils.records.trackers import Summary, mode_in_force, run_settings, send_summaries
from utils.report.captions import caption, missing
from utils.report.report import Report
from utils.report.tables import PLAIN, SCENARIOS, Cells, ScenarioColumn, Table, column_title

_FIGURES = ("norm", "column", "scenario", "metric", "mean", "std", "n", "p_holm", "published")


class Tracking(Protocol):
    """What of a run's configuration says where it is tracked."""

    wandb_mode: str
    wandb_entity: str | None
    wandb_project: str | None


def send_summary(report: Report, tracking: Tracking, say: Callable[[str], None]) -> None:
    """Make or update the summary of a group if its runs are tracked.

    A failure of wandb is one line; it is waited for as long as for the end of a run, once per project.

    Args:
        report: of the group.
        tracking: the configuration of any run of the grid.
        say: prints one line.
    """
    mode = mode_in_force(tracking.wandb_mode, say)
    if mode is None:
        return
    shared = {"mode": mode, "entity": tracking.wandb_entity, "folder": report.folder}
    summaries = []
    for project, own in sorted(by_project(report.cells, tracking.wandb_project).items()):
        tables = (report.table, *report.further_tables)
        narrowed = [table.narrow(column for column in table.columns if column[0] in own) for table in tables]
        narrowed = [table for table in narrowed if table.columns]
        settings = _settings(report.group, project, own, narrowed[0], shared)
        summaries.append((settings, summarise(narrowed, _plots(report, own))))
    if summaries and send_summaries(summaries, say):
        projects = ", ".join(settings["project"] for settings, _ in summaries)
        say(f"Weights & Biases: the run `{_name(report.group)}` of {projects} has the table and the plots ({mode})")


def by_project(cells: Cells, typed: str | None) -> dict[str, Cells]:
    """The columns by the project that their runs are in, without projects that have no complete run yet."""
    projects: dict[str, dict] = defaultdict(dict)
    for column, norms in cells.items():
        projects[typed or column.dataset or ""][column] = norms
    return {
        project: own
        for project, own in projects.items()
        if any(cell.runs for norms in own.values() for cell in norms.values())
    }


def summarise(tables: Sequence[Table], plots: Mapping[str, bytes]) -> Summary:
    """Each table as it is printed, all its figures as numbers, and the plots."""
    shown = {f"table/{table.metric}": _as_printed(table) for table in tables}
    shown["figures"] = list(_FIGURES), [row for table in tables for row in _as_numbers(table)]
    return Summary(shown, {f"plots/{title}": image for title, image in plots.items()})


def _settings(group: str, project: str, cells: Cells, table: Table, shared: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(f"{_name(group)} in {project}".encode(errors="backslashreplace")).hexdigest()
    runs = [run for norms in cells.values() for cell in norms.values() for run in cell.runs.values()]
    return run_settings(
        project=project,
        name=_name(group),
        group="summary",
        job_type="summary",
        run_id=digest[:16],
        tags=[group],
        notes="\n".join([caption(table), *missing(table)]),
        config={"group": group, "rows": list(table.rows), "seeds": sorted({run.values["seed"] for run in runs})},
        **shared,
    )


def _name(group: str) -> str:
    return f"summary of {group}"


def _as_printed(table: Table) -> tuple[list[str], list[list[str]]]:
    titles = ["norm", "settings", *(_title(table, column) for column in table.columns)]
    rows = [
        [row, str(table.tried(row)), *(entry.text(PLAIN, table.num_seeds) for entry in table.row(row))]
        for row in table.rows
    ]
    return titles, rows


def _title(table: Table, column: ScenarioColumn) -> str:
    return f"{table.title(column)} {SCENARIOS[column[1]]}"


def _as_numbers(table: Table) -> list[list[Any]]:
    rows = []
    for row, column, entry in table.entries_in_order:
        published = entry.published.value if entry.published else None
        numbers = [entry.mean, entry.std, entry.num_seeds, entry.p_holm, published]
        rows.append([row, table.title(column), column.scenario, table.metric, *numbers])
    return rows


def _plots(report: Report, cells: Cells) -> dict[str, bytes]:
    """The plots of these columns as PNG, by name; none if the report has no plots, for which it gives the reason."""
    if isinstance(report.plots, str):
        return {}
    titles = {column_title(column, report.cells) for column in cells}
    return {name: plot.png for name, plot in report.plots.items() if name.rpartition(" ")[0] in titles}
