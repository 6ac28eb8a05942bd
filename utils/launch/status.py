"""`run.py status`: how the runs of a group stand, by their records and by what was planned. Imports no torch."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from utils.errors import COMPLETE, UserError
from utils.launch.arguments import group_parser, places_of
from utils.launch.plan import COMPLETE as DONE
from utils.launch.plan import DAMAGED, DIVERGED, OTHER_VERSION, STARTED, state_of
from utils.launch.presence import launchers_of
from utils.launch.told import last_progress
from utils.records.ledger import FAILED, Ledger, Planned
from utils.records.record import DamagedRecord, Record, record_folders

RUNNING, NOT_RUN = "running", "not run"
_ALWAYS_COUNTED = (DONE, RUNNING, DIVERGED, STARTED)
_MOST_NOT_RUN = 20  # of which the names are listed
_COUNTED_IF_ANY = (FAILED, DAMAGED, OTHER_VERSION, NOT_RUN)


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
    begun = [name for name, state in states.items() if state not in (DONE, NOT_RUN)]
    not_run = [name for name, state in states.items() if state == NOT_RUN]
    for name in (*begun, *not_run[:_MOST_NOT_RUN]):
        yield f"  {states[name]:9} {name}  {_tell(states[name], found.get(name), planned.get(name))}".rstrip()
    if len(not_run) > _MOST_NOT_RUN:
        yield f"  and {len(not_run) - _MOST_NOT_RUN} more that are not run"
    if damage:
        yield damage


def _state(record: Record | None, entry: Planned | None) -> str:
    state = "" if record is None else state_of(record)[0]
    if state in (DONE, DAMAGED, DIVERGED, OTHER_VERSION):
        return state
    if record is not None and record.is_held():
        return RUNNING
    if entry is not None and entry.outcome == FAILED:
        return FAILED
    return NOT_RUN if record is None else STARTED


def _tell(state: str, record: Record | None, entry: Planned | None) -> str:
    if state in (FAILED, NOT_RUN) and entry is not None:
        return entry.reason
    if record is None:
        return ""
    return state_of(record)[1] if state == OTHER_VERSION else last_progress(record)


def _counts(states: Sequence[str]) -> str:
    counts = Counter(states)
    shown = [name for name in (*_ALWAYS_COUNTED, *_COUNTED_IF_ANY) if counts[name] or name in _ALWAYS_COUNTED]
    number = "1 run" if len(states) == 1 else f"{len(states)} runs"
    return f"{number}: {', '.join(f'{counts[name]} {name}' for name in shown)}"
