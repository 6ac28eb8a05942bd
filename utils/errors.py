"""What can end a run before its end, and the exit code that says so to the launcher.

0 complete · 2 a user's mistake · 3 diverged · 4 memory is full · 5 disk · 6 another process is at it · 7 the GPU takes
no process · 128 plus the number of a signal (`STOP_SIGNALS`): stopped by it · anything else a crash; of a launcher, 1
means that runs are not over.
"""

import errno
import importlib.util
import re
import signal
from pathlib import Path

COMPLETE = 0
INCOMPLETE = 1
MISTAKE = 2
DIVERGED = 3
OUT_OF_MEMORY = 4
DISK = 5
BUSY = 6
NO_DEVICE = 7
# Ctrl-C; what `kill` and clusters send; a terminal that is gone; the warnings that clusters can be asked for.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
STOPPED = frozenset(128 + number for number in STOP_SIGNALS)

_DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EACCES, errno.EPERM}


class RunError(Exception):
    """Ends a run with one line on the screen and an exit code, without a traceback."""

    exit_code = 1


class UserError(RunError, ValueError):
    """Something the user typed or supplied; the message names what to change."""

    exit_code = MISTAKE


class InactiveOption(UserError):
    """A typed option that changes nothing beside the others.

    Args:
        name: of the option.
        reason: in words.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"--{name} changes nothing in this run: {reason}")
        self.name = name


class PluginError(RunError):
    """Code of a plug-in fails where the suite calls it."""

    exit_code = MISTAKE


class Diverged(RunError):
    """The loss became NaN or infinite."""

    exit_code = DIVERGED


class DiskError(RunError):
    """A record could not be written; nothing that was complete is lost."""

    exit_code = DISK


class Busy(RunError):
    """Another process is at the same run."""

    exit_code = BUSY


class NoDevice(RunError):
    """The GPU cannot be used, or not by this process."""

    exit_code = NO_DEVICE


class Stopped(BaseException):
    """The run was asked to stop by a signal; no `except Exception` on the way may take it for something else.

    Args:
        signal_number: which.
        is_saved: whether the state was saved in answer to it.
    """

    def __init__(self, signal_number: int, *, is_saved: bool = False) -> None:
        saved = "; its state is saved; the same command resumes it" if is_saved else ""
        super().__init__(f"stopped by {signal.Signals(signal_number).name}{saved}")
        self.exit_code = 128 + signal_number


def required_packages() -> dict[str, str]:
    """The packages of `requirements.txt`, by the name that each is imported by."""
    modules = {"pillow": "PIL", "gputil": "GPUtil"}
    requirements = Path(__file__).resolve().parents[1] / "requirements.txt"
    packages = re.findall(r"(?m)^[\w-]+", requirements.read_text(encoding="utf-8"))
    return {modules.get(package, package): package for package in packages}


def explain_missing(error: ModuleNotFoundError) -> str:
    """Why an import failed, if a package that the suite requires is not installed; empty for any other module."""
    package = required_packages().get(error.name or "")
    return f"the package {package} is not installed: pip install -r requirements.txt" if package else ""


def check_installed() -> None:
    """Raises ModuleNotFoundError if a required package is not installed, without importing one."""
    for module in required_packages():
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(name=module)


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask this process to stop; not SIGHUP where it is ignored, as nohup has it."""
    is_kept = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return tuple(number for number in STOP_SIGNALS if not (is_kept and number == signal.SIGHUP))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device's or the machine's memory is full, as CUDA's libraries say it too."""
    signs = (
        "out of memory",
        "can't allocate memory",
        "bad_alloc",
        "_ALLOC_FAILED",
        "CUBLAS_STATUS_NOT_INITIALIZED",
        "CUDNN_STATUS_NOT_INITIALIZED",
        "nable to find an engine",
    )
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def is_device_busy(error: BaseException) -> bool:
    """Whether a GPU refuses the process, as in compute mode Exclusive_Process where another one is at it."""
    return isinstance(error, RuntimeError) and "busy or unavailable" in str(error)


def is_disk_error(error: BaseException) -> bool:
    """Whether an error of the operating system means a full, read-only or broken disk."""
    return isinstance(error, OSError) and error.errno in _DISK_ERRNOS
