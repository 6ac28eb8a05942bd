"""A run's folder: configuration, JSON lines, result, log. Every path is named here and nowhere else.

Files are written aside and renamed, so that each is whole or absent; `metrics.jsonl` and `log.txt` grow by appending,
and a resumed run cuts off what lies after its checkpoint.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from utils.errors import Busy, DiskError, UserError
from utils.locks import Lock, is_held
from utils.records.content import SCHEMA_VERSION, Failure, RecordedConfig, Result, read_file
from utils.records.progress import Progress


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file aside, flush it to the disk and rename it into place; on failure the old file stays.

    Raises:
        DiskError: the disk is full, read-only or broken.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")  # two launchers may write one table
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise _disk_error(path, error) from error
    finally:
        # After a rename there is nothing to remove; after a failure the part must not fill the disk further.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _disk_error(path: Path, error: OSError) -> DiskError:
    return DiskError(
        f"cannot write {path}: {error.strerror}; make room or choose another --results_dir, then run again"
    )


def _exists(path: Path) -> bool:
    """Whether a file exists; False if that may not be found out."""
    try:
        return path.exists()
    except OSError:
        return False


def _stamp(path: Path) -> tuple[int, ...]:
    """Inode, size and time of change of a file; empty if it does not exist or may not be looked at."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_ctime_ns


def _json_bytes(content: Any) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


LOCKS = ".locks"  # in the folder of a group
DAMAGED, FORMER = ".damaged-", ".former-"  # in the name of a folder that is no longer a record


def record_folders(group: Path) -> list[Path]:
    """The folders of a group that hold a record, whole or not, in the order of their names."""
    found = {path.parent for name in ("config.json", "result.json") for path in group.glob(f"*/{name}")}
    return sorted(folder for folder in found if DAMAGED not in folder.name and FORMER not in folder.name)


