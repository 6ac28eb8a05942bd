"""What a group's launchers have planned, and how the runs ended that have no result.

Both lie beside the records: `plan.json` names every planned run, written anew with each plan; `outcomes.jsonl` grows by
a line per run that failed or was stopped, of which the latest counts. A record, where there is one, says more and
comes first.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.locks import held
from utils.records.content import (
    SCHEMA_VERSION,
    DamagedRecord,
    load_json,
    mapping,
    option_values,
    text,
    texts,
)
from utils.records.record import LOCKS, write_atomically
from utils.records.state import RunState


@dataclass(frozen=True)
class Axes:
    """The options of which a plan tries several values.

    Attributes:
        searched: by name; of their values one is chosen.
        compared: by name; each value is a column of its own.
    """

    searched: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.searched, *self.compared)


@dataclass(frozen=True)
class Planned:
    """A run that a launcher was asked for.

    Attributes:
        values: its resolved options.
        command: its command line.
        outcome: `FAILED` or `STOPPED`, as it ended last; None if it never ended without a result.
        reason: why it ended so, in one line.
        for_search: whether a search is all that it is for: its seed is not among those of the table.
    """

    values: Mapping[str, Any]
    command: tuple[str, ...]
    outcome: RunState | None = None
    reason: str = ""
    for_search: bool = False


class Ledger:
    """The planned runs of a group, by the name of their folder.

    Args:
        folder: of the group.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.plan_path = folder / "plan.json"
        self.outcomes_path = folder / "outcomes.jsonl"

    def plan(self, runs: Mapping[str, Planned], axes: Axes | None = None, is_shared: bool = False) -> None:
        """Write a plan. Of the previous plan, the runs that have a folder stay.

        Args:
            runs: by the name of their folder.
            axes: what is tried; of several plans of a group the last one decides what is searched.
            is_shared: whether another launcher works on the group, so that all of the previous plan stays.

        Raises:
            DiskError: it cannot be written.
        """
        with self._hold():
            try:
                former = self.read()
            except DamagedRecord:
                former = {}
            kept = {name: run for name, run in former.items() if is_shared or (self._folder / name).is_dir()}
            self._write(kept | dict(runs), axes or Axes())

    def add(self, runs: Mapping[str, Planned]) -> None:
        """Add runs that follow from the results of others. Raises DiskError, DamagedRecord."""
        with self._hold():
            self._write(self.read() | dict(runs), self.read_axes())

    @contextlib.contextmanager
    def _hold(self) -> Iterator[None]:
        """Let one process at a time, on any node, change the files; where no lock is possible, the write fails too."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                stack.enter_context(held(self._folder / LOCKS / f"{self.plan_path.name}.lock"))
            yield

    def note(self, name: str, outcome: RunState, reason: str) -> None:
        """Note how a run ended without a result. Raises OSError."""
        line = json.dumps({"run": name, "outcome": outcome, "reason": reason})
        with self._hold(), self.outcomes_path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}")  # on a line of its own, whatever a crash has left behind

    def read(self) -> dict[str, Planned]:
        """Every planned run, none if nothing was planned.

        Raises:
            DamagedRecord: the plan cannot be read.
        """
        try:
            content = load_json(self.plan_path.read_bytes())
            schema = content.get("schema")
            runs = _planned_runs(content) if schema == SCHEMA_VERSION else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            raise DamagedRecord(f"{self.plan_path} is damaged; the next plan of this group rewrites it") from None
        if schema != SCHEMA_VERSION:
            what = f"has schema {schema}, this version reads {SCHEMA_VERSION}"
            raise DamagedRecord(f"{self.plan_path} {what}; the next plan of this group rewrites it")
        for name, outcome, reason in self._outcomes():
            if name in runs:
                runs[name] = replace(runs[name], outcome=outcome, reason=reason)
        return runs

    def read_axes(self) -> Axes:
        """What the latest plan tries several values of; nothing where there is none, or none that can be read."""
        try:
            axes = mapping(load_json(self.plan_path.read_bytes()).get("axes"))
            return Axes(*(texts(axes.get(name)) for name in ("searched", "compared")))
        except (OSError, ValueError):
            return Axes()

    def _outcomes(self) -> list[tuple[str, RunState, str]]:
        """The notes that can be read, in their order; a line that a crash has cut is left out."""
        try:
            lines = self.outcomes_path.read_bytes().splitlines()
        except OSError:
            return []
        return [note for note in map(_read_note, lines) if note is not None]

    def _write(self, runs: Mapping[str, Planned], axes: Axes) -> None:
        shared = _shared([run.values for run in runs.values()])
        content = {
            "schema": SCHEMA_VERSION,
            "axes": {"searched": list(axes.searched), "compared": list(axes.compared)},
            "shared": shared,
            "runs": {
                name: {
                    "values": {key: value for key, value in run.values.items() if key not in shared},
                    "command": list(run.command),
                    "for_search": run.for_search,
                }
                for name, run in runs.items()
            },
        }
        write_atomically(self.plan_path, lambda file: file.write(json.dumps(content).encode()))


def _planned_runs(content: Mapping[str, Any]) -> dict[str, Planned]:
    """Raises ValueError if one is damaged."""
    shared, planned = mapping(content.get("shared")), {}
    for name, run in mapping(content.get("runs")).items():
        values = option_values({**shared, **mapping(mapping(run).get("values"))})
        planned[name] = Planned(values, texts(run.get("command")), for_search=bool(run.get("for_search")))
    return planned


def _read_note(line: bytes) -> tuple[str, RunState, str] | None:
    """Run, outcome and reason; None if the line is not whole."""
    try:
        note = load_json(line)
        return text(note.get("run")), RunState(note.get("outcome")), text(note.get("reason"))
    except ValueError:
        return None


def _shared(each: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The options that have the same value in all of them."""
    if not each:
        return {}
    return {key: value for key, value in each[0].items() if all(key in one and one[key] == value for one in each)}
