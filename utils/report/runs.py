"""The runs behind a table as a pandas frame, a row each: what they are, what they reached and what they took."""

from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.records.collect import Run
from utils.records.metrics import METRICS, SCENARIOS
from utils.records.record import Record
from utils.records.selection import COLUMN
from utils.report.tables import Cells, column_order, column_title, in_order

if TYPE_CHECKING:
    from pandas import DataFrame

_COSTS = ("seconds", "training_seconds", "host_megabytes", "device_megabytes", "processor", "threads", "record")


def make_frame(cells: Cells) -> "DataFrame":
    """The complete runs of the chosen settings, in the order of the table.

    The columns are the title of the table's column, the norm layer, what is in `COLUMN`, and the seed; each metric in
    each scenario, in percent, such as `class_il A_f`; seconds in all and in training, peak memory in MB, processor and
    threads, and the name of the record.
    """
    from pandas import DataFrame

    rows = [
        [column_title(column, cells), norm, *column, seed, *_metrics(run), *_costs(run)]
        for column in sorted(cells, key=column_order)
        for norm in in_order(cells[column])
        for seed, run in cells[column][norm].runs.items()
    ]
    metrics = [f"{scenario} {name}" for scenario in SCENARIOS for name in METRICS]
    frame = DataFrame(rows, columns=["column", "norm", *COLUMN, "seed", *metrics, *_COSTS])
    whole = [*COLUMN, "host_megabytes", "device_megabytes", "threads"]
    frame[whole] = frame[whole].convert_dtypes()  # a number that some runs lack stays a whole one
    return frame


def processor_of(run: Run) -> str | None:
    """What a run was computed on, None where its record does not tell."""
    device = run.environment.get("device")
    name = run.environment.get("cpu") if device == "cpu" else device
    return None if name is None else str(name)


def _metrics(run: Run) -> list[float | None]:
    return [run.metrics[scenario].get(name) for scenario in SCENARIOS for name in METRICS]


def _costs(run: Run) -> list[Any]:
    try:
        result = Record(run.folder).read_result()
    except (UserError, OSError):  # changed since it was collected
        result = {}
    seconds, memory = (_numbers(result.get(name)) for name in ("timings", "peak_memory"))
    return [
        sum(seconds.values()) if seconds else None,
        seconds.get("training_seconds"),
        *(round(memory[name] / 1e6) if name in memory else None for name in ("host_bytes", "device_bytes")),
        processor_of(run),
        _numbers(run.environment).get("threads"),
        run.folder.name,
    ]


def _numbers(found: Any) -> dict[str, float]:
    """What of a mapping is a number; a damaged one has none."""
    items = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in items if isinstance(value, int | float) and not isinstance(value, bool)}
