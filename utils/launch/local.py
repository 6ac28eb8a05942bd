"""Runs as child processes of this machine, each a command line that one can read and run by hand."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from utils.config.registry import ROOT
from utils.errors import BUSY, DISK, Busy, UserError
from utils.launch.engine import Attempt, Ended, Limits
from utils.launch.job import CommonOptions, Job, kind_of
from utils.records.progress import Progress

NUM_LAST_LINES = 12
_TAIL_BYTES = 16384
_NO_LIMITS = Limits()


@dataclass
class Child:
    """A run under way.

    Attributes:
        job: what it runs.
        slot: the room that it has on a device.
        log_path: what it prints.
        started: by the monotonic clock.
        asked: when it was asked to save its state and stop; None: it was not.
        killed: whether it was sent SIGKILL.
        timeout: seconds that it may take; None: any number.
        timed_out: whether it was asked because it took longer.
        final_log_path: where what it printed is kept when it is over; None: nowhere but in its record.
    """

    job: Job
    slot: Any
    process: subprocess.Popen
    log_path: Path
    started: float = field(default_factory=time.monotonic)
    asked: float | None = None
    killed: bool = False
    timeout: float | None = None
    timed_out: bool = False
    final_log_path: Path | None = None
    crashes = 0
    is_cancelled = is_preempted = False
    is_running = True

    @property
    def label(self) -> str:
        """The name of its device on the screen."""
        return self.slot.label

    def last_lines(self, number: int | None = NUM_LAST_LINES) -> list[str]:
        """The last lines it printed, such as its error; those of its record where what it prints is not kept.

        Args:
            number: of them; None: all that are read.
        """
        lines = tail(self.log_path) or tail(self.job.record.log_path)
        return without_blanks(lines)[-(number or 0) :]

    def true_code(self, code: int) -> int:
        """Its exit code, or that of a full disk if it could not even print why it failed."""
        says_why = code <= 0 or code == BUSY
        return code if says_why or self.last_lines(1) or not _is_full(self.log_path.parent) else DISK

    def last_words(self, code: int) -> str:
        """Why it ended with that exit code, in one line."""
        if self.timed_out:
            return self._explain_timeout()
        if code == -signal.SIGKILL:
            return "killed by SIGKILL, as the system does when memory runs out"
        if code < 0:
            return f"killed by {signal.strsignal(-code) or f'signal {-code}'}"
        lines = self.last_lines(None)
        if lines:
            return exception_line(lines).removeprefix("error: ")
        if _is_full(self.log_path.parent):
            return f"the disk of {self.log_path.parent} is full; make room, then run again"
        return f"exit code {code} without any output"

    def _explain_timeout(self) -> str:
        """Slow, so that a second attempt would not end either, or hung, which may pass."""
        took = f"it took longer than --timeout {self.timeout:g} s"
        if self.killed:
            return f"{took} and did not stop when asked"
        return f"{took}; the same command resumes it" if self.job.record.started else took

    def deadline(self, grace: float) -> float | None:
        """When it is to be asked to stop, or killed so many seconds after it was asked; None: it need not be."""
        if self.killed:
            return None
        if self.asked is not None:
            return self.asked + grace
        return None if self.timeout is None else self.started + self.timeout

    def seconds_to_start(self, progress: Progress) -> float:
        """Seconds from its command to its first step."""
        return max(0.0, time.monotonic() - self.started - (time.time() - progress.started))

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask it to save and stop, or with SIGKILL end it, together with what it has started."""
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                self.killed = True
                os.killpg(self.process.pid, number)
            else:
                self.asked = time.monotonic()
                self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end, take away what it has left running, and give its exit code."""
        if hasattr(os, "waitid"):  # not reaped yet, so that no other process can have taken its number
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        else:
            self.process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def keep_log(self, code: int) -> None:
        """Give what it printed its final name; nothing is kept where another launcher has the run."""
        if self.final_log_path is None:
            return
        with contextlib.suppress(OSError):
            if code == BUSY:
                self.log_path.unlink()
            else:
                self.log_path = self.log_path.replace(self.final_log_path)


def check_interpreter(interpreter: str) -> None:
    """Raises UserError if there is no such Python."""
    if shutil.which(interpreter) is None:
        raise UserError(f"--interpreter {interpreter}: there is no such program")


class LocalEngine:
    """Starts runs on this machine.

    What a run prints is in `<name>.<process ID of the launcher>.txt` while it runs and in `<name>.txt` afterwards, so
    that two launchers that start the same run do not write to one file.

    Args:
        common: options that all runs share.
        log_dir: where their output goes.
        devices: where runs may start, with which Python.
        limits: how long a run may take.
        estimate: memory in MiB that a run will need, None if unknown.
        program: what is run; the suite's `utils/main.py`.

    Raises:
        UserError: there is no such Python, or logs cannot be written.
    """

    outlives_launcher = False

    def __init__(
        self,
        common: CommonOptions,
        log_dir: Path,
        devices: Any,
        limits: Limits = _NO_LIMITS,
        estimate: Callable[[Job], float | None] = lambda job: None,
        program: Path = ROOT / "utils" / "main.py",
    ) -> None:
        check_interpreter(devices.interpreter)
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"cannot write the runs' output to {log_dir}: {error.strerror}"
            raise UserError(f"{reason}; give another --logdir or --results_dir") from None
        self._common = common
        self._log_dir = log_dir
        self._devices = devices
        self._limits = limits
        self._estimate = estimate
        self._program = program
        self._children: dict[str, Child] = {}
        self._failed_on: defaultdict[str, set[str]] = defaultdict(set)  # devices, by the name of the run
        self._keeps_logs = True

    def command(self, job: Job, slot: Any) -> list[str]:
        """The command line of a job at a slot."""
        words = (*job.words, *self._common.words, *slot.arguments)
        return [self._devices.interpreter, str(self._program), *words]

    def start(self, job: Job, ended: Ended) -> Child | None:
        """Start a run; None where no device has room for it now. Its end is told from another thread.

        Raises:
            Busy: another process is at it.
            OSError: the interpreter cannot be started.
        """
        self._listen()
        slot = self._devices.acquire(self._estimate(job), self._failed_on[job.name])
        if slot is None:
            return None
        try:
            if job.record.is_held():
                raise Busy(f"another process is running {job.name}")
            child = self._start_at(slot, job)
        except (Busy, OSError):
            self._devices.release(slot)
            raise
        self._children[job.name] = child
        threading.Thread(target=lambda: self._await(child, ended), name=job.name, daemon=True).start()
        return child

    def look(self) -> None:
        """Ask runs that take too long to stop, and kill those that do not."""
        now = time.monotonic()
        for child in self._children.values():
            end = child.deadline(self._limits.grace)
            if end is not None and now >= end:
                child.timed_out = child.timed_out or child.asked is None
                child.stop(signal.SIGTERM if child.asked is None else signal.SIGKILL)

    def patience(self) -> float | None:
        """Seconds until a run has taken too long; None: none can."""
        ends = [child.deadline(self._limits.grace) for child in self._children.values()]
        return min((end - time.monotonic() for end in ends if end is not None), default=None)

    def release(self, attempt: Attempt) -> None:
        """Free the device of a run that is over."""
        slot = self._children.pop(attempt.job.name).slot
        self._devices.release(slot)
        if attempt.job.record.complete:
            self._devices.worked(slot)

    def fewer_neighbours(self, attempt: Attempt) -> None:
        """Let fewer runs share the device of a run that ran out of memory."""
        assert isinstance(attempt, Child)
        self._devices.fewer_neighbours(attempt.slot)

    def crashed(self, attempt: Attempt) -> None:
        """Start a run that crashed on another device next, if there is one on which it did not."""
        assert isinstance(attempt, Child)
        self._failed_on[attempt.job.name].add(attempt.slot.device)
        self._devices.crashed(attempt.slot)

    def refused(self, attempt: Attempt) -> None:
        """Start a run on another device than the one that took no process, if there is one; that one rests."""
        assert isinstance(attempt, Child)
        self._failed_on[attempt.job.name].add(attempt.slot.device)
        self._devices.refused(attempt.slot)

    def obstacle(self) -> str:
        """Why no device takes a run, in words."""
        return self._devices.obstacle()

    def stop(self, number: int) -> None:
        """Ask all runs that were not asked yet to save their state and stop, or kill all."""
        for child in self._children.values():
            if number == signal.SIGKILL or child.asked is None:
                child.stop(number)

    def _listen(self) -> None:
        """Pass on the progress and memory of the runs, which decide whether there is room for another one."""
        for child in self._children.values():
            progress = child.job.record.read_progress()
            if progress is None:
                continue
            self._devices.listen(
                child.slot, (child.job.name, kind_of(child.job.name)), progress, child.seconds_to_start(progress)
            )
            if progress.peak_mb is not None:
                self._devices.report_peak(child.slot, progress.peak_mb, progress.may_grow)

    def _start_at(self, slot: Any, job: Job) -> Child:
        path = self._log_dir / f"{job.name}.{os.getpid()}.txt"
        log = self._open_log(path)
        with log or Path(os.devnull).open("wb") as output:
            process = subprocess.Popen(
                self.command(job, slot),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | slot.environment,
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which stops its children itself
            )
        child = Child(job, slot, process, job.record.log_path, timeout=self._limits.timeout)
        if log is not None:
            child.log_path, child.final_log_path = path, self._log_dir / f"{job.name}.txt"
        return child

    @staticmethod
    def _await(child: Child, ended: Ended) -> None:
        code = child.wait()
        child.keep_log(code)
        ended(child, code)

    def _open_log(self, path: Path) -> IO[bytes] | None:
        """Where a run prints to; None if that cannot be written, as where the disk of the logs is full."""
        try:
            return path.open("wb")
        except OSError as error:
            if self._keeps_logs:
                self._keeps_logs = False
                self._devices.say(
                    f"cannot write {path}: {error.strerror}; the runs continue without their output there"
                )
            return None


def tail(path: Path, num_bytes: int = _TAIL_BYTES) -> list[str]:
    """The lines at the end of a text file, none if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - num_bytes))
            return file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def without_blanks(lines: Sequence[str]) -> list[str]:
    """The lines that are not blank, without trailing white space."""
    return [line.rstrip() for line in lines if line.strip()]


def exception_line(lines: Sequence[str]) -> str:
    """What went wrong: the first line after the last traceback, as CUDA adds advice to its errors; else the last line.

    Args:
        lines: the end of what a program printed, at least one.
    """
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    after = lines[starts[-1] + 1 :] if starts else ()
    return next((line for line in after if not line.startswith(" ")), lines[-1])


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free == 0
    except OSError:
        return False
