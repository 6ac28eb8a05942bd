"""Files of a report."""

import hashlib
import re
from pathlib import Path

from utils.errors import DiskError
from utils.records.record import write_atomically


def printable(text: str) -> str:
    """What UTF-8 cannot hold, such as of a folder's or a user's name, as its number."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def write_text(path: Path, text: str) -> Path:
    """Write a file whole or not at all, and give its path.

    Raises:
        DiskError: the folder cannot be written.
    """
    return write_bytes(path, printable(text).encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> Path:
    """The same of bytes, in a folder that is made if need be."""
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot make {path.parent}: {error.strerror}") from error
    write_atomically(path, lambda file: file.write(content))
    return path


def file_stem(title: str) -> str:
    """A title as the name of a file: no two share one, as what a name cannot hold is told apart by a digest."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", title)
    if plain == title.replace(" ", "-") and len(plain) <= 100:
        return plain
    return f"{plain[:100]}~{digest(title)}"


def digest(text: str) -> str:
    """What tells apart names that a disk cannot hold as they are."""
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]
