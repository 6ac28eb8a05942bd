"""The interface between the scheduler and an engine, which executes the runs of a plan."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from utils.launch.job import Job


@dataclass(frozen=True)
class Limits:
    """When to give up.

    Attributes:
        crashes: times that one run may crash before it is given up.
        memory_failures: times that one run may run out of memory.
        refusals: times that devices may refuse one run; None: any number, as it waits for one.
        equal_failures: first runs that may all fail in the same way before the launcher stops.
        timeout: seconds after which a run is asked to save its state and stop; None: never.
        grace: seconds that it gets to do so before it is ended.
        waitsecs: seconds between looks while a run waits for a device or for another launcher.
        coldsecs: seconds between two starts.
    """

    crashes: int = 3
    memory_failures: int = 4
    refusals: int | None = None
    equal_failures: int = 3
    timeout: float | None = None
    grace: float = 60.0
    waitsecs: float = 5.0
    coldsecs: float = 0.0


class Attempt(Protocol):
    """One start of a run, from its start to its end.

    Attributes:
        job: what is run.
        started: when, by the monotonic clock.
        crashes: how often the run had crashed before, as far as the engine knows.
        is_running: whether it runs; otherwise it waits in a queue that is not the scheduler's.
        is_cancelled: whether it was ended on the request of somebody else.
        is_preempted: whether it had to give way to others.
        killed: whether the engine killed it.
        timed_out: whether the engine ended it because it took too long.
        log_path: what it prints.
    """

    job: Job
    started: float
    crashes: int
    is_cancelled: bool
    is_preempted: bool
    killed: bool
    timed_out: bool
    log_path: Path

    @property
    def is_running(self) -> bool: ...

    @property
    def label(self) -> str:
        """Where it runs, on the screen."""

    def last_lines(self) -> list[str]:
        """The last lines that it printed, such as its error."""

    def true_code(self, code: int) -> int:
        """The exit code that says why it ended, which a full disk, for instance, may have changed."""

    def last_words(self, code: int) -> str:
        """Why it ended with that exit code, in one line."""


Ended = Callable[[Attempt, int], None]  # takes an attempt that is over and its exit code, from any thread


class Engine(Protocol):
    """Executes runs. Its methods are called from one thread.

    Attributes:
        outlives_launcher: whether what it has started goes on when a signal ends the launcher.
    """

    outlives_launcher: bool

    def start(self, job: Job, ended: Ended) -> Attempt | None:
        """Start a run; None where there is no room for it now.

        Raises:
            Busy: another process is at it.
            OSError: it cannot be started.
        """

    def look(self) -> None:
        """Do what is due, such as stopping runs that take too long."""

    def patience(self) -> float | None:
        """Seconds until something is due again; None: nothing is."""

    def release(self, attempt: Attempt) -> None:
        """Free what an attempt held, once its end has been read."""

    def fewer_neighbours(self, attempt: Attempt) -> None:
        """Let fewer runs share what an attempt ran on, as it ran out of memory."""

    def crashed(self, attempt: Attempt) -> None:
        """Note where a run crashed: it is started elsewhere next, where it can be."""

    def refused(self, attempt: Attempt) -> None:
        """Note what took no process of a run: it is left alone for a while."""

    def obstacle(self) -> str:
        """Why nothing can be started although nothing runs, in words; empty where it is not the engine's to say."""

    def stop(self, number: int) -> None:
        """Ask all attempts that were not asked yet to save their state and stop (SIGTERM), or kill them (SIGKILL)."""
