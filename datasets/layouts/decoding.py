"""Image files of any size, decoded once into four arrays of square images.

Everything is written to a temporary folder under a lock and moved into place when it is complete, so that interrupted
decoding leaves nothing that could be taken for data, and two processes do not do the same work.
"""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasets.layouts.image_folder import first_of
from utils.errors import UserError
from utils.locks import Lock
from utils.machine import available_cores

if TYPE_CHECKING:
    from PIL.Image import Image

Files = Mapping[str, Mapping[str, list[Path]]]
Cut = Callable[["Image", int], "Image"]

_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # a folder may have any name
_ASIDE = "decoding"
_COMPLETE = "decoded"
_CLASSES = "classes.txt"


def decode(files: Files, side: int, path: Path, title: str, cut: Cut | None = None) -> None:
    """Write `{train,test}_{x,y}.npy` and the names of the classes, or wait until another process has done so.

    Args:
        files: by split, by class in the order of the labels.
        side: of the images in pixels.
        path: the folder of the arrays.
        title: shown with the progress.
        cut: turns an RGB image of any size into a square of that side; `square` if None.

    Raises:
        UserError: images cannot be read, of which the first are named, or the folder cannot be written to.
    """
    with locked(path, _ASIDE):
        move_up(path)
        if all((path / f"{split}_y.npy").exists() for split in files):
            return
        _check_space(files, side, path)
        aside = path / _ASIDE
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        try:
            _write(files, side, aside, title, cut or square)
            aside.rename(path / _COMPLETE)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        move_up(path)


def move_up(path: Path) -> None:
    """Move what is complete into place and remove the temporary folder. Does nothing if there is none."""
    complete = path / _COMPLETE
    if not complete.is_dir():
        return
    for file in sorted(complete.iterdir()):  # the names of the classes come first
        with contextlib.suppress(FileNotFoundError):  # another process moves them too
            file.rename(path / file.name)
    shutil.rmtree(complete, ignore_errors=True)


def decoded_classes(path: Path) -> tuple[str, ...]:
    """The names of the classes of decoded arrays, in the order of the labels; none for arrays of another origin."""
    try:
        return tuple((path / _CLASSES).read_text(**_TEXT).splitlines())
    except FileNotFoundError:
        return ()


def square(image: "Image", side: int) -> "Image":
    """The centre of an RGB image after resizing its shorter side to `side` pixels, bilinear with antialiasing.

    The same pixels as torchvision's Resize(side) and CenterCrop(side).
    """
    from PIL import Image

    short, (width, height) = min(image.size), image.size
    size = (int(side * width / short), int(side * height / short))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((length - side) / 2) for length in size)
    return image.crop((left, top, left + side, top + side))


def centre(image: "Image", side: int, inner: int) -> "Image":
    """The pixels of an RGB image around its centre, not resized, in a square that is padded with black.

    The innermost square of side `inner` is what torchvision's CenterCrop(inner) gives; `side - inner` is even.
    """
    margin = (side - inner) // 2
    left, top = (_start(length, inner) - margin for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _start(length: int, inner: int) -> int:
    """Where the crop begins; negative if the image is smaller."""
    return round((length - inner) / 2) if length > inner else -((inner - length) // 2)


@contextlib.contextmanager
def locked(path: Path, purpose: str) -> Iterator[None]:
    """Hold the lock of a folder for one purpose, waiting for others. Raises UserError if the folder is not writable."""
    lock = Lock(path / f".{purpose}.lock")
    try:
        lock.take(waits=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written to ({error.strerror}); make it writable") from error
    try:
        yield
    finally:
        lock.let_go()


def _check_space(files: Files, side: int, path: Path) -> None:
    # A memory-mapped file on a full disk kills the process.
    needed = 3 * side * side * sum(len(each) for classes in files.values() for each in classes.values())
    free = shutil.disk_usage(path).free
    if needed > free:
        raise UserError(f"the arrays in {path} need {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; make room")


def _write(files: Files, side: int, folder: Path, title: str, cut: Cut) -> None:
    (folder / _CLASSES).write_text("".join(f"{name}\n" for name in next(iter(files.values()))), **_TEXT)
    unreadable: list[str] = []
    for split, classes in files.items():
        labels = np.repeat(np.arange(len(classes)), [len(each) for each in classes.values()])
        np.save(folder / f"{split}_y.npy", labels)
        shape = (len(labels), side, side, 3)
        images = np.lib.format.open_memmap(folder / f"{split}_x.npy", mode="w+", dtype=np.uint8, shape=shape)
        listed = [file for each in classes.values() for file in each]
        damaged = _decode_all(listed, images, cut, f"{title}: decoding {len(listed)} {split} images once")
        unreadable += map(str, damaged)
        images.flush()
    if unreadable:
        raise UserError(f"{first_of(unreadable)} cannot be read as images; replace or remove them")


def _decode_all(files: list[Path], images: np.ndarray, cut: Cut, title: str) -> list[Path]:
    """Fill the array [N, side, side, 3]; returns the files that cannot be read. Pillow releases the GIL."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        print(title, file=sys.stderr, flush=True)
    threads = ThreadPoolExecutor(available_cores())
    try:
        results = threads.map(partial(_decode_one, cut), files, images)
        fine = list(track(results, title, len(files), console=console, disable=not console.is_terminal))
    finally:
        threads.shutdown(cancel_futures=True)
    return [file for file, is_fine in zip(files, fine, strict=True) if not is_fine]


def _decode_one(cut: Cut, file: Path, target: np.ndarray) -> bool:
    from PIL import Image

    try:
        with Image.open(file) as image:
            target[...] = np.asarray(cut(image.convert("RGB"), len(target)))
    except PermissionError:
        raise
    except Exception:  # a damaged image can fail in any way
        return False
    return True
