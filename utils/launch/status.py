"""`run.py status`: how the runs of a group stand, by their records and by what was planned. Imports no torch."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from utils.errors import COMPLETE, UserError
from utils.launch.arguments import group_parser, places_of
from utils.launch.plan import state_of
from utils.launch.presence import launchers_of
from utils.records.ledger import Ledger, Planned
from utils.records.record import DamagedRecord, Record, record_folders
from utils.records.state import RunState

_ALWAYS_COUNTED = (RunState.COMPLETE, RunState.RUNNING, RunState.DIVERGED, RunState.STARTED)
_MOST_NOT_RUN = 20  # of which the names are listed
_COUNTED_IF_ANY = (RunState.FAILED, RunState.DAMAGED, RunState.OTHER_VERSION, RunState.NOT_RUN)


def status(words: Sequence[str]) -> int:
    """What is complete, what is going on, what has failed and why, from another terminal."""
    options = group_parser("status", "How the runs of a group stand.").parse_args(words)
    where = places_of(options)
    folder = where.results_dir / where.group
    if not folder.is_dir():
        raise UserError(f"there is no {folder}; name the group with --group")
    print(*_lines(folder), sep="\n")
    return COMPLETE


def _lines(folder: Path) -> Iterator[str]:
    damage = ""
    planned: Mapping[str, Planned] = {}
    try:
        planned = Ledger(folder).read()
    except DamagedRecord as error:
        damage = str(error)
    found = {each.name: Record(each) for each in record_folders(folder)}
    names = sorted(found.keys() | planned.keys())
    states = {name: _state(found.get(name), planned.get(name)) for name in names}
    yield f"{folder}: {_counts(list(states.values()))}"
    yield from (f"  launcher {each.process} on {each.machine} is at it" for each in launchers_of(folder))
    begun = [name for name, state in states.items() if state not in (RunState.COMPLETE, RunState.NOT_RUN)]
    not_run = [name for name, state in states.items() if state is RunState.NOT_RUN]
    for name in (*begun, *not_run[:_MOST_NOT_RUN]):
        yield f"  {states[name]:9} {name}  {_tell(states[name], found.get(name), planned.get(name))}".rstrip()
    if len(not_run) > _MOST_NOT_RUN:
        yield f"  and {len(not_run) - _MOST_NOT_RUN} more that are not run"
    if damage:
        yield damage


def _state(record: Record | None, entry: Planned | None) -> RunState:
    state = RunState.NOT_RUN if record is None else state_of(record)[0]
    if state not in (RunState.NOT_RUN, RunState.STARTED):
        return state
    if record is not None and record.is_held():
        return RunState.RUNNING
    if entry is not None and entry.outcome is RunState.FAILED:
        return RunState.FAILED
    return RunState.NOT_RUN if record is None else RunState.STARTED


def _tell(state: RunState, record: Record | None, entry: Planned | None) -> str:
    if state in (RunState.FAILED, RunState.NOT_RUN) and entry is not None:
        return entry.reason
    if record is None:
        return ""
    if state is RunState.OTHER_VERSION:
        return state_of(record)[1]
    progress = record.read_progress()
    return progress.words if progress else ""


def _counts(states: Sequence[RunState]) -> str:
    counts = Counter(states)
    shown = [name for name in (*_ALWAYS_COUNTED, *_COUNTED_IF_ANY) if counts[name] or name in _ALWAYS_COUNTED]
    number = "1 run" if len(states) == 1 else f"{len(states)} runs"
    return f"{number}: {', '.join(f'{counts[name]} {name}' for name in shown)}"
