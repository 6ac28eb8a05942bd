"""Downloads of official files, with torchvision's addresses and checksums.

A download stays in a temporary folder until its checksum is right. If it is interrupted, the next one resumes it.
"""

import contextlib
import hashlib
import http.client
import shutil
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from datasets.layouts.decoding import locked
from utils.errors import UserError, is_disk_error

_ASIDE = ".download"
_TIMEOUT = 30  # seconds without a response
_CHUNK_BYTES = 2**18
_UNSATISFIABLE_RANGE = 416


@dataclass(frozen=True)
class Published:
    """A published file.

    Attributes:
        urls: its addresses; the first that responds is used.
        name: its path inside the folder; an archive is not kept there.
        md5: its checksum.
        members: the files to extract from an archive, by their path inside the folder, and their checksums.
    """

    urls: tuple[str, ...]
    name: str
    md5: str
    members: tuple[tuple[str, str], ...] = ()

    def is_there(self, folder: Path) -> bool:
        """Whether all of it that is needed is in the folder, with the right checksums."""
        return all(_is_whole(folder / name, md5) for name, md5 in self.members or [(self.name, self.md5)])


def published_by(reader: Any, wanted: Iterable[str]) -> list[Published]:
    """The published files of a data set.

    Args:
        reader: torchvision's class, which lists them.
        wanted: the files to extract from an archive.
    """
    if hasattr(reader, "tgz_md5"):
        sums = dict([*reader.train_list, *reader.test_list])
        if hasattr(reader, "meta"):
            sums[reader.meta["filename"]] = reader.meta["md5"]
        members = tuple((name, sums[Path(name).name]) for name in wanted)
        return [Published((reader.url,), reader.filename, reader.tgz_md5, members)]
    if hasattr(reader, "split_list"):
        return [
            Published((url,), name, md5) for url, name, md5 in (reader.split_list[key] for key in ("train", "test"))
        ]
    path = f"{reader.__name__}/raw"
    return [
        Published(tuple(mirror + name for mirror in reader.mirrors), f"{path}/{name}", md5)
        for name, md5 in reader.resources
    ]


def fetch(files: Iterable[Published], folder: Path) -> None:
    """Download the files that a folder lacks, or wait until another process has done so.

    A file or archive that was put there by hand is used instead of downloading it.

    Raises:
        UserError: a download failed; the message names the host, and which file to put where by hand.
    """
    aside = folder / _ASIDE
    with locked(folder, _ASIDE.lstrip(".")):
        for file in files:
            if file.is_there(folder):
                continue
            by_hand = folder / file.name
            source = by_hand if _is_whole(by_hand, file.md5) else _fetch_one(file, folder, aside)
            if file.members:
                _unpack(source, file, folder, aside)
            elif source != by_hand:
                by_hand.parent.mkdir(parents=True, exist_ok=True)
                source.replace(by_hand)
        shutil.rmtree(aside, ignore_errors=True)


def _unpack(archive: Path, file: Published, folder: Path, aside: Path) -> None:
    """Extract the members of an archive whose checksum is right, and move each into place once it is complete."""
    unpacked = aside / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    checks: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.10.12 on
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, [tar.getmember(name) for name, _ in file.members], **checks)
    for name, _ in file.members:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / name).replace(folder / name)


def _fetch_one(file: Published, folder: Path, aside: Path) -> Path:
    """Download a file to the folder `aside`, from the first of its addresses that works."""
    target = aside / file.name
    if _is_whole(target, file.md5):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in file.urls:
        failure = _receive_whole(url, target, file.md5)
        if failure is None:
            return target
        failures.append(f"{urlsplit(url).hostname} {failure}")
    raise UserError(
        f"{'; '.join(failures)}. Run the same command again later; or download {file.urls[0]} to "
        f"{(folder / file.name).parent} by hand, then run it again"
    )


def _receive_whole(url: str, target: Path, md5: str) -> str | None:
    """Download a file from an address, or return what went wrong, in words that follow the host's name."""
    try:
        _receive(url, target)
    except (OSError, http.client.HTTPException) as error:
        if is_disk_error(error):
            raise
        return _reason(error)
    if _is_whole(target, md5):
        return None
    target.unlink()
    return "sent a file other than the official one: its checksum is wrong"


def _receive(url: str, target: Path) -> None:
    """Download the rest of a file from an address, appending to what is already there."""
    start = target.stat().st_size if target.exists() else 0
    headers = {"User-Agent": "pytorch/vision"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code != _UNSATISFIABLE_RANGE:
            raise
        target.unlink()  # as long as the whole file, but with other content
        response = urlopen(Request(url), timeout=_TIMEOUT)
    with response:
        start = start if target.exists() and response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with target.open("ab" if start else "wb", buffering=0) as written, _progress(url, start, total) as advance:
            while chunk := response.read1(_CHUNK_BYTES):
                written.write(chunk)
                advance(len(chunk))
    if total is not None and target.stat().st_size < total:
        raise ConnectionError("the connection ended early")


@contextlib.contextmanager
def _progress(url: str, start: int, total: int | None) -> Iterator[Any]:
    """A progress bar on a terminal, a line elsewhere; yields a function that takes the number of bytes received."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        size = (
            "" if total is None else f" ({total / 1e6:.1f} MB{f', resuming at {start / 1e6:.1f} MB' if start else ''})"
        )
        print(f"downloading {url}{size}", file=sys.stderr, flush=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(url.rpartition("/")[2], total=total, completed=start)
        yield lambda number: progress.advance(task, number)


def _reason(error: Exception) -> str:
    """Why a download from a host failed."""
    if isinstance(error, HTTPError):
        return f"returned {error.code} {error.reason}"
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return f"did not respond within {_TIMEOUT} s"
    verb = "cannot be reached" if isinstance(error, URLError) else "broke off"
    return f"{verb} ({getattr(cause, 'strerror', None) or cause})"


def _is_whole(file: Path, md5: str) -> bool:
    if not file.is_file():
        return False
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
    return digest.hexdigest() == md5
