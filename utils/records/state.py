"""How a run stands: one set of words for records, plans, tables and screens."""

from enum import Enum


class RunState(str, Enum):
    """How a run stands. Its value is the word that people and files see.

    `COMPLETE` and `DIVERGED` are answers; `FAILED` and `STOPPED` are how a launcher saw a run without an answer end;
    `RUNNING` is held by a process; `STARTED` has left a record and no answer; `NOT_RUN` has none; `DAMAGED` had an
    answer that cannot be read any more; `OTHER_VERSION` was written by another version of the suite.
    """

    COMPLETE = "complete"
    DIVERGED = "diverged"
    FAILED = "failed"
    STOPPED = "stopped"
    RUNNING = "running"
    STARTED = "started"
    NOT_RUN = "not run"
    DAMAGED = "damaged"
    OTHER_VERSION = "other version"

    __str__ = str.__str__
    __format__ = str.__format__

    @property
    def is_answer(self) -> bool:
        """Whether the run has nothing more to tell, however often it is started."""
        return self in (RunState.COMPLETE, RunState.DIVERGED)
