"""How a run stands: one set of words for records, plans, tables and screens."""

from enum import Enum


class RunState(str, Enum):
    """How a run stands. Its value is the word that people and files see.

    `COMPLETE` and `DIVERGED` are answers; `FAILED` and `STOPPED` are how a launcher saw a run without an answer end;
    `RUNNING` is held by a process; `STARTED` has a record without an answer; `NOT_RUN` has no record. Some answers
    cannot be read: those that are `DAMAGED`, those that the disk does not give now (`UNREADABLE`), and those that
    another version of the suite has written (`OTHER_VERSION`).
    """

    COMPLETE = "complete"
    DIVERGED = "diverged"
    FAILED = "failed"
    STOPPED = "stopped"
    RUNNING = "running"
    STARTED = "started"
    NOT_RUN = "not run"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
    OTHER_VERSION = "other version"

    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]  # that of `str`, not that of `Enum`

    @property
    def is_answer(self) -> bool:
        """Whether starting the run again would change nothing."""
        return self in (RunState.COMPLETE, RunState.DIVERGED)
