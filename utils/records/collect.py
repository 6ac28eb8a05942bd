"""The runs of a group, each with what its record holds; a damaged one is reported as such, and never stops the others.

For planned runs without a record, the group's ledger says what became of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.records.content import DamagedRecord, OtherVersion, RecordedConfig, Result, UnreadableRecord
from utils.records.ledger import Ledger, Planned
from utils.records.record import Record, record_folders
from utils.records.state import RunState


@dataclass(frozen=True)
class Run:
    """One run, as its files describe it.

    Attributes:
        folder: where its record lies, or would.
        values: the resolved options, empty if the configuration is damaged.
        state: how it stands (`read_run`).
        reason: why there is no result, in one line; empty if there is one.
        config: what its `config.json` holds; None if there is none, or none that can be read.
        result: what its `result.json` holds; None unless it is complete.
        command: the command line that it was started with.
        for_search: whether a search is all that it is for: its figure is not one of the table.
        is_planned: whether it is of a plan of its group, or the group has none.
        has_record: whether there is a folder of it.
    """

    folder: Path
    values: Mapping[str, Any]
    state: RunState
    reason: str = ""
    config: RecordedConfig | None = None
    result: Result | None = None
    command: tuple[str, ...] = ()
    for_search: bool = False
    is_planned: bool = True
    has_record: bool = True

    @property
    def known_config(self) -> RecordedConfig:
        """What `config.json` holds, of a run that has an answer and so has one."""
        assert self.config is not None
        return self.config

    @property
    def known_result(self) -> Result:
        """What `result.json` holds, of a complete run."""
        assert self.result is not None
        return self.result

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """The metrics by scenario, as `utils.records.metrics.summarise` gives them; empty without a result."""
        return self.result.metrics if self.result else {}

    @property
    def environment(self) -> Mapping[str, Any]:
        """Versions and hardware of its last start, as far as its record names them."""
        return self.config.environment if self.config else {}


def collect(results_dir: Path, group: str) -> list[Run]:
    """Every run of a group that has a record or is planned, in the order of its name.

    Raises:
        UserError: there is no such group.
    """
    folder = results_dir / group
    if not folder.is_dir():
        raise UserError(
            f"there is no {folder}; choose the group with --group and the folder of all groups with --results_dir"
        )
    try:
        planned, unreadable = Ledger(folder).read(), []
    except DamagedRecord as error:  # which stands in the place of a damaged record
        planned, unreadable = {}, [Run(folder, {}, RunState.DAMAGED, str(error))]
    names = sorted({each.name for each in record_folders(folder)} | planned.keys())
    runs = [read_run(folder / name, planned.get(name)) for name in names]
    return [*(replace(run, is_planned=not planned or run.folder.name in planned) for run in runs), *unreadable]


def of_no_cell(runs: Iterable[Run]) -> list[str]:
    """Which records are in no cell of a table, and why, a line each."""
    runs = list(runs)
    num_unplanned = sum(bool(run.values) and not run.is_planned for run in runs)
    records = f"{num_unplanned} record{'s' if num_unplanned != 1 else ''}"
    unplanned = [f"{records} in none of this group's plans"] if num_unplanned else []
    return [*(run.reason for run in runs if not run.values), *unplanned]


def read_run(folder: Path, planned: Planned | None = None) -> Run:
    """One run by what lies in its folder now, and by what its group's ledger adds where that is no answer.

    The state of a run is read here, for plans, tables and `status`; that a process is writing the folder
    (`Record.is_held`) is not looked at.
    """
    record = Record(folder)
    run = _read_files(folder, record.stamps())
    if run.state is RunState.NOT_RUN and record.started:
        run = replace(run, state=RunState.STARTED, reason="not complete")
    if planned is None:
        return run
    run = replace(run, for_search=planned.for_search)
    if not run.values:
        run = replace(run, values=planned.values, command=planned.command)
    if planned.outcome and run.state in (RunState.STARTED, RunState.NOT_RUN):
        run = replace(run, state=planned.outcome, reason=f"{planned.outcome}: {planned.reason}")
    return run


@lru_cache(maxsize=2**14)
def _read_files(folder: Path, stamps: tuple[tuple[int, ...], ...]) -> Run:
    """A run by its configuration, result and failure; a plan asks often, and it takes long for thousands."""
    record = Record(folder)
    is_complete, has_answer = record.complete, record.complete or record.diverged
    config, result, problem = None, None, None
    try:
        config = record.read_config()
        result = record.read_result() if is_complete else None
        if not is_complete and has_answer:
            record.read_failure()
        if has_answer and config is None:
            raise DamagedRecord("config.json is missing")
    except UnreadableRecord as error:
        problem = error
    run = Run(folder, config.values if config else {}, RunState.NOT_RUN, "not run", config)
    run = replace(run, command=config.command if config else (), has_record=any(stamps))
    if problem is not None:
        is_damaged = isinstance(problem, DamagedRecord)
        # What is damaged and was no answer is started anew; what another version has written is left to that one.
        state = RunState.STARTED if not has_answer else RunState.DAMAGED if is_damaged else RunState.UNREADABLE
        state = RunState.OTHER_VERSION if isinstance(problem, OtherVersion) else state
        return replace(run, state=state, reason=f"damaged record {folder.name}" if is_damaged else str(problem))
    if is_complete:
        return replace(run, state=RunState.COMPLETE, reason="", result=result)
    if has_answer:
        return replace(run, state=RunState.DIVERGED, reason="diverged")
    return replace(run, state=RunState.STARTED, reason="not complete") if config else run
