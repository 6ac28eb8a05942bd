"""The records of a group, each with what it can tell; a damaged one tells that, and never stops the others."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from utils.errors import UserError
from utils.metrics import summarise
from utils.record import Record

COMPLETE, DIVERGED, INCOMPLETE, DAMAGED = "complete", "diverged", "incomplete", "damaged"


@dataclass(frozen=True)
class Run:
    """One record.

    Attributes:
        folder: where it lies.
        values: the resolved options, empty if the configuration is damaged.
        status: `complete`, `diverged`, `incomplete` or `damaged`.
        reason: why there is no result, in one line; empty if there is one.
        metrics: as `utils.metrics.summarise` gives them from the counts; None without a result.
        command: the command line that it was started with.
    """

    folder: Path
    values: dict[str, Any]
    status: str
    reason: str = ""
    metrics: dict[str, Any] | None = None
    command: tuple[str, ...] = ()


def collect(results_dir: Path, group: str) -> list[Run]:
    """Every record of a group, in the order of its name.

    Raises:
        UserError: there is no such group.
    """
    folder = results_dir / group
    if not folder.is_dir():
        raise UserError(f"there is no {folder}; name the group with --group and its place with --results_dir")
    return [_read(path.parent) for path in sorted(folder.glob("*/config.json"))]


def _read(folder: Path) -> Run:
    record = Record(folder)
    try:
        config = record.read_config()
        values, command = dict(config["values"]), tuple(map(str, config["command"]))
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return Run(folder, {}, DAMAGED, f"damaged record {folder.name}")
    try:
        if record.complete:
            return Run(folder, values, COMPLETE, "", _metrics(record.read_result()), command)
        failure = record.read_failure()
    except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError, IndexError):
        return Run(folder, values, DAMAGED, f"damaged record {folder.name}", None, command)
    if failure:
        return Run(folder, values, DIVERGED, "diverged", None, command)
    return Run(folder, values, INCOMPLETE, "not complete", None, command)


def _metrics(result: dict[str, Any]) -> dict[str, Any]:
    """Computed again from the counts, so that a table does not depend on the version that wrote the record."""
    counts = {name: result["counts"][name] for name in ("class_il", "task_il", "total")}
    num_tasks = len(counts["total"])
    if any(len(matrix) != num_tasks or {len(row) for row in matrix} != {num_tasks} for matrix in counts.values()):
        raise ValueError("the counts are no square matrices of one size")
    return summarise(SimpleNamespace(untrained=result["untrained"], anytime=result["anytime"], **counts))
