"""Digests of files that are too large to be read at every start, kept beside them."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

_FILE = "digest.json"


def kept_digest(files: Iterable[Path], compute: Callable[[], str]) -> str:
    """A digest of files, computed once and kept in `digest.json` in their folder.

    It is computed again when the name, size or time of change of one of the files is another, or `digest.json` is gone
    or damaged. Where nothing can be written, it is computed every time.

    Args:
        files: all in one folder; without any, nothing is kept.
        compute: reads the files.
    """
    files = sorted(set(files))
    if not files:
        return compute()
    states = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    place = files[0].with_name(_FILE)
    kept = _read(place)
    if kept.get("files") == states and isinstance(kept.get("digest"), str):
        return kept["digest"]
    digest = compute()
    with contextlib.suppress(OSError):
        _write(place, {"files": states, "digest": digest})
    return digest


def _read(place: Path) -> dict:
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write(place: Path, kept: dict) -> None:
    aside = place.with_name(f"{place.name}.{os.getpid()}")
    aside.write_text(json.dumps(kept), encoding="utf-8")
    aside.replace(place)
