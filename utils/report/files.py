"""Text files of a report."""

from pathlib import Path

from utils.records.record import write_atomically


def printable(text: str) -> str:
    """What UTF-8 cannot hold, such as of a folder's or a user's name, as its number."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def write_text(path: Path, text: str) -> Path:
    """Write a file whole or not at all, and give its path.

    Raises:
        DiskError: the folder cannot be written.
    """
    write_atomically(path, lambda file: file.write(printable(text).encode("utf-8")))
    return path
