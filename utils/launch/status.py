"""`run.py status`: how the runs of a group stand, by their records and by what was planned. Imports no torch."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from utils.errors import COMPLETE, UserError
from utils.launch.arguments import group_parser, places_of
from utils.launch.plan import COMPLETE as DONE
from utils.launch.plan import DAMAGED, DIVERGED, STARTED
from utils.launch.presence import launchers_of
from utils.launch.told import last_progress
from utils.ledger import FAILED, Ledger, Planned
from utils.record import DamagedRecord, Record, check_schema, record_folders

RUNNING, NOT_RUN, OTHER_VERSION = "running", "not run", "other version"
_ALWAYS_COUNTED = (DONE, RUNNING, DIVERGED, STARTED)
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
    for name, state in states.items():
        if state not in (DONE, NOT_RUN):
            yield f"  {state:9} {name}  {_tell(state, found.get(name), planned.get(name))}".rstrip()
    if damage:
        yield damage


def _state(record: Record | None, entry: Planned | None) -> str:
    if record is not None and _explain_version(record):
        return OTHER_VERSION
    if record is not None and record.complete:
        return DAMAGED if record.damaged else DONE
    if record is not None and record.diverged:
        return DIVERGED
    if record is not None and record.is_held():
        return RUNNING
    if entry is not None and entry.outcome == FAILED:
        return FAILED
    return NOT_RUN if record is None else STARTED


def _tell(state: str, record: Record | None, entry: Planned | None) -> str:
    if state == FAILED and entry is not None:
        return entry.reason
    if record is None:
        return ""
    return _explain_version(record) if state == OTHER_VERSION else last_progress(record)


def _explain_version(record: Record) -> str:
    """Why a record cannot be read by this version, empty if it can."""
    try:
        check_schema([record.folder])
    except UserError as error:
        return str(error)
    return ""


def _counts(states: Sequence[str]) -> str:
    counts = Counter(states)
    shown = [name for name in (*_ALWAYS_COUNTED, *_COUNTED_IF_ANY) if counts[name] or name in _ALWAYS_COUNTED]
    return f"{len(states)} runs: " + ", ".join(f"{counts[name]} {name}" for name in shown)
