"""The runs of a group, each with what its record can tell; a damaged one tells that, and never stops the others.

Runs that were planned and have no record tell by the group's ledger what became of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from utils.errors import UserError
from utils.records.ledger import Ledger, Planned
from utils.records.metrics import summarise
from utils.records.record import OtherVersion, Record, record_folders
from utils.records.state import RunState

_DAMAGE = (UserError, OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
_PLAIN = str | int | float | bool | None
_KINDS = {
    **dict.fromkeys(("dataset", "model", "backbone", "protocol", "buffer_mode", "forward", "notes"), str | None),
    **dict.fromkeys(("buffer_size", "epochs", "batch_size", "minibatch_size", "nf", "validation"), int | float | None),
}


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        folder: where its record lies, or would.
        values: the resolved options, empty if the configuration is damaged.
        state: how it stands by its record alone; `NOT_RUN` if it is planned and has none.
        reason: why there is no result, in one line; empty if there is one.
        metrics: as `utils.records.metrics.summarise` gives them from the counts; None without a result.
        command: the command line that it was started with.
        for_search: whether a search is all that it is for: its figure is not one of the table.
        is_planned: whether it is of a plan of its group, or the group has none.
        cause: the kind of error that keeps a damaged record from being read.
        environment: versions and hardware of a complete run, as far as its record tells them.
    """

    folder: Path
    values: dict[str, Any]
    state: RunState
    reason: str = ""
    metrics: dict[str, Any] | None = None
    command: tuple[str, ...] = ()
    for_search: bool = False
    is_planned: bool = True
    cause: type[Exception] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)


def collect(results_dir: Path, group: str) -> list[Run]:
    """Every run of a group that has a record or is planned, in the order of its name.

    Raises:
        UserError: there is no such group.
    """
    folder = results_dir / group
    if not folder.is_dir():
        raise UserError(f"there is no {folder}; name the group with --group and its place with --results_dir")
    planned, unreadable = _read_ledger(folder)
    runs = {each.name: read_run(each) for each in record_folders(folder)}
    runs |= {name: _without_record(folder / name, entry) for name, entry in planned.items() if name not in runs}
    told = [_with_outcome(run, planned.get(name)) for name, run in sorted(runs.items())]
    told = [replace(run, is_planned=not planned or run.folder.name in planned) for run in told]
    return [*told, *unreadable]


def of_no_cell(runs: Iterable[Run]) -> list[str]:
    """Which records belong to no cell, and why, a line each."""
    runs = list(runs)
    num_unplanned = sum(bool(run.values) and not run.is_planned for run in runs)
    records = f"{num_unplanned} record{'s' if num_unplanned != 1 else ''}"
    unplanned = [f"{records} of no plan of this group"] if num_unplanned else []
    return [*(run.reason for run in runs if not run.values), *unplanned]


def _read_ledger(folder: Path) -> tuple[Mapping[str, Planned], list[Run]]:
    """The planned runs, and a damaged plan in the place of a damaged record."""
    ledger = Ledger(folder)
    try:
        planned = ledger.read()
        for entry in planned.values():
            _sound(dict(entry.values))
    except (UserError, LookupError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, UserError) else f"{ledger.plan_path} is damaged"
        return {}, [Run(folder, {}, RunState.DAMAGED, reason)]
    return planned, []


def _without_record(folder: Path, entry: Planned) -> Run:
    return Run(folder, dict(entry.values), RunState.NOT_RUN, "not run", None, entry.command)


def _with_outcome(run: Run, entry: Planned | None) -> Run:
    """What the ledger adds to a run without a result."""
    if entry is None:
        return run
    run = replace(run, for_search=entry.for_search)
    if run.state.is_answer:
        return run
    if run.state is RunState.DAMAGED:
        return run if run.values else replace(run, values=dict(entry.values), command=entry.command)
    return replace(run, reason=f"{entry.outcome}: {entry.reason}") if entry.outcome else run


def read_run(folder: Path) -> Run:
    """One record, whatever state it is in."""
    record = Record(folder)
    try:
        config = record.read_config()
        values, command = _sound(config["values"]), tuple(map(str, config["command"]))
        environment = config.get("environment")
    except _DAMAGE as error:
        return Run(folder, {}, RunState.DAMAGED, _explain_damage(folder, error), cause=type(error))
    try:
        if record.complete:
            told = environment if isinstance(environment, dict) else {}
            metrics = _metrics(record.read_result())
            return Run(folder, values, RunState.COMPLETE, "", metrics, command, environment=told)
        failure = record.read_failure()
    except _DAMAGE as error:
        return Run(folder, values, RunState.DAMAGED, _explain_damage(folder, error), None, command, cause=type(error))
    if failure:
        return Run(folder, values, RunState.DIVERGED, "diverged", None, command)
    return Run(folder, values, RunState.STARTED, "not complete", None, command)


def _explain_damage(folder: Path, error: Exception) -> str:
    """In one line: a record of another version says so, of what a disk has damaged the name is enough."""
    return str(error) if isinstance(error, OtherVersion) else f"damaged record {folder.name}"


def _sound(values: dict[str, Any]) -> dict[str, Any]:
    """The options, if they are of the kinds that options have.

    Raises:
        KeyError, TypeError, AttributeError: they are not.
    """
    plain = (value for entry in values.values() for value in (entry if isinstance(entry, list) else [entry]))
    are_of_kind = all(isinstance(values.get(name), kind) for name, kind in _KINDS.items())
    is_run = isinstance(values["nl"], str) and type(values["seed"]) is int
    if not (are_of_kind and is_run and all(isinstance(value, _PLAIN) for value in plain)):
        raise TypeError("options of a kind that no option has")
    return values


def _metrics(result: dict[str, Any]) -> dict[str, Any]:
    """Computed again from the counts, so that a table does not depend on the version that wrote the record."""
    counts = {name: result["counts"][name] for name in ("class_il", "task_il", "total")}
    num_tasks = len(counts["total"])
    if any(len(matrix) != num_tasks or {len(row) for row in matrix} != {num_tasks} for matrix in counts.values()):
        raise ValueError("the counts are no square matrices of one size")
    if not all(_can_be(counts[name], counts["total"]) for name in ("class_il", "task_il")):
        raise ValueError("counts that no test set gives")
    return summarise(SimpleNamespace(untrained=result["untrained"], anytime=result["anytime"], **counts))


def _can_be(correct: list[list[int | None]], total: list[list[int | None]]) -> bool:
    pairs = [pair for rows in zip(correct, total, strict=True) for pair in zip(*rows, strict=True)]
    return all(some is None if number is None else number > 0 and 0 <= (some or 0) <= number for some, number in pairs)
