"""Images as files, in one folder per class."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.arrays import NON_SQUARE, Content, Dataset, Layout, content_of, count_images
from utils.errors import UserError

_TEST_FOLDERS = ("test", "val", "valid")  # the first that is there
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
_NUM_SHOWN = 3


class ImageFolder(Layout):
    """`<data root>/<folder>/{train,test}/<class>/*`, images of the dataset's size in any format that Pillow reads.

    `test` may be named `val` or `valid`. Class folders are labelled in the order of their names, by value if all of
    them are numbers; images come in the order of their names. Hidden files and folders, and files of operating systems
    (Thumbs.db), are ignored. Grey images and those that are not square (`--non_square`) are converted, and a note says
    so.
    """

    def find(self, data_root: Path, dataset: Dataset) -> Path | None:
        path = data_root / dataset.folder
        return path if any((path / split).is_dir() for split in ("train", *_TEST_FOLDERS)) else None

    def wanted(self, data_root: Path, dataset: Dataset) -> str:
        side = dataset.image_size or "S"
        return f"an image folder {data_root / dataset.folder}/{{train,test}}/<class>/* ({side}x{side} RGB images)"

    def inspect(self, path: Path, dataset: Dataset) -> str:
        num_train, num_test = (sum(map(len, classes)) for classes in self._files(path, dataset))
        return f"image folder {path}, {count_images(num_train, num_test, dataset)}"

    def sources(self, path: Path, dataset: Dataset) -> list[Path]:
        return [file for classes in self._files(path, dataset) for files in classes for file in files]

    def read(self, path: Path, dataset: Dataset) -> Content:
        arrays: list[np.ndarray] = []
        problems: list[str] = []
        converted: Counter[str] = Counter()
        crops = dataset.settings.get(NON_SQUARE.name) == "crop"
        for classes in self._files(path, dataset):
            images, found = _decode([file for files in classes for file in files], dataset.side, crops, converted)
            arrays += [images, np.repeat(np.arange(len(classes)), [len(files) for files in classes])]
            problems += found
        if problems:
            raise UserError(first_of(problems, "; "))
        origin = {f"{name}_{part}": str(folder) for name, folder in _splits(path).items() for part in "xy"}
        conversions = tuple(f"{what}: {number}" for what, number in converted.items())
        return content_of(arrays, origin, conversions)

    def _files(self, path: Path, dataset: Dataset) -> list[list[list[Path]]]:
        """For each split, for each class, its files."""
        if dataset.num_classes is None:
            raise UserError(f"class {type(dataset).__name__} sets `num_classes` to None; give their number")
        folders = _splits(path)
        names = {split: class_folders(folder) for split, folder in folders.items()}
        for split, other in (("train", "test"), ("test", "train")):
            only_here = sorted(set(names[split]) - set(names[other]))
            if only_here:
                raise UserError(f"{folders[other]} lacks the class folder {only_here[0]}, which {folders[split]} has")
        if len(names["train"]) != dataset.num_classes:
            missing = missing_names(names["train"], dataset)
            raise UserError(
                f"{path / 'train'} has {len(names['train'])} class folders; "
                f"{dataset.name} needs {dataset.num_classes}, one for each class"
                + (f"; missing: {first_of(missing)}" if missing else "")
            )
        return [[images_of(folder / name) for name in names[split]] for split, folder in folders.items()]


def _splits(path: Path) -> dict[str, Path]:
    """The folders of training and of test images."""
    test = next((path / name for name in _TEST_FOLDERS if (path / name).is_dir()), path / _TEST_FOLDERS[0])
    return {"train": path / "train", "test": test}


def class_folders(folder: Path) -> list[str]:
    """The names of its class folders, in the order of the labels. Raises UserError if it does not exist."""
    if not folder.is_dir():
        raise UserError(f"{folder} is missing; give it one folder per class")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_ignored(entry))
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def missing_names(names: Sequence[str], dataset: Dataset) -> list[str]:
    """The dataset's classes that are not among the names; none if most are, as the folder then has others."""
    missing = sorted(set(dataset.class_names) - set(names))
    return missing if 2 * len(missing) <= len(dataset.class_names) else []


def first_of(texts: Sequence[str], separator: str = ", ") -> str:
    """The first few, and how many more there are."""
    shown = separator.join(texts[:_NUM_SHOWN])
    return f"{shown} and {len(texts) - _NUM_SHOWN} more" if len(texts) > _NUM_SHOWN else shown


def images_of(folder: Path) -> list[Path]:
    """The files of a class, in the order of their names. Raises UserError if there are none."""
    files = sorted(entry for entry in folder.iterdir() if not _is_ignored(entry))
    if not files:
        raise UserError(f"{folder} holds no image; every class needs some")
    return files


def _is_ignored(entry: Path) -> bool:
    """Whether it is hidden or a file of an operating system, not data."""
    return entry.name.startswith(".") or entry.name.casefold() in _SYSTEM_FILES


def _decode(files: list[Path], side: int, crops: bool, converted: Counter[str]) -> tuple[np.ndarray, list[str]]:
    """Images [N, side, side, 3] uint8, and what is wrong with which files; counts what was converted."""
    images = np.empty((len(files), side, side, 3), dtype=np.uint8)
    problems = [(file, _read_into(images[row], file, crops, converted)) for row, file in enumerate(files)]
    return images, [f"{file} {problem}" for file, problem in problems if problem]


def _read_into(target: np.ndarray, file: Path, crops: bool, converted: Counter[str]) -> str | None:
    """Fill the array [side, side, 3], or return why that is not possible."""
    from PIL import Image

    side = len(target)
    try:
        with Image.open(file) as image:
            problem = _mismatch(image.size, image.mode, side, crops)
            if not problem:
                left, top = ((length - side) // 2 for length in image.size)
                target[...] = np.asarray(image.convert("RGB").crop((left, top, left + side, top + side)))
                converted.update(_conversions(image.size, image.mode))
    except PermissionError:
        raise
    except Exception:  # a damaged image can fail in any way
        return "cannot be read as an image; replace or remove it"
    return problem


def _mismatch(size: tuple[int, int], mode: str, side: int, crops: bool) -> str | None:
    if min(size) != side or (size != (side, side) and not crops):
        return f"is {size[0]}x{size[1]}; resize it to {side}x{side}"
    if mode not in ("RGB", "L"):
        return f"has mode {mode} (with transparency or a palette, for instance); convert it to RGB"
    return None


def _conversions(size: tuple[int, int], mode: str) -> list[str]:
    grey = ["grey images converted to RGB"] if mode == "L" else []
    return grey + (["images that are not square, cropped to their centre"] if size[0] != size[1] else [])
