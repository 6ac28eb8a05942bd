"""Images as files, in one folder per class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.arrays import Content, Dataset, Layout, count_images
from utils.errors import UserError

_SPLITS = ("train", "test")
_NUM_SHOWN = 3


class ImageFolder(Layout):
    """`<data root>/<folder>/{train,test}/<class>/*`, RGB images of the dataset's size in any format that Pillow reads.

    Class folders are labelled in the order of their names, by value if all of them are numbers; images come in the
    order of their names. Files and folders whose names begin with a dot are passed over.
    """

    def find(self, data_root: Path, dataset: Dataset) -> Path | None:
        place = data_root / dataset.folder
        return place if any((place / split).is_dir() for split in _SPLITS) else None

    def wanted(self, data_root: Path, dataset: Dataset) -> str:
        side = dataset.image_size
        return f"an image folder {data_root / dataset.folder}/{{train,test}}/<class>/* ({side}x{side} RGB images)"

    def inspect(self, place: Path, dataset: Dataset) -> str:
        counts = [sum(map(len, classes)) for classes in self._files(place, dataset)]
        return f"image folder {place}, {count_images(*counts, dataset)}"

    def read(self, place: Path, dataset: Dataset) -> Content:
        arrays, problems = [], []
        for classes in self._files(place, dataset):
            images, found = _decode([file for files in classes for file in files], dataset.image_size)
            arrays += [images, np.repeat(np.arange(len(classes)), [len(files) for files in classes])]
            problems += found
        if problems:
            raise UserError(first_of(problems, "; "))
        origin = {f"{split}_{part}": str(place / split) for split in _SPLITS for part in "xy"}
        return Content(*arrays, origin)

    def _files(self, place: Path, dataset: Dataset) -> list[list[list[Path]]]:
        """For each split, for each class, its files."""
        names = {split: class_folders(place / split) for split in _SPLITS}
        for split, other in (_SPLITS, _SPLITS[::-1]):
            only_here = sorted(set(names[split]) - set(names[other]))
            if only_here:
                raise UserError(f"{place / other} lacks the class folder {only_here[0]}, which {place / split} has")
        if len(names["train"]) != dataset.num_classes:
            missing = missing_names(names["train"], dataset)
            raise UserError(
                f"{place / 'train'} has {len(names['train'])} class folders; "
                f"{dataset.name} needs {dataset.num_classes}, one for each class"
                + (f", and there is none of {first_of(missing)}" if missing else "")
            )
        return [[images_of(place / split / name) for name in names[split]] for split in _SPLITS]


def class_folders(folder: Path) -> list[str]:
    """The names of its folders, in the order of the labels. Raises UserError if it is not there."""
    if not folder.is_dir():
        raise UserError(f"{folder} is missing; give it one folder per class")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def missing_names(names: Sequence[str], dataset: Dataset) -> list[str]:
    """The dataset's classes that are not among the names; none where most are not, as the names are then others."""
    missing = sorted(set(dataset.class_names) - set(names))
    return missing if 2 * len(missing) <= len(dataset.class_names) else []


def first_of(texts: Sequence[str], separator: str = ", ") -> str:
    """The first few, and how many more there are."""
    shown = separator.join(texts[:_NUM_SHOWN])
    return f"{shown} and {len(texts) - _NUM_SHOWN} more" if len(texts) > _NUM_SHOWN else shown


def images_of(folder: Path) -> list[Path]:
    """The files of a class, in the order of their names. Raises UserError if there are none."""
    files = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if not files:
        raise UserError(f"{folder} holds no image; every class needs some")
    return files


def _decode(files: list[Path], side: int) -> tuple[np.ndarray, list[str]]:
    """Images [N, side, side, 3] uint8, and what is wrong with which files."""
    images = np.empty((len(files), side, side, 3), dtype=np.uint8)
    problems = [(file, _read_into(images[row], file, side)) for row, file in enumerate(files)]
    return images, [f"{file} {problem}" for file, problem in problems if problem]


def _read_into(target: np.ndarray, file: Path, side: int) -> str | None:
    """Fill the array [side, side, 3], or say why it cannot be done."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            problem = _mismatch(image.size, image.mode, side)
            if not problem:
                target[...] = np.asarray(image)
    except PermissionError:
        raise
    except Exception:  # a damaged image can fail in any way
        return "cannot be read as an image; replace or remove it"
    return problem


def _mismatch(size: tuple[int, int], mode: str, side: int) -> str | None:
    if size != (side, side):
        return f"is {size[0]}x{size[1]}; resize it to {side}x{side}"
    if mode != "RGB":
        return f"has mode {mode} (grey, transparent or the like); convert it to RGB"
    return None
