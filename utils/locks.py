"""One process at a time at a folder or a file: the one kind of lock of the suite.

Within a machine the system's locks keep processes apart. Whether they do between the nodes of a cluster depends on the
file system, so jobs of Slurm claim a path in addition: each makes a file that bears its job id, and only then looks for
those of others, so that of two jobs at least one sees the other. A claim of a job that Slurm does not run any more
counts no more.
"""

import contextlib
import errno
import random
import socket
import time
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from utils import slurm

if TYPE_CHECKING:
    from filelock import BaseFileLock

# What file systems without locks, such as some of clusters and of containers, answer in their place.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


class Lock:
    """A lock on a path, which the system takes back from a process that ends, however it ends.

    Where the file system has no locks, a file `<path>.held` that names the process stands for one; it counts no more
    when that process on that machine is gone.

    Args:
        path: of the lock file, which stays when the lock is let go; its folder is made if need be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: BaseFileLock | None = None
        self._claims = _Claims(path)

    def take(self, *, waits: bool = False) -> bool:
        """Whether the lock could be taken; with `waits` it is waited for. Raises OSError if it cannot be written."""
        while self.take_here(waits=waits):
            if self._claims.claim():
                return True
            self.let_go()
            if not waits:
                break
            time.sleep(random.uniform(0.1, 0.5))  # two that have seen each other do not meet again
        return False

    def take_here(self, *, waits: bool) -> bool:
        """`take` among the processes of this machine alone, whatever jobs on other machines have claimed."""
        from filelock import FileLock, SoftFileLock  # not before a program can say that it is not installed

        timeout = -1 if waits else 0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = _acquired(FileLock(self._path, timeout, thread_local=False))
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            held_path = self._held_path()
            if held_path is None:
                return False
            _warn_of(self._path.parent)
            lock = _acquired(SoftFileLock(held_path, timeout, thread_local=False))
        if lock is None:
            return False
        self._held = lock
        return True

    def _held_path(self) -> Path | None:
        """The file that stands for the lock where the file system has none; None if a process outside of jobs has it.

        The jobs on each node have a file of their own: claims keep jobs on different nodes apart, and no node can tell
        whether a process of another one is alive.
        """
        path = Path(f"{self._path}.held")
        if not slurm.own_job_id():
            return path
        return None if path.exists() else Path(f"{self._path}.{socket.gethostname()}.held")

    def let_go(self) -> None:
        """Give the lock back, if it is held."""
        self._claims.let_go()
        if self._held is not None:
            self._held.release()
            self._held = None

    def is_claimed(self) -> bool:
        """Whether a job of Slurm, other than this one, has claimed the path."""
        return self._claims.has_others(oldest=slurm.ASK_EVERY)


class _Claims:
    """The claims of Slurm's jobs on a path: files in `<path>.claims/`, named by the job ids.

    Args:
        path: that is claimed.
    """

    def __init__(self, path: Path) -> None:
        self._folder = Path(f"{path}.claims")
        self._own: Path | None = None

    def claim(self) -> bool:
        """Whether no other job has claimed the path; in a job, it is claimed. Raises OSError."""
        job_id = slurm.own_job_id()
        if job_id:
            self._folder.mkdir(exist_ok=True)
            self._own = self._folder / job_id
            self._own.touch()  # one that an earlier start of this job has left is its own too
        if self.has_others():
            self.let_go()
            return False
        return True

    def has_others(self, oldest: float = 0.0) -> bool:
        """Whether a job other than this one has claimed the path and is running.

        Args:
            oldest: seconds that Slurm's answer may be old.
        """
        try:
            claims = [path for path in self._folder.iterdir() if path.name != slurm.own_job_id()]
        except OSError:
            return False
        for path in claims:
            with contextlib.suppress(FileNotFoundError):
                if slurm.is_running(path.name, path.stat().st_uid, oldest):
                    return True
                if self._own is not None:  # a job that is started again sees this claim, before or after it
                    path.unlink()
        return False

    def let_go(self) -> None:
        """Give the claim back."""
        if self._own is not None:
            with contextlib.suppress(OSError):
                self._own.unlink()
            self._own = None


def _acquired(lock: "BaseFileLock") -> "BaseFileLock | None":
    """The lock once it is acquired; None if another process holds it."""
    from filelock import Timeout

    try:
        lock.acquire(poll_interval=0.1)
    except Timeout:
        return None
    return lock


@cache
def _warn_of(folder: Path) -> None:
    warnings.warn(
        f"the file system of {folder} has no locks: a file stands for one, which cannot be trusted between machines",
        stacklevel=4,
    )


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on a path; False if that cannot be found out."""
    lock = Lock(path)
    try:
        if not path.exists():
            return False
        if not lock.take_here(waits=False):
            return True
        lock.let_go()
        return lock.is_claimed()
    except OSError:
        return False


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Wait for the lock on a path and hold it. Raises OSError if it cannot be written."""
    lock = Lock(path)
    lock.take(waits=True)
    try:
        yield
    finally:
        lock.let_go()
