"""For programs: the figures of tables as CSV, and the runs behind them as a pandas frame, a row each."""

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from utils.records.collect import Run
from utils.records.metrics import METRICS, SCENARIOS
from utils.records.selection import Column
from utils.report.captions import gaps, processor_of, setting_text
from utils.report.tables import Cells, Entry, Table, column_order, column_title, in_order, tested_on

if TYPE_CHECKING:
    from pandas import DataFrame

_CSV_FIGURES = ("metric", "mean", "std", "n", "p", "p_holm", "settings", "setting", "tried", "selection", "forward")
_CSV_PUBLISHED = ("published", "deviation", "published_source")
_COSTS = (
    "seconds",
    "training_seconds",
    "forward_equivalents_per_image",
    "forward_rows",
    "backward_rows",
    "host_megabytes",
    "device_megabytes",
    "processor",
    "threads",
    "record",
)


def to_csv(tables: Sequence[Table]) -> str:
    """For programs: a line per figure; p_holm is adjusted within each table."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["norm", *Column._fields, "tested_on", "scenario", *_CSV_FIGURES, *_CSV_PUBLISHED, "reason"])
    for table in tables:
        reasons = gaps(table)
        for row, (column, scenario), entry in table.entries_in_order:
            named = ["" if value is None else value for value in column.shown]
            figures = [table.metric, *_csv_figures(entry), *_csv_published(entry)]
            reason = reasons.get((row, column), "")
            writer.writerow([row, *named, tested_on(column.validation), scenario, *figures, reason])
    return out.getvalue()


def _csv_figures(entry: Entry) -> list:
    numbers = [_number(entry.mean), _number(entry.std), entry.num_seeds, _number(entry.p), _number(entry.p_holm)]
    if entry.cell is None:
        return [*numbers, 0, "", "", "", ""]
    return [
        *numbers,
        entry.cell.num_settings,
        setting_text(entry.cell.setting),
        setting_text(entry.cell.num_values),
        entry.cell.selection,
        entry.cell.forward or "",
    ]


def _csv_published(entry: Entry) -> list:
    if entry.published is None:
        return ["", "", ""]
    return [_number(entry.published.value), _number(entry.deviation), entry.published.source]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def make_frame(cells: Cells) -> "DataFrame":
    """The complete runs of the chosen settings, in the order of the table.

    The columns are the title of the table's column, the norm layer, what is in `Column`, and the seed; each metric in
    each scenario, in percent, such as `class_il A_f`; seconds in all and in training, what training cost in passes
    (`Result.forward_equivalents_per_image`), peak memory in MB, processor and threads, and the name of the record.
    """
    from pandas import DataFrame

    rows = [
        [
            *(column_title(column, cells), norm, *column.shown, seed),
            *(run.metrics[scenario].get(name) for scenario in SCENARIOS for name in METRICS),
            *_costs(run),
        ]
        for column in sorted(cells, key=column_order)
        for norm in in_order(cells[column])
        for seed, run in cells[column][norm].runs.items()
    ]
    metrics = [f"{scenario} {name}" for scenario in SCENARIOS for name in METRICS]
    frame = DataFrame(rows, columns=["column", "norm", *Column._fields, "seed", *metrics, *_COSTS])
    whole = [*Column._fields, "forward_rows", "backward_rows", "host_megabytes", "device_megabytes", "threads"]
    frame[whole] = frame[whole].convert_dtypes()  # a number that some runs lack stays a whole one
    return frame


def _costs(run: Run) -> list[Any]:
    result = run.known_result
    seconds, memory, cost = result.seconds, result.peak_memory, result.cost or {}
    return [
        sum(seconds.values()) if seconds else None,
        seconds.get("training"),
        result.forward_equivalents_per_image,
        *(cost.get(name) for name in ("forward_rows", "backward_rows")),
        *(round(memory[name] / 1e6) if name in memory else None for name in ("host_bytes", "device_bytes")),
        processor_of(run),
        run.environment.get("threads"),
        run.folder.name,
    ]
