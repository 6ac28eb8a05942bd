"""Digests of files that are too large to read at every start: stored beside them, or of their states alone."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

_FILE = "digest.json"


def kept_digest(files: Iterable[Path], compute: Callable[[], str]) -> str:
    """A digest of files, computed once and stored in `digest.json` in their folder.

    It is computed again when the name, size or modification time of one of the files has changed, or `digest.json` is
    missing or damaged. If the folder cannot be written to, it is computed every time.

    Args:
        files: all in one folder; without any, nothing is stored.
        compute: reads the files and computes it.
    """
    files = sorted(set(files))
    if not files:
        return compute()
    states = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    path = files[0].with_name(_FILE)
    kept = _read(path)
    if kept.get("files") == states and isinstance(kept.get("digest"), str):
        return kept["digest"]
    digest = compute()
    with contextlib.suppress(OSError):
        _write(path, {"files": states, "digest": digest})
    return digest


def digest_of_states(files: Iterable[Path], root: Path, facts: object) -> str:
    """SHA-256 of the names of files below a folder, their sizes and modification times, and of other facts."""
    digest = hashlib.sha256(repr(facts).encode())
    for file in files:
        state = file.stat()
        digest.update(repr((os.path.relpath(file, root), state.st_size, state.st_mtime_ns)).encode())
    return digest.hexdigest()


def _read(path: Path) -> dict:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write(path: Path, kept: dict) -> None:
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(kept), encoding="utf-8")
    aside.replace(path)
