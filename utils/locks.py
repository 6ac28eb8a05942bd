"""One process at a time at a folder or a file: the one kind of lock of the suite."""

import contextlib
import errno
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

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

    def take(self, *, waits: bool = False) -> bool:
        """Whether the lock could be taken; with `waits` it is waited for. Raises OSError if it cannot be written."""
        timeout = -1 if waits else 0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock: BaseFileLock = FileLock(self._path, timeout, thread_local=False)
        try:
            lock.acquire(poll_interval=0.1)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            lock = SoftFileLock(f"{self._path}.held", timeout, thread_local=False)
            _warn_of(self._path.parent)
            try:
                lock.acquire(poll_interval=0.1)
            except Timeout:
                return False
        self._held = lock
        return True

    def let_go(self) -> None:
        """Give the lock back, if it is held."""
        if self._held is not None:
            self._held.release()
            self._held = None


@cache
def _warn_of(folder: Path) -> None:
    warnings.warn(
        f"the file system of {folder} has no locks: a file stands for one, which cannot be trusted between machines",
        stacklevel=4,
    )


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on a path; what cannot be locked here is held by nobody that one may know."""
    lock = Lock(path)
    try:
        if not path.exists():
            return False
        if not lock.take():
            return True
    except OSError:
        return False
    lock.let_go()
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