class Record:
    """The folder of one run, held by one process at a time.

    Raises:
        Busy: another process is writing the folder.
        DiskError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_path = folder / "config.json"
        self.metrics_path = folder / "metrics.jsonl"
        self.checkpoint_path = folder / "checkpoint.pt"
        self.model_path = folder / "model.pt"
        self.result_path = folder / "result.json"
        self.failure_path = folder / "failure.json"
        self.progress_path = folder / "progress.json"
        self.log_path = folder / "log.txt"
        self._lock_path = folder.parent / LOCKS / f"{folder.name}.lock"  # outside, so that the folder can go and move
        self._lock = Lock(self._lock_path)
        self._is_open = False

    @classmethod
    def of_run(cls, results_dir: Path, group: str, name: str, identity: str) -> "Record":
        """The record of a run by its readable name and its identity."""
        return cls(results_dir / group / f"{name}-{identity[:10]}")

    @property
    def complete(self) -> bool:
        """Whether the run has its result."""
        return _exists(self.result_path)

    def set_aside(self, mark: str = DAMAGED) -> Path:
        """Rename the folder, so that the run can be made anew; gives its new name.

        Args:
            mark: why, in the new name: `DAMAGED`, or `FORMER` of a record that another one is to replace.

        Raises:
            OSError: it cannot be renamed.
        """
        names = (self.folder.with_name(f"{self.folder.name}{mark}{number}") for number in itertools.count(1))
        return self.folder.rename(next(name for name in names if not name.exists()))

    @property
    def diverged(self) -> bool:
        """Whether the run has failed in a way that would repeat itself, and its failure is written down."""
        return _exists(self.failure_path)

    @property
    def started(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return _exists(self.checkpoint_path)

    def stamps(self) -> tuple[tuple[int, ...], ...]:
        """What changes whenever configuration, result or failure are written, moved or made readable."""
        return tuple(map(_stamp, (self.config_path, self.result_path, self.failure_path)))

    def set_checkpoint_aside(self) -> Path:
        """Rename a checkpoint that nothing can go on from, over an earlier one; gives its new path.

        Raises:
            DiskError: it cannot be renamed.
        """
        try:
            return self.checkpoint_path.replace(self.checkpoint_path.with_name(f"{self.checkpoint_path.name}.damaged"))
        except OSError as error:
            raise _disk_error(self.checkpoint_path, error) from error

    def open(self, *, is_locked: bool = True) -> "Record":
        """Make the folder if need be and take hold of it until `close`; without a lock nothing keeps others out."""
        try:
            if is_locked and not self._lock.take():
                raise Busy(f"{self.folder} is being written by another process; wait for it or stop it")
            self._is_open = True
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".*.part"):  # by a process that was ended while it wrote
                left.unlink(missing_ok=True)
        except (NotADirectoryError, FileExistsError):
            self.close()
            raise UserError(
                f"{self.folder} cannot be made: a file of that name is in the way; choose another --results_dir"
            ) from None
        except OSError as error:
            self.close()
            raise _disk_error(self.folder, error) from error
        return self

    def is_held(self) -> bool:
        """Whether a process is writing the folder now."""
        return is_held(self._lock_path)

    def close(self) -> None:
        """Release the folder, and remove it if nothing was written."""
        if self._is_open:
            with contextlib.suppress(OSError):
                self.folder.rmdir()
            self._is_open = False
            self._lock.let_go()

    def write_config(self, config: dict[str, Any]) -> None:
        """Write `config.json`."""
        self._write_json(self.config_path, {"schema": SCHEMA_VERSION, **config})

    def read_config(self) -> RecordedConfig | None:
        """The configuration of the last start, None if there is none. Raises UnreadableRecord."""
        return read_file(self.config_path, RecordedConfig.parse)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json`, which makes the run complete: nothing is under way any more."""
        self._write_json(self.result_path, {"schema": SCHEMA_VERSION, **result})
        self.remove_progress()

    def read_result(self) -> Result | None:
        """The result of a complete run, None of another one. Raises UnreadableRecord."""
        return read_file(self.result_path, Result.parse)

    def write_failure(self, failure: dict[str, Any]) -> None:
        """Write `failure.json`, for a failure that would repeat itself."""
        self._write_json(self.failure_path, {"schema": SCHEMA_VERSION, **failure})

    def read_failure(self) -> Failure | None:
        """The failure that was written down, None if there is none. Raises UnreadableRecord."""
        return read_file(self.failure_path, Failure.parse)

    def write_progress(self, progress: Progress) -> None:
        """Write `progress.json` for other processes; it is not flushed, and a failure to write it is ignored."""
        partial = self.progress_path.with_name(f".{self.progress_path.name}.part")
        with contextlib.suppress(OSError):
            partial.write_bytes(progress.to_json())
            partial.replace(self.progress_path)

    def read_progress(self) -> Progress | None:
        """How far the run in the folder is, or was when it ended without a result; None if that is not known."""
        try:
            return Progress.from_json(self.progress_path.read_bytes())
        except OSError:
            return None

    def remove_progress(self) -> None:
        """Remove the progress of an earlier start, or of a run that is complete."""
        with contextlib.suppress(OSError):
            self.progress_path.unlink(missing_ok=True)

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        self._append(self.metrics_path, json.dumps(line, allow_nan=False) + "\n")

    def append_log(self, text: str) -> None:
        """Append to `log.txt`."""
        self._append(self.log_path, text + "\n")

    def lengths(self) -> dict[str, int]:
        """Bytes of the growing files, for a checkpoint to remember."""
        growing = (self.metrics_path, self.log_path)
        return {path.name: path.stat().st_size if path.exists() else 0 for path in growing}

    def cut(self, lengths: dict[str, int]) -> None:
        """Cut the growing files back to the lengths that a checkpoint remembers; nothing is ever lengthened."""
        for path in (self.metrics_path, self.log_path):
            length = lengths.get(path.name, 0)
            if path.exists() and path.stat().st_size > length:
                os.truncate(path, length)

    def _append(self, path: Path, text: str) -> None:
        try:
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError as error:
            raise _disk_error(path, error) from error

    def _write_json(self, path: Path, content: dict[str, Any]) -> None:
        encoded = _json_bytes(content)
        write_atomically(path, lambda file: file.write(encoded))
